"""Two runs into one folder: the second is refused, the first loses nothing, and a killed one neither lives on nor blocks."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from fault_inputs import CASES, copy_cases, scored, write_like
from worker_functions import is_running, until

from nnunet_ext.cli.main import main
from nnunet_ext.dataset_conversion.convert import convert
from nnunet_ext.folder_lock import LOCK, owned_file, owned_folder
from nnunet_ext.messages import in_english

HELPERS = Path(__file__).parents[1] / "helpers"
QUICK = {"n4": False, "clean_ct": False, "preview": False, "show_progress": False, "n_processes": 1}

#: The command `nnunet_ext`, whose workers stop before they move a case into the dataset.
STOPPING = """
import os, sys
from pathlib import Path
from worker_functions import wait_for_ever
from nnunet_ext.dataset_conversion import one_case
if __name__ != "__main__":
    one_case._move_case = lambda *_: wait_for_ever(Path(os.environ["STARTED"]))
else:
    from nnunet_ext.cli.main import command
    command()
"""


@pytest.fixture(scope="module")
def small_files(phantom_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantoms with every second voxel along each axis: who owns a case does not depend on its size."""
    root = tmp_path_factory.mktemp("small")
    for file in phantom_files.glob("*/*.nii.gz"):
        (root / file.parent.name).mkdir(exist_ok=True)
        sitk.WriteImage(sitk.Shrink(sitk.ReadImage(str(file)), (2, 2, 2)), str(root / file.parent.name / file.name))
    return root


def into(raw: Path, source: Path, **options):
    return convert(source, dataset_id=902, name="X", raw_folder=raw, **{**QUICK, **options})


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, the time of a page or record aside."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def commands(small_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[list[str], Path]]:
    """Verb -> arguments and the output of a command that would work, but for the models of `predict`."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    files, out = scored(small_files, tmp_path / "scored", 1), tmp_path / "out"
    case, predictions, references = small_files / CASES[0], files / "pred", files / "labelsTs"
    lines = {
        "convert": (["convert", small_files, "-d", 901, "-n", "X"], tmp_path / "raw" / "Dataset901_X"),
        "register": (["register", case / "CT.nii.gz", case / "T1.nii.gz", "-o", out], out),
        "evaluate": (["evaluate", predictions, references, "-o", out], out),
        "report": (["report", f"a={predictions}", "--references", references, "-o", out], out),
        "view": (["view", predictions, "-i", case, "-o", out / "page.html"], out / "page.html"),
        "predict": (["predict", "-d", 901, "-i", small_files, "-o", out], out),
        "part of predict": (
            ["predict", "-d", 901, "-i", small_files, "-o", out, "-num_parts", 2, "-part_id", 1],
            out,
        ),
        "phantom": (["phantom", out, "--cases", 1, "--size", "tiny"], out),
        "demo": (["demo", out], out),
        "benchmark train": (["benchmark", "train", "-o", out], out),
        "benchmark predict": (["benchmark", "predict", "-o", out], out),
    }
    return {verb: ([str(word) for word in words], where) for verb, (words, where) in lines.items()}


VERBS = ("convert", "register", "evaluate", "report", "view", "predict", "part of predict", "phantom", "demo",
         "benchmark train", "benchmark predict")  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_a_second_run_exits_1_and_names_host_process_and_start_of_the_first(verb: str, commands, capsys):
    command, out = commands[verb]
    owned = owned_file if out.suffix else owned_folder
    with owned(out):
        (out.parent / "of the first").touch()
        before = content(out.parent)
        assert main(command) == 1
        assert content(out.parent) == before
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(
        rf"another run works in {re.escape(str(out))}: process {os.getpid()} on host {re.escape(socket.gethostname())}, "
        r"started \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}; wait until it has ended, stop it, or choose another output$",
        line,
    ), line


@pytest.mark.parametrize("verb", ["convert", "evaluate", "report", "view", "predict", "register"])
def test_a_run_that_fails_leaves_neither_lock_nor_folder(verb: str, commands, capsys, tmp_path: Path):
    command, out = commands[verb]
    shutil.rmtree(tmp_path / "scored" / "pred")
    missing = [str(tmp_path / "none") if word in command[1:3] and Path(word).exists() else word for word in command]
    assert main(missing) == 1
    assert "error" in capsys.readouterr().err
    assert not out.exists()
    assert not list(tmp_path.rglob("*.lock"))


def test_a_dry_run_needs_no_folder_of_its_own(commands, capsys):
    command, out = commands["convert"]
    with owned_folder(out):
        assert main([*command, "--list"]) == 0


# -------------------------------------------------------------------------------------------- two sources


def test_two_sources_one_after_the_other_are_both_kept(small_files: Path, tmp_path: Path):
    for part, case in zip("ab", CASES, strict=True):
        dataset = into(tmp_path / "raw", copy_cases(small_files, tmp_path / part, [case])).dataset_folder
    assert sorted(file.name for file in (dataset / "labelsTr").iterdir()) == [f"{case}.nii.gz" for case in CASES]
    assert json.loads((dataset / "dataset.json").read_text())["numTraining"] == 2
    assert "<b>2</b> cases converted" in (dataset / "conversion.html").read_text()
    assert [path.name for path in dataset.iterdir() if path.name.startswith(".")] == []


@pytest.fixture
def two_hospitals(small_files: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two sources with a folder `patient_01` each, of different patients; and the dataset of the first."""
    for hospital, case in zip("ab", CASES, strict=True):
        shutil.copytree(small_files / case, tmp_path / hospital / "patient_01")
    return tmp_path / "a", tmp_path / "b", into(tmp_path / "raw", tmp_path / "a").dataset_folder


def test_another_patient_of_the_same_name_is_refused_and_the_first_is_kept(two_hospitals, tmp_path: Path):
    first, second, dataset = two_hospitals
    before = content(dataset)
    summary = into(tmp_path / "raw", second)
    assert re.search(
        r"holds a case 'patient_01' that was converted from other images in another folder; rename this case .*or delete "
        r"provenance/patient_01\.json there to replace the earlier one; its earlier conversion is kept$",
        summary.failed["patient_01"],
    ), summary.failed
    after = content(dataset)
    assert {k: v for k, v in after.items() if "." not in k.partition("/")[0]} == {
        k: v for k, v in before.items() if "." not in k.partition("/")[0]
    }
    assert json.loads(after["dataset.json"])["numTraining"] == 1
    assert "patient_01" in (dataset / "conversion.html").read_text()
    (dataset / "provenance" / "patient_01.json").unlink()  # as the message says
    assert into(tmp_path / "raw", second).written == ["patient_01"]
    assert "patient_01" in into(tmp_path / "raw", first).failed


@pytest.mark.parametrize("what", ["channel missing", "unreadable"])
def test_a_bad_case_of_another_source_takes_nothing_of_the_first_away(two_hospitals, tmp_path: Path, what: str):
    _, second, dataset = two_hospitals
    before = content(dataset / "imagesTr")
    file = second / "patient_01" / "T2.nii.gz"
    file.unlink() if what == "channel missing" else file.write_bytes(file.read_bytes()[:1000])
    assert "is kept" in into(tmp_path / "raw", second).failed["patient_01"]
    assert content(dataset / "imagesTr") == before


def test_other_labels_from_another_source_are_not_mixed_in(two_hospitals, tmp_path: Path):
    _, second, dataset = two_hospitals
    before = content(dataset)
    with pytest.raises(ValueError, match="holds case 'patient_01' with other channels or labels"):
        into(tmp_path / "raw", second, modalities=("CT", "T1"))
    assert content(dataset) == before


def test_a_corrected_file_is_converted_again_also_where_the_source_was_moved(two_hospitals, tmp_path: Path):
    first, _, dataset = two_hospitals
    for source in (first, tmp_path / "moved"):
        if source != first:
            first.rename(source)
        label = source / "patient_01" / "label.nii.gz"
        image = sitk.ReadImage(str(label))
        write_like(np.roll(sitk.GetArrayFromImage(image), 1, axis=0), image, label)
        summary = into(tmp_path / "raw", source)
        assert (summary.written, summary.failed) == (["patient_01"], {})
    assert into(tmp_path / "raw", source).skipped == ["patient_01"]
    assert str(tmp_path) not in (dataset / "provenance" / "patient_01.json").read_text()


def test_new_images_in_the_same_source_replace_the_old_with_a_warning(two_hospitals, tmp_path: Path):
    first, second, _ = two_hospitals
    shutil.rmtree(first / "patient_01")
    shutil.move(second / "patient_01", first / "patient_01")
    summary = into(tmp_path / "raw", first)
    assert summary.written == ["patient_01"]
    assert "all its images have changed since the earlier conversion" in " ".join(
        in_english(summary.warnings["patient_01"])
    )


def test_headers_and_masks_that_two_patients_share_make_them_no_one_patient(small_files: Path, tmp_path: Path):
    for hospital, case in zip("ab", CASES, strict=True):
        folder = tmp_path / hospital / "patient_01"
        (folder / "masks").mkdir(parents=True)
        images = [sitk.ReadImage(str(small_files / case / f"{name}.nii.gz")) for name in ("CT", "T1", "T2", "label")]
        grid = sitk.ReadImage(str(small_files / CASES[0] / "CT.nii.gz"))
        for name, image in zip(("CT", "T1", "T2"), images[:3], strict=True):
            sitk.WriteImage(
                sitk.Resample(image, grid, sitk.Transform(3, sitk.sitkIdentity)), str(folder / f"{name}.mhd")
            )
        organ = np.zeros(grid.GetSize()[::-1], np.uint8)
        organ[10:13, 20:23, 20:23] = 1
        write_like(organ, grid, folder / "masks" / "Eye_L.nii.gz")
    a, b = (content(tmp_path / hospital) for hospital in "ab")
    assert {name for name in a if a[name] == b[name]} >= {"patient_01/CT.mhd", "patient_01/masks/Eye_L.nii.gz"}
    assert into(tmp_path / "raw", tmp_path / "a", allow_non_hu=True).written == ["patient_01"]
    assert (
        "other images in another folder"
        in into(tmp_path / "raw", tmp_path / "b", allow_non_hu=True).failed["patient_01"]
    )


# ------------------------------------------------------------------------------- what was converted well before


def test_a_case_that_cannot_be_read_now_keeps_its_earlier_conversion(two_hospitals, tmp_path: Path, monkeypatch):
    from nnunet_ext.dataset_conversion import one_case

    first, _, dataset = two_hospitals
    before = content(dataset / "imagesTr") | content(dataset / "labelsTr")

    def away(path: Path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(one_case, "_sha256", away)
    assert into(tmp_path / "raw", first).failed["patient_01"].endswith("its earlier conversion is kept")
    assert content(dataset / "imagesTr") | content(dataset / "labelsTr") == before


def test_a_name_that_became_ambiguous_keeps_the_earlier_conversion(two_hospitals, tmp_path: Path):
    first, second, dataset = two_hospitals
    before = content(dataset / "imagesTr")
    shutil.move(second / "patient_01", first / "Patient_01")
    failed = into(tmp_path / "raw", first).failed
    assert failed["patient_01"].endswith("rename one; its earlier conversion is kept")
    assert content(dataset / "imagesTr") == before


def test_a_case_that_turned_bad_is_taken_out_and_the_message_says_so(two_hospitals, tmp_path: Path):
    first, _, dataset = two_hospitals
    (first / "patient_01" / "T2.nii.gz").unlink()
    assert into(tmp_path / "raw", first).failed["patient_01"].endswith("its earlier conversion was taken out")
    assert not dataset.exists()


# ------------------------------------------------------------------------------------------------ killed runs


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_killed_conversion_leaves_no_worker_and_the_same_command_finishes(
    small_files: Path, tmp_path: Path, number: int, capsys
):
    (tmp_path / "stopping.py").write_text(STOPPING)
    started = tmp_path / "started"
    started.mkdir()
    arguments = ["convert", str(small_files), "-d", "903", "-n", "X", "-np", "2"]
    arguments += ["--no-n4", "--no-clean", "--no-preview"]
    environment = {"nnUNet_raw": str(tmp_path / "raw"), "STARTED": str(started), "PYTHONPATH": str(HELPERS)}
    first = subprocess.Popen(
        [sys.executable, str(tmp_path / "stopping.py"), *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    dataset = tmp_path / "raw" / "Dataset903_X"
    with pytest.MonkeyPatch.context() as patch, first:
        until(lambda: first.poll() is not None or len(list(started.iterdir())) == 2)
        assert first.poll() is None, first.stderr.read()
        workers = [int(file.name) for file in started.iterdir()]
        assert all(map(is_running, workers))
        patch.setenv("nnUNet_raw", str(tmp_path / "raw"))
        assert main(arguments) == 1
        assert f"process {first.pid} on host" in capsys.readouterr().err
        first.send_signal(number)
        _, err = first.communicate(timeout=120)
        assert "Traceback" not in err
        until(lambda: not any(map(is_running, workers)))
        if number == signal.SIGTERM:
            assert first.returncode == 130
            assert not dataset.exists()
        else:
            assert (dataset / LOCK).is_file()
            assert (dataset / ".partial").is_dir()
        arguments[arguments.index("-np") + 1] = "1"
        assert main(arguments) == 0
    assert "2 written, 0 skipped (already there), 0 failed" in capsys.readouterr().out
    assert [path.name for path in dataset.iterdir() if path.name.startswith(".")] == []
    assert len(list((dataset / "imagesTr").iterdir())) == 6
