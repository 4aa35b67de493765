"""Damaged, foreign and misplaced files and arguments: one line that names the file, the value and what to do.

Everything runs in this process; about 20 s beside the phantoms.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fault_inputs import CASES, LABELS, copy_cases, edit, scored, slices

from nnunet_ext.cli.arguments import named_folder
from nnunet_ext.cli.main import main
from nnunet_ext.labels.organs import ORGANS

TABLE = "[labels]\n" + "".join(f'{organ} = ["{organ}"]\n' for organ in ORGANS)
DATASET_JSON = {"channel_names": {"0": "CT", "1": "T1", "2": "T2"}, "labels": LABELS, "file_ending": ".nii.gz"}


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path) -> Callable[..., str]:
    """`refused("evaluate", a, b)`: the one line of a command that fails, without the verb; nothing was a fault of ours."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / f"nnUNet_{name}"))
        (tmp_path / f"nnUNet_{name}").mkdir()

    def run(*command: object) -> str:
        code = main([str(word) for word in command])
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if line.startswith("nnunet_ext ")]
        assert code == 1, captured
        assert len(lines) == 1, captured
        assert "Traceback" not in captured.err
        assert "fault of nnunet_ext" not in captured.err
        return lines[0].partition(": error: ")[2]

    return run


@pytest.fixture(scope="module")
def predictions(phantom_files: Path, tmp_path_factory) -> Path:
    """`labelsTs`, `pred` and their `dataset.json`; read only."""
    return scored(phantom_files, tmp_path_factory.mktemp("scored") / "data", n_cases=1)


@pytest.fixture
def folder(predictions: Path, tmp_path: Path) -> Path:
    """A copy of `predictions` to spoil."""
    return Path(shutil.copytree(predictions, tmp_path / "data"))


def evaluation(folder: Path) -> list:
    return ["evaluate", folder / "pred", folder / "labelsTs", "-o", folder / "scores", "-np", "1"]


def holds(line: str, *parts: object) -> None:
    for part in parts:
        assert str(part) in line, f"{part!r} is not in: {line}"


# ------------------------------------------------------------------------------------------------ damaged files


def test_rtstruct_names_a_dataset_json_without_labels(refused, phantom_files, phantom_dicom, tmp_path: Path):
    label, series = phantom_files / CASES[0] / "label.nii.gz", phantom_dicom / CASES[0] / "CT"
    file = tmp_path / "dataset.json"
    command = ["rtstruct", label, series, "-o", tmp_path / "o.dcm", "--dataset-json", file]
    for text, said in (
        ("{}", "has no 'labels'"),
        ("[]", "it is []"),
        ('{"labels": [1]}', "labels is [1]"),
        ("", "is empty"),
    ):
        file.write_text(text)
        holds(refused(*command), file, said)
    file.unlink()
    holds(refused(*command), file, "does not exist")
    assert not (tmp_path / "o.dcm").exists()


def test_rtstruct_refuses_a_ct_without_its_class(refused, phantom_files, phantom_dicom, predictions, tmp_path: Path):
    series = copy_cases(phantom_dicom, tmp_path / "dicom") / CASES[0] / "CT"
    for file in slices(series):
        edit(file, lambda data: delattr(data, "SOPClassUID"))
    label, names = phantom_files / CASES[0] / "label.nii.gz", predictions / "dataset.json"
    line = refused("rtstruct", label, series, "-o", tmp_path / "o.dcm", "--dataset-json", names)
    holds(line, "the series has no SOPClassUID", "export it again")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "it is []"),
        ('{"cases": []}', "cases is []"),
        ('{"cases": {"case_000": {"box": [[0, 1], [2, 3]]}}}', "the box of case 'case_000' is [[0, 1], [2, 3]]"),
        ('{"cases": ', "it is cut off"),
        ("", "is empty"),
    ],
)
def test_evaluate_and_view_name_a_predictions_json_that_predict_did_not_write(refused, folder: Path, text, said):
    file = folder / "pred" / "predictions.json"
    file.write_text(text)
    holds(refused(*evaluation(folder)), file, said, "move it away")
    (folder / "imagesTs").mkdir()
    holds(refused("view", folder / "pred", "-i", folder / "imagesTs", "-o", folder / "p.html"), file, said)


@pytest.mark.parametrize("kind", ["json", "toml"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_of_another_editor_is_read(folder: Path, converter, phantom_files, tmp_path: Path, encoding, kind):
    if kind == "json":
        for place in (folder, folder / "pred"):
            (place / "dataset.json").write_bytes(json.dumps(DATASET_JSON).encode(encoding))
        assert main([str(word) for word in evaluation(folder)]) == 0
    else:
        (tmp_path / "organs.toml").write_bytes(TABLE.replace("\n", "\r\n").encode(encoding))
        done = converter(copy_cases(phantom_files, tmp_path / "src"), "--labels", tmp_path / "organs.toml", "--list")
        assert done.code == 0, done.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"labels": ', ["is damaged: it is cut off", "copy the one of the data set again"]),
        (
            json.dumps({"labels": {str(v): k for k, v in LABELS.items()}}).encode(),
            ["nnU-Net v1", "write name -> value"],
        ),
        (b'{"labels": {"Eye_L": "1"}}', ["the label 'Eye_L' has the value \"1\"", "without quotes"]),
        (b'{"labels": {"Eye_L": "\xe4"}}', ["is not UTF-8 text", "save it as UTF-8"]),
        (b"[]", ["it is []"]),
    ],
)
def test_evaluate_names_an_unusable_dataset_json(refused, folder: Path, content, said):
    for place in (folder, folder / "pred"):
        (place / "dataset.json").write_bytes(content)
    holds(refused(*evaluation(folder)), folder / "pred" / "dataset.json", *said)


@pytest.mark.parametrize(
    ("text", "said"), [("", "is empty"), ("[labels", "is not TOML"), ("[labels]\nEye_L = 1", "Eye_L = 1 is not a list")]
)
def test_convert_names_an_unusable_label_table(refused, phantom_files, tmp_path: Path, text, said):
    (tmp_path / "organs.toml").write_text(text)
    command = ["convert", phantom_files, "-d", 901, "-n", "X", "--labels", tmp_path / "organs.toml"]
    holds(refused(*command), "label table organs.toml", said)
    holds(refused(*command[:-1], tmp_path), f"label table {tmp_path.name} is a folder")


@pytest.mark.parametrize("content", [b"", b"a;b\n1;2\n", "case,péché\n".encode("latin-1"), b"case\ncase_001\n"])
def test_convert_names_an_unusable_key_file(refused, phantom_dicom, tmp_path: Path, content):
    (tmp_path / "my_key.csv").write_bytes(content)
    line = refused("convert", phantom_dicom, "-d", 901, "-n", "X", "--key", tmp_path / "my_key.csv", "--list")
    holds(line, "the key file my_key.csv", "put the original back")


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"per_case": []}', '{"per_case": {"a": {"Eye_L": {"dsc_percent": "x"}}}}']
)
def test_report_names_an_evaluation_that_is_none(refused, tmp_path: Path, text):
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "evaluation.json").write_text(text)
    line = refused("report", tmp_path / "scores", "-o", tmp_path / "report")
    holds(line, tmp_path / "scores" / "evaluation.json", "older version", "Run `nnunet_ext evaluate` again")


def test_evaluate_names_the_damaged_file_of_a_model(refused, folder: Path, tmp_path: Path):
    model = tmp_path / "nnUNet_results" / "Dataset901_X" / "CascadeOARTrainer__P__3d_lowres"
    shutil.copytree(folder / "pred", model / "fold_0" / "validation")
    shutil.copy(folder / "dataset.json", model)
    (model / "plans.json").write_text('{"configurations": {}}')
    summary = model / "fold_0" / "validation" / "summary.json"
    command = ["evaluate", model, folder / "labelsTs", "-o", folder / "scores", "-np", 1]
    summary.write_text("[]")
    holds(refused(*command), summary, "it is []", "repeat the validation")
    summary.write_text('{"metric_per_case": [{"prediction_file": "case_000.nii.gz"}]}')
    boxes = summary.with_name("label_crop_pass_rate.json")
    boxes.write_text('{"cases": {"case_000": {}}}')
    holds(refused(*command), boxes, "cases.case_000 has no 'label_crop_pass_rate'", "repeat the validation")
    boxes.unlink()
    (model / "plans.json").write_text("{")
    holds(refused(*command), model / "plans.json", "cut off", "copy the model's plans.json again")


def test_phantom_names_the_record_of_a_case_that_is_damaged(refused, tmp_path: Path):
    case = tmp_path / "out" / "phantom_000"
    case.mkdir(parents=True)
    (case / "phantom.json").write_text("[]")
    holds(refused("phantom", tmp_path / "out", "--cases", 1), case / "phantom.json", "it is []", f"delete {case}")


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


MODEL = "Dataset501_X/T__P__3d_lowres"


def damaged_stream(path: Path) -> None:
    zipped(path, {f"{MODEL}/plans.json": bytes(range(256)) * 40})
    content = bytearray(path.read_bytes())
    content[80:120] = b"\xff" * 40
    path.write_bytes(content)


def encrypted(path: Path) -> None:
    zipped(path, {f"{MODEL}/plans.json": b"{}"})
    content = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + at] |= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder; name the zip file"),
        (lambda path: path.write_bytes(b""), "is not a zip file, or cut off"),
        (lambda path: path.write_bytes(b"PK\x05\x06" + b"\xff" * 30), "is not a zip file, or cut off"),
        (damaged_stream, "is damaged"),
        (encrypted, "pack it without a password"),
        (lambda path: zipped(path, {"x.txt": b""}), "holds no model"),
        (lambda path: zipped(path, {"T__P__C/plans.json": b"{}"}), "holds no model"),
        (lambda path: zipped(path, {f"{MODEL}/plans.json": b"["}), "plans.json is damaged: it is cut off"),
        (lambda path: zipped(path, {".": b"", f"{MODEL}/plans.json": b"{}"}), "is not safe: '.'"),
        (lambda path: zipped(path, {f"{MODEL}/plans.json": b"{}", f"{MODEL}/plans.json/x": b""}), "is damaged"),
        (lambda path: zipped(path, {f"{MODEL}/plans.json": b"[]"}), "plans.json is not what it should be: it is []"),
        (lambda path: zipped(path, {f"{MODEL}/plans.json": b"{}", f"{MODEL}/dataset.json": b""}), "is empty"),
    ],
)
def test_install_names_an_archive_that_holds_no_whole_model(refused, tmp_path: Path, make, said):
    make(tmp_path / "model.zip")
    holds(refused("install", tmp_path / "model.zip"), tmp_path / "model.zip", said)
    assert not list((tmp_path / "nnUNet_results").iterdir())


# ------------------------------------------------------------------------------------------------ what was meant


def test_register_given_dicom_says_which_files_it_reads(refused, phantom_files, phantom_dicom, tmp_path: Path):
    ct, series = phantom_files / CASES[0] / "CT.nii.gz", phantom_dicom / CASES[0] / "T1"
    for fixed, moving in ((ct, series), (series, ct)):
        line = refused("register", fixed, moving, "-o", tmp_path / "o")
        holds(line, f"{series} is a folder", ".nii.gz", "convert --register")
    holds(refused("register", ct, slices(series)[0], "-o", tmp_path / "o"), ".dcm", "use one of .nii.gz")
    holds(refused("register", ct, tmp_path / "none.nii.gz", "-o", tmp_path / "o"), "none.nii.gz does not exist")
    holds(refused("register", ct, ct, "-o", ct), f"output {ct} is a file, where a folder is needed")


def test_rtstruct_given_one_slice_or_a_folder_to_write_says_what_it_wants(
    refused, phantom_files, phantom_dicom, predictions, tmp_path: Path
):
    label, series = phantom_files / CASES[0] / "label.nii.gz", phantom_dicom / CASES[0] / "CT"
    names = ["--dataset-json", predictions / "dataset.json"]
    line = refused("rtstruct", label, slices(series)[0], "-o", tmp_path / "o.dcm", *names)
    holds(line, slices(series)[0], "name the folder that holds all images of the series", series)
    line = refused("rtstruct", label, series, "-o", tmp_path, *names)
    holds(line, f"output {tmp_path} is a folder", "name the file to write in it", tmp_path / "label.dcm")
    holds(refused("rtstruct", label, tmp_path / "none", "-o", tmp_path / "o.dcm", *names), "none does not exist")
    holds(
        refused("rtstruct", label.parent, series, "-o", tmp_path / "o.dcm", *names),
        f"{CASES[0]} is a folder, not an image",
    )
    holds(refused("rtstruct", label, series, "-o", label / "o.dcm", *names), f"output {label} is a file")


def test_report_takes_a_folder_whose_name_holds_an_equals_sign(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("lr=0.1", "plain", "a=b=c", "b"):
        Path(name).mkdir()
    for text, expected in {
        "lr=0.1": ("lr=0.1", "lr=0.1"),
        f"{tmp_path}/lr=0.1": ("lr=0.1", f"{tmp_path}/lr=0.1"),
        "A=lr=0.1": ("A", "lr=0.1"),
        "lr=0.1=plain": ("lr=0.1", "plain"),
        "A=B=lr=0.1": ("A=B", "lr=0.1"),
        "A=plain": ("A", "plain"),
        "=plain": ("plain", "plain"),
        "a=b": ("a", "b"),
        "a=b=c": ("a=b=c", "a=b=c"),
        "x=nowhere": ("x", "nowhere"),
        "x=y=nowhere": ("x=y", "nowhere"),
        "nowhere": ("nowhere", "nowhere"),
    }.items():
        assert named_folder(text) == (expected[0], Path(expected[1])), text


def test_report_of_a_folder_with_an_equals_sign_is_written(folder: Path, tmp_path: Path):
    scores = tmp_path / "lr=0.1"
    assert main([str(word) for word in [*evaluation(folder)[:4], scores, "-np", "1"]]) == 0
    assert main(["report", str(scores), "-o", str(tmp_path / "report"), "-np", "1", "--viewer-limit-mb", "0"]) == 0
    assert "lr=0.1" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------ wrong arguments


def test_evaluate_and_report_name_a_wrong_argument(refused, folder: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    command = evaluation(folder)

    def evaluate(at: int, value: object, *more: object) -> str:
        return refused(*command[:at], value, *command[at + 1 :], *more)

    (tmp_path / "empty").mkdir()
    holds(evaluate(1, tmp_path / "none"), f"{tmp_path / 'none'} is not a folder: it does not exist")
    holds(evaluate(1, tmp_path / "file"), f"{tmp_path / 'file'} is not a folder: it is a file")
    holds(evaluate(2, tmp_path / "none"), f"{tmp_path / 'none'} is not a folder")
    holds(evaluate(2, tmp_path / "empty"), "No label map", tmp_path / "empty")
    holds(evaluate(4, tmp_path / "file"), f"output {tmp_path / 'file'} is a file, where a folder is needed")
    holds(refused(*command, "--tolerance-mm", "-1"), "-1", "0 mm or more")
    holds(refused(*command, "--tolerance-mm", "Ear_L=1"), "Ear_L", "the organs are Eye_L")
    holds(refused("evaluate", folder / "pred", "-o", tmp_path / "o"), "name the folder of the references too")
    assert main([str(word) for word in command]) == 0
    run = ["report", f"A={folder / 'scores'}", "-o", tmp_path / "report", "-np", 1]
    holds(refused(*run, "--cases", "nobody"), "case 'nobody' is not among the 1 cases", "case_000")
    holds(refused(*run, "--box-organ", "Ear"), "no experiment has an organ 'Ear'", "Eye_L")
    holds(refused(*run, "--models", tmp_path / "none"), f"model {tmp_path / 'none'} does not exist")
    holds(refused(*run, "--models", tmp_path / "empty"), tmp_path / "empty", "TRAINER__PLANS__CONFIGURATION")
    holds(refused(*run, "--images", tmp_path / "none"), "images folder", "does not exist")
    holds(
        refused("report", f"A={tmp_path / 'none'}", "-o", tmp_path / "r"), "run 'A'", "it does not exist", "NAME=FOLDER"
    )
    holds(refused(*run[:3], tmp_path / "file"), f"output {tmp_path / 'file'} is a file")
    view = ["view", folder / "pred", "-i", tmp_path / "none", "-o", tmp_path / "p.html"]
    holds(refused(*view), "images folder", "does not exist")
    holds(refused(*view[:3], tmp_path, "-o", tmp_path), f"output {tmp_path} is a folder", "predictions.html")


def test_convert_names_a_wrong_argument(refused, phantom_files, tmp_path: Path, monkeypatch):
    (tmp_path / "empty").mkdir()
    command = ["convert", phantom_files, "-d", 901, "-n", "X"]
    holds(refused(*command, "--window-hu", "240", "-160"), "window 240..-160 HU is empty", "lower end first")
    holds(refused(*command, "--window-hu", "nan", "1"), "window nan..1 HU")
    holds(refused(*command, "--test", "nobody"), "test case 'nobody'")
    holds(refused("convert", tmp_path / "empty", "-d", 901, "-n", "X"), tmp_path / "empty", "has no cases")
    holds(refused("convert", tmp_path / "none", "-d", 901, "-n", "X"), tmp_path / "none")
    holds(refused(*command[:3], 1000, *command[4:]), "dataset id 1000 is not within 1..999")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "file"))
    holds(refused(*command), f"output {tmp_path / 'file'} is a file, where a folder is needed")
    monkeypatch.delenv("nnUNet_raw")
    holds(refused(*command), "nnUNet_raw is not set", "export nnUNet_raw=")


def test_predict_names_a_wrong_argument(refused, phantom_files, tmp_path: Path, monkeypatch):
    results = tmp_path / "nnUNet_results"
    images = ["-i", phantom_files, "-o", tmp_path / "out"]
    (results / "Dataset007_Head" / "CascadeOARTrainer__CascadeOARPlansSmall__3d_lowres").mkdir(parents=True)
    model = next(results.glob("*/*"))
    (model / "plans.json").write_text("{}")
    holds(refused("predict", "-d", 8, *images), "no data set 8 among the models", "Dataset007_Head")
    holds(refused("predict", "-d", 7, *images), "CascadeOARTrainer__CascadeOARPlans__3d_cascade_fullres", "no such model",
          f"There is {model.name}", "-p")  # fmt: skip
    holds(
        refused("predict", "-m", tmp_path / "none", *images), f"{tmp_path / 'none'} does not exist, so it is no model"
    )
    holds(refused("predict", "-m", model.parent, *images), "it has no plans.json", model.name)
    holds(refused("predict", "-m", model, *images), "no checkpoint_final.pth for any fold", "no trained fold")
    (model / "fold_0").mkdir()
    (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"x")
    holds(refused("predict", "-m", model, *images, "-f", "3"), "for folds 3", "There is 0 (checkpoint_final.pth)", "-f")
    holds(
        refused("predict", "-m", model, *images, "-chk", "best.pth"), "no best.pth", "0 (checkpoint_final.pth)", "-chk"
    )
    holds(refused("predict", "-m", model, *images), model / "plans.json", "it has no 'plans_name'", "nnUNetv2_predict")
    holds(refused("predict", "-m", model, *images, "-num_parts", 2, "-part_id", 2), "part_id is 2", "0 to 1")
    holds(
        refused("predict", "-m", model, "-i", tmp_path / "none", "-o", tmp_path / "out"),
        "images folder",
        "does not exist",
    )
    holds(refused("predict", "-m", model, "-i", phantom_files, "-o", phantom_files), "is the folder of the images")
    (tmp_path / "file").write_text("")
    holds(refused("predict", "-m", model, "-i", phantom_files, "-o", tmp_path / "file"), "is a file, where a folder")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    holds(refused("predict", "-m", model, *images, "-device", "cuda"), "device 'cuda' is not there", "cpu can be used")
    (results / "Dataset007_Neck").mkdir()
    holds(refused("predict", "-d", 7, *images), "Dataset007_Head and Dataset007_Neck", "give the full name")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "file"))
    holds(refused("predict", "-d", 7, *images), "nnUNet_results names", "which is a file")
    monkeypatch.delenv("nnUNet_results")
    holds(refused("predict", "-d", 7, *images), "nnUNet_results is not set")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("convert s -d 1 -n X -np 0", "0 is not a whole number of 1 or more"),
        ("convert s -d x -n X", "x is not a whole number of 1 or more"),
        ("phantom o --cases 2 --seed -1", "-1 is not a whole number of 0 or more"),
        ("predict -d 1 -i i -o o -num_parts 2 -part_id -1", "-1 is not a whole number of 0 or more"),
        ("evaluate p r -o o --tolerance-mm a", "give one distance in mm"),
        ("report a -o o --viewer-limit-mb -1", "-1 is not a size in MB of 0 or more"),
        ("report a -o o --viewer-limit-mb nan", "nan is not a size in MB of 0 or more"),
        ("report A= -o o", "A= names no folder: NAME=FOLDER"),
    ],
)
def test_a_number_that_is_none_is_refused_with_its_value(capsys, command: str, said: str):
    with pytest.raises(SystemExit) as error:
        main(command.split())
    assert error.value.code == 2
    assert said in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ faults of ours


def kept(line: str) -> Path:
    """The file that a line says a traceback went to."""
    return Path(re.search(r"\S*nnunet_ext-error-\S+\.txt", line)[0])


def fail(*_args: object, **_more: object) -> Sequence:
    raise KeyError("Meier^Hans")


def test_a_case_that_our_own_mistake_stops_is_named_and_the_others_are_converted(
    converter, phantom_dicom, tmp_path: Path, monkeypatch
):
    from nnunet_ext.dataset_conversion import one_case

    real = one_case.prepare_channels
    calls = []
    monkeypatch.setattr(
        one_case, "prepare_channels", lambda *a, **k: real(*a, **k) if calls.append(1) or len(calls) > 1 else fail()
    )
    done = converter(copy_cases(phantom_dicom, tmp_path / "src", CASES))
    assert done.code == 1
    assert converter.files("labelsTr") == ["case_002.nii.gz"]
    (line,) = [line for line in done.err.splitlines() if "error: " in line]
    holds(line, "case 'case_001'", "this is a fault of nnunet_ext", "KeyError")
    assert "Meier" not in done.text
    file = kept(line)
    assert file.stat().st_mode & 0o777 == 0o600
    assert converter.dataset not in file.parents
    assert "Meier^Hans" in file.read_text()
    file.unlink()


def test_a_case_that_our_own_mistake_keeps_from_being_scored_is_named(folder: Path, capsys, monkeypatch):
    from nnunet_ext.evaluation import one_case as module

    monkeypatch.setattr(module, "score_organ", lambda *a, **k: fail())
    assert main([str(word) for word in evaluation(folder)]) == 1
    line = next(line for line in capsys.readouterr().err.splitlines() if "error: " in line)
    holds(line, "case 'case_000'", "this is a fault of nnunet_ext")
    kept(line).unlink()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(refused, folder: Path):
    (folder / "pred" / "dataset.json").chmod(0)
    holds(refused(*evaluation(folder)), folder / "pred" / "dataset.json", "change its permissions")
