import functools
import io
import json
import re
import shutil
import stat
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from fault_inputs import set_raw

from nnunet_ext.cases import dicom_cases
from nnunet_ext.cases import preparing as channels
from nnunet_ext.cases.dicom_cases import find_cases
from nnunet_ext.cases.key_file import read_key, write_key
from nnunet_ext.cli.main import main
from nnunet_ext.dataset_conversion.convert import convert
from nnunet_ext.dataset_conversion.listing import list_cases
from nnunet_ext.dicom.model import Series
from nnunet_ext.dicom.rtstruct_writer import write_contours
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.series_writer import Study, write_series
from nnunet_ext.dicom.tracing import trace_mask
from nnunet_ext.images.geometry import index_to_world, to_canonical
from nnunet_ext.images.reading import read_image
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.messages import in_english
from nnunet_ext.registration.options import RegistrationOptions

SHAPE, SPACING_MM = (24, 30, 36), (7.5, 6.6, 5.2)
NAME, ID, BIRTH = "Zhangsan^Wei", "MRN0042817", "19610327"
PERSONAL = ("zhangsan", "wei^", "mrn0042817", "0042817", "19610327", "20230115", "张三")
DRAWN = ("Eye_AL", "右眼球", "LENS-LT", "右晶体", "optic_nerve_left", "OpticNrv R", "视交叉")


def oblique(code: str = "LPS") -> sitk.Image:
    image = sitk.GetImageFromArray(np.zeros(SHAPE, dtype=np.int16))
    image.SetSpacing(SPACING_MM[::-1])
    transform = sitk.Euler3DTransform()
    transform.SetRotation(0.08, -0.1, 0.12)
    image.SetDirection(transform.GetMatrix())
    image.SetOrigin((-93.0, -98.0, 300.0))
    return image


def volumes(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPE, SPACING_MM, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    head = np.sqrt((z / 78) ** 2 + (y / 85) ** 2 + (x / 75) ** 2) < 1
    ct = np.where(head, 40, -1000) + rng.integers(-10, 10, SHAPE)
    t1 = np.where(head, 120, 2) + rng.integers(0, 10, SHAPE)
    label = np.zeros(SHAPE, dtype=np.uint8)
    for value, (k, j, i) in enumerate(
        [(12, 6, 24), (12, 6, 9), (12, 4, 24), (12, 4, 9), (12, 10, 22), (12, 10, 12), (12, 14, 17)], start=1
    ):
        label[k : k + 2, j : j + 2, i : i + 2] = value
    return {"CT": ct.astype(np.int16), "T1": t1.astype(np.int16), "T2": (260 - t1).astype(np.int16), "label": label}


def to_image(array: np.ndarray, code: str = "LPS") -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(oblique())
    return sitk.DICOMOrient(image, code)


def write_patient(
    root: Path, *, number: int = 1, code: str = "LPS", drawn=DRAWN, frames: str = "111", skip=(), tag: str = ""
) -> Path:
    """One patient's series in oddly named folders below `root`; files without suffix."""
    for path, content in patient(number, code, drawn, frames, skip, tag).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


@functools.cache
def patient(number: int, code: str, drawn: tuple, frames: str, skip: tuple, tag: str) -> dict[Path, bytes]:
    """The files of a patient, kept because making them takes as long as converting them."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        make_patient(root, number, code, drawn, frames, skip, tag)
        return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def make_patient(root: Path, number: int, code: str, drawn: tuple, frames: str, skip: tuple, tag: str) -> None:
    arrays = volumes(number)
    for n, (channel, description, headers) in enumerate(
        [
            ("CT", "Head 2.5", {}),
            ("T1", "ax t1 tse", {"EchoTime": 12, "RepetitionTime": 550}),
            ("T2", "T2_TSE_tra", {"EchoTime": 95, "RepetitionTime": 4200}),
        ]
    ):
        if channel in skip:
            continue
        study = Study(f"{ID}{number}{tag}", f"{NAME}{number}", study="ct" if channel == "CT" else "mr",
                      frame_of_reference=frames[n])  # fmt: skip
        more = {"PatientBirthDate": BIRTH, "StudyDate": "20230115", "AccessionNumber": "20230115", **headers}
        write_series(
            to_image(arrays[channel], code), root / f"{NAME}_{n}" / "DICOM", modality="CT" if channel == "CT" else "MR",
            study=study, number=n + 2, description=f"{description} {NAME.split('^')[0]}", headers=more, name="IM{:05d}",
        )  # fmt: skip
        if channel == "CT" and drawn:
            image = to_image(arrays["label"], code)
            label = sitk.GetArrayFromImage(image)
            organs = {name: trace_mask(label == value, image) for value, name in enumerate(drawn, start=1)}
            write_contours(
                {**organs, "BODY": []}, ct_series(root), root / "RS" / "plan", headers={"StudyDate": "20230115"}
            )


def run(source: Path, **options):
    options = {"dataset_id": 501, "name": "Heads", "n4": False, "clean_ct": False, "n_processes": 1, "preview": False,
               "show_progress": False, **options}  # fmt: skip
    return convert(source, raw_folder=source.parent / "raw", **options)


def ct_files(root: Path) -> list[Path]:
    return sorted((root / f"{NAME}_0" / "DICOM").iterdir())


def ct_series(root: Path) -> Series:
    (series,) = find_series(root / f"{NAME}_0").images
    return series


def edit(path: Path, change) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def assert_nothing_personal(*folders: Path, texts=()) -> None:
    for folder in folders:
        for path in folder.rglob("*"):
            assert not any(word in str(path.relative_to(folder)).lower() for word in PERSONAL), path
            if path.is_file():
                content = path.read_bytes().lower()
                assert not any(word.encode() in content for word in PERSONAL), path
    for text in texts:
        assert not any(word in text.lower() for word in PERSONAL), text
        assert "\n" not in text


# ------------------------------------------------------------------------------------------- what is written


@pytest.mark.parametrize("code", ["LPS", "PIR", "RSA"])
def test_a_tree_becomes_a_case_voxel_by_voxel(tmp_path: Path, code: str, caplog):
    write_patient(tmp_path / "src", code=code)
    summary = run(tmp_path / "src")
    assert (summary.written, summary.failed) == (["case_001"], {})
    given = volumes(1)
    for number, channel in enumerate(("CT", "T1", "T2")):
        image = read_image(summary.dataset_folder / "imagesTr" / f"case_001_{number:04d}.nii.gz")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), given[channel])
        np.testing.assert_allclose(index_to_world(image), index_to_world(to_canonical(oblique())), atol=1e-3)
    label = read_image(summary.dataset_folder / "labelsTr" / "case_001.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), given["label"])
    record = json.loads((summary.dataset_folder / "provenance" / "case_001.json").read_text())
    assert record["label_voxels"]["before"] == record["label_voxels"]["after"] == dict.fromkeys(ORGANS, 8)
    assert record["ignored_files"] == ["region BODY"]
    assert_nothing_personal(summary.dataset_folder, texts=[r.getMessage() for r in caplog.records])


def test_the_key_leads_back_to_the_patient_and_only_its_owner_reads_it(tmp_path: Path):
    write_patient(tmp_path / "src")
    summary = run(tmp_path / "src")
    key = tmp_path / "raw" / "Dataset501_Heads.key.csv"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    line = key.read_text(encoding="utf-8").splitlines()[1]
    assert line.startswith(f"case_001,{ID}1,{ID}1,{NAME}1,{BIRTH},")
    assert not list(summary.dataset_folder.rglob("*key*"))
    run(tmp_path / "src", key_file=tmp_path / "safe" / "key.csv", name="Other", dataset_id=502)
    assert (tmp_path / "safe" / "key.csv").exists()
    for folder in (summary.dataset_folder, tmp_path / "raw" / "Dataset777_Else" / "imagesTr"):
        with pytest.raises(ValueError, match="key file would lie inside Dataset"):
            run(tmp_path / "src", key_file=folder / "key.csv")


def test_numbers_stay_when_patients_are_added_and_only_they_are_converted(tmp_path: Path):
    write_patient(tmp_path / "src" / "p5", number=5)
    assert run(tmp_path / "src").written == ["case_001"]
    write_patient(tmp_path / "src" / "p1", number=1, drawn=())
    shutil.move(tmp_path / "src" / "p5", tmp_path / "src" / "elsewhere")
    summary = run(tmp_path / "src")
    assert (summary.written, summary.skipped) == (["case_002"], ["case_001"])
    assert (summary.dataset_folder / "imagesTs" / "case_002_0000.nii.gz").is_file()  # no RTSTRUCT
    (tmp_path / "raw" / "Dataset501_Heads.key.csv").unlink()
    with pytest.raises(ValueError, match=r"key file Dataset501_Heads\.key\.csv is gone"):
        run(tmp_path / "src")


def test_a_key_that_another_run_extends_meanwhile_never_means_two_patients(tmp_path: Path):
    write_patient(tmp_path / "a" / "src", number=1)
    write_patient(tmp_path / "b" / "src", number=2)
    key = tmp_path / "key.csv"
    ours = dicom_cases.find_cases(tmp_path / "a" / "src", modalities=("CT", "T1", "T2"), table=None, key_file=key)
    run(tmp_path / "b" / "src", key_file=key)
    before = key.read_bytes()
    with pytest.raises(
        ValueError, match=r"another run has changed the key file key\.csv meanwhile; run the same command"
    ):
        write_key(ours.key_rows, key)
    assert key.read_bytes() == before
    again = dicom_cases.find_cases(tmp_path / "a" / "src", modalities=("CT", "T1", "T2"), table=None, key_file=key)
    write_key(again.key_rows, key)
    (tmp_path / ".key.csv.4711").touch()  # of a run that was killed
    write_key(again.key_rows, key)  # as parts of one prediction do
    assert not list(tmp_path.glob(".key.csv*"))
    assert [row["case"] for row in read_key(key)] == ["case_001", "case_002"]


def test_a_later_study_in_another_source_replaces_nothing(tmp_path: Path):
    dataset = run(write_patient(tmp_path / "first")).dataset_folder
    before = {file.name: file.read_bytes() for file in dataset.rglob("*.nii.gz")}
    write_patient(tmp_path / "second")
    for path in ct_files(tmp_path / "second"):
        edit(path, lambda d: setattr(d, "PixelData", d.PixelData[::-1]))
    for folder in ("_1", "_2"):
        for path in (tmp_path / "second" / f"{NAME}{folder}" / "DICOM").iterdir():
            edit(path, lambda d: setattr(d, "SeriesNumber", 77))
    summary = run(tmp_path / "second")
    assert "convert both folders in one run" in summary.failed["case_001"]
    shutil.rmtree(tmp_path / "second" / f"{NAME}_1")  # and now a channel is missing, too
    failed = run(tmp_path / "second").failed["case_001"]
    assert "channel T1 is missing" in failed
    assert failed.endswith("its earlier conversion is kept")
    assert {file.name: file.read_bytes() for file in dataset.rglob("*.nii.gz")} == before
    assert_nothing_personal(dataset, texts=[*summary.failed.values(), failed])


def test_a_dry_run_says_what_maps_to_what_and_writes_nothing(tmp_path: Path, capsys, monkeypatch):
    write_patient(tmp_path / "src" / "p1", number=1, drawn=(*DRAWN[:2], "Brainstem"))
    write_patient(tmp_path / "src" / "p2", number=2, skip=("T2",))
    (tmp_path / "src" / "notes.txt").write_text("x")
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert main(["convert", str(tmp_path / "src"), "-d", "501", "-n", "Heads", "--list"]) == 1
    out = capsys.readouterr().out
    assert "case_001 -> imagesTr + labelsTr\n  CT <- series 2 'Head 2.5 ***' (CT, 24 images), modality CT\n" in out
    assert "  T1 <- series 3 'ax t1 tse ***' (MR, 24 images), named so, TE 12 ms, TR 550 ms\n" in out
    assert "  Eye_L <- Eye_AL (2 contours)\n  Eye_R <- 右眼球 (2 contours)\n  Lens_L is not in the RTSTRUCT\n" in out
    assert "left over: region Brainstem, region BODY" in out
    assert "case_002 -> nothing: channel T2 is missing" in out
    assert "1 files that are not DICOM" in out
    assert "2 cases (dicom): 1 to convert, 1 not" in out
    assert_nothing_personal(texts=out.splitlines())
    assert not list(tmp_path.rglob("*.csv"))


def test_a_console_without_chinese_letters_shows_the_dry_run(tmp_path: Path, monkeypatch):
    write_patient(tmp_path / "src", drawn=("右眼球",))
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", console)
    assert main(["convert", str(tmp_path / "src"), "-d", "501", "-n", "Heads", "--list"]) == 0
    console.flush()
    assert b"  Eye_R <- \\u53f3\\u773c\\u7403 (2 contours)\n" in console.buffer.getvalue()


def test_the_command_line_shows_and_logs_nothing_personal(tmp_path: Path, capfd, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    write_patient(tmp_path / "src" / "p1")
    write_patient(tmp_path / "src" / "p2", number=2)
    spoilt = ct_files(tmp_path / "src" / "p2")[3]
    spoilt.write_bytes(spoilt.read_bytes()[:-500])
    argv = ["convert", str(tmp_path / "src"), "-d", "501", "-n", "H", "--no-n4", "--no-clean", "-np", "1", "--debug"]
    assert main(argv) == 1
    shown = capfd.readouterr()
    assert "case 'case_002': CT, series 2 'Head 2.5 ***' (CT, 24 images): the pixels of one of its files" in shown.err
    text = (shown.out + shown.err).lower()
    assert not any(word in text.replace(str(tmp_path).lower(), "") for word in PERSONAL)


def test_other_frames_of_reference_are_said(tmp_path: Path):
    write_patient(tmp_path / "src", frames="122")
    lines = in_english(run(tmp_path / "src").warnings["case_001"])
    assert sum("has another frame of reference than the CT" in line for line in lines) == 2


def test_anterior_and_posterior_parts_are_united_and_empty_regions_said(tmp_path: Path):
    root = write_patient(tmp_path / "src", drawn=())
    image = to_image(volumes(1)["label"])
    label = sitk.GetArrayFromImage(image)
    front = label == 1
    front[:, 7:] = False
    organs = {"Eye_AL": front, "Eye_PL": (label == 1) & ~front, "Lens_R": label == 4, "Chiasm": label > 9}
    write_contours({name: trace_mask(mask, image) for name, mask in organs.items()}, ct_series(root), root / "RS")
    summary = run(tmp_path / "src")
    result = sitk.GetArrayFromImage(read_image(summary.dataset_folder / "labelsTr" / "case_001.nii.gz"))
    np.testing.assert_array_equal(result, np.where(np.isin(label, (1, 4)), label, 0))
    assert "OpticChiasm: its region in the RTSTRUCT is empty, no contour is drawn" in in_english(
        summary.warnings["case_001"]
    )


def test_two_studies_of_one_patient_are_two_cases_that_belong_together(tmp_path: Path):
    write_patient(tmp_path / "src" / "a", frames="111")
    arrays = volumes(7)
    study = Study(f"{ID}1", f"{NAME}1", study="later", frame_of_reference="9")
    for n, (channel, name) in enumerate([("CT", "Head"), ("T1", "t1"), ("T2", "t2")]):
        write_series(to_image(arrays[channel]), tmp_path / "src" / "b" / str(n), modality="CT" if n == 0 else "MR",
                     study=study, number=n + 20, description=name, headers={"PatientBirthDate": BIRTH})  # fmt: skip
    summary = run(tmp_path / "src")
    assert summary.written == ["case_001", "case_002"]
    assert "is the same patient as case_002: keep them in one fold" in in_english(summary.warnings["case_001"])


# ------------------------------------------------------------------------------------------- which series


def second_t1(root: Path, description: str = "t1 tse +C", number: int = 8, **headers) -> None:
    study = Study(f"{ID}1", f"{NAME}1", study="mr", frame_of_reference="1")
    headers = {"EchoTime": 10, "RepetitionTime": 600, **headers}
    write_series(to_image(volumes(9)["T1"]), root / "more", modality="MR", study=study, number=number,
                 description=description, headers=headers)  # fmt: skip


def test_two_candidates_fail_and_name_both_and_the_series_file(tmp_path: Path):
    second_t1(write_patient(tmp_path / "src"))
    reason = run(tmp_path / "src").failed["case_001"]
    assert reason == (
        "channel T1 has 2 series, series 3 'ax t1 tse ***' (MR, 24 images) and series 8 't1 tse +C' (MR, 24 images), "
        "contrast-enhanced; say which in a file for --series: [case_001] T1 = NUMBER, or its SeriesInstanceUID"
    )


@pytest.mark.parametrize(
    ("patient_id", "name"), [("T1", "Series^Case"), ("001", "The^No"), ("2019", "CT^Number"), ("case_001", "File^Li")]
)
def test_a_remedy_stays_whole_whatever_the_patient_is_called(tmp_path: Path, patient_id: str, name: str):
    second_t1(write_patient(tmp_path / "src"))
    for path in (tmp_path / "src").rglob("*"):
        if path.is_file():
            edit(
                path, lambda dataset: (setattr(dataset, "PatientID", patient_id), setattr(dataset, "PatientName", name))
            )
    reason = run(tmp_path / "src").failed["case_001"]
    assert reason.startswith("channel T1 has 2 series, series 3 '")
    assert "; say which in a file for --series: [case_001] T1 = NUMBER, or its SeriesInstanceUID" in reason


def test_an_original_goes_before_what_was_computed_from_it(tmp_path: Path):
    second_t1(write_patient(tmp_path / "src"), "t1 MPR", ImageType=["DERIVED", "SECONDARY", "MPR"])
    (line,) = (line for line in in_english(run(tmp_path / "src").warnings["case_001"]) if "plausible" not in line)
    assert line.startswith(
        "T1 is series 3 'ax t1 tse ***' (MR, 24 images), because the other was computed from images; not "
    )


@pytest.mark.parametrize(
    "text",
    ["[case_001]\nT1 = 8\n", '[series]\nT1 = ["t1 tse*c"]\nignore = ["ax t1*"]\n', '[case_001]\nT1 = "T1_TSE C"\n'],
)
def test_the_series_file_overrules(tmp_path: Path, text: str):
    second_t1(write_patient(tmp_path / "src"))
    (tmp_path / "series.toml").write_text(text)
    summary = run(tmp_path / "src", series_file=tmp_path / "series.toml")
    assert summary.failed == {}
    image = read_image(summary.dataset_folder / "imagesTr" / "case_001_0001.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volumes(9)["T1"])
    assert "T1 is contrast-enhanced" in in_english(summary.warnings["case_001"])


def test_a_series_number_that_ct_and_mr_share_names_the_mr(tmp_path: Path):
    second_t1(write_patient(tmp_path / "src"), number=2)  # the CT's number
    (tmp_path / "series.toml").write_text("[case_001]\nT1 = 2\n")
    summary = run(tmp_path / "src", series_file=tmp_path / "series.toml")
    assert (summary.written, summary.failed) == (["case_001"], {})
    image = read_image(summary.dataset_folder / "imagesTr" / "case_001_0001.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volumes(9)["T1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[case_001]\nT9 = 8\n", None),
        ("[case_777]\nT1 = 8\n", "there is no case_777"),
        ("T1 = 8\n", "is not a section"),
        ("[series]\nT1 = 1.5\n", "needs names or numbers"),
        ("[series", "is not TOML"),
    ],
)
def test_a_wrong_series_file_is_named(tmp_path: Path, text: str, message: str | None):
    write_patient(tmp_path / "src")
    (tmp_path / "series.toml").write_text(text)
    if message is None:
        reason = run(tmp_path / "src", series_file=tmp_path / "series.toml").failed["case_001"]
        assert "gives it a channel T9" in reason
        return
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "src", series_file=tmp_path / "series.toml")


# ------------------------------------------------------------------------------ several volumes in one series


@pytest.fixture(scope="module")
def echoes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patient whose T1 is an MEMPRAGE of four echoes, 1.69 to 7.27 ms, in one series; read only."""
    root = write_patient(tmp_path_factory.mktemp("echoes") / "src", skip=("T1",), drawn=())
    mean, study = volumes(1)["T1"], Study(f"{ID}1", f"{NAME}1", study="mr", frame_of_reference="1")
    for k in range(4):
        headers = {"EchoTime": 1.69 + 1.86 * k, "RepetitionTime": 2530, "InversionTime": 1100, "EchoNumbers": k + 1,
                   "ScanningSequence": ["GR", "IR"], "PatientBirthDate": BIRTH}  # fmt: skip
        for path in write_series(to_image(mean + k), root / f"echo {k}", modality="MR", study=study, number=7,
                                 description=f"MEMPRAGE T1 {NAME.split('^')[0]}", headers=headers):  # fmt: skip
            edit(path, lambda d, k=k: setattr(d, "SOPInstanceUID", f"{d.SOPInstanceUID[:-3]}.{k}"))
    return root


def found(root: Path, rules: str = "", folder: Path | None = None):
    """The cases of a tree under a series file; nothing is converted."""
    file = None
    if rules:
        file = folder / "series.toml"
        file.write_text(rules, encoding="utf-8")
    return find_cases(root, modalities=("CT", "T1", "T2"), table=None, series_file=file, show_progress=False)


def test_echoes_that_nothing_chooses_are_named_with_what_chooses_one(echoes: Path):
    reason = found(echoes).failed["case_001"]
    assert reason.startswith(
        "channel T1 has 4 series, series 7 'MEMPRAGE T1 ***', echo 1 (MR, TE 1.69 ms, 24 images) and "
    )
    assert reason.endswith('say which in a file for --series: [case_001] T1 = "7, echo 1"')
    assert_nothing_personal(texts=[reason])


@pytest.mark.parametrize("section", ["series", "case_001"])
@pytest.mark.parametrize(
    "choice",
    [
        "7, echo 2",
        "7 echo 2",
        "7:echo 2",
        "7; Echo=2",
        "series 7, echo #02",
        "MEMPRAGE*, echo 2",
        "UID, echo 2",
        "*T1*,echo2",
    ],
)
def test_the_series_file_chooses_an_echo(echoes: Path, tmp_path: Path, section: str, choice: str):
    uid = next(one.uid for one in find_series(echoes).images if one.number == 7)
    result = found(echoes, f'[{section}]\nT1 = "{choice.replace("UID", uid)}"\n', tmp_path)
    assert result.failed == {}
    (case,) = result.cases
    assert case.series["T1"].part == ("echo 2",)
    values = sitk.GetArrayFromImage(case.read_images().images["T1"])
    np.testing.assert_array_equal(values, volumes(1)["T1"] + 1)
    assert "echo 1 (MR, TE 1.69 ms, 24 images): the series file chooses another part of it" in " ".join(case.ignored)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            'T1 = "7, echo 9"',
            r'series file says T1 = "7, echo 9", which is none of its series: .*echo 4 \(MR, TE 7.27 ms',
        ),
        ("T1 = 8", "series file says T1 = 8, which is none of its series"),
        ("T1 = 2", "series file says T1 = 2, which is none of its series"),  # the CT
        ("T1 = 7", "channel T1 has 4 series"),
        ('T1 = "MEMPRAGE*"', "channel T1 has 4 series"),
        ('T1 = ["7, echo 1", "7, echo 2"]', "channel T1 has 2 series"),
    ],
)
def test_a_choice_of_no_echo_or_of_several_is_said(echoes: Path, tmp_path: Path, line: str, message: str):
    assert re.search(message, found(echoes, f"[case_001]\n{line}\n", tmp_path).failed["case_001"])


def test_a_description_that_ends_like_a_part_is_a_description(tmp_path: Path):
    second_t1(write_patient(tmp_path / "src", drawn=()), "T1 gre, echo 1")
    result = found(tmp_path / "src", '[case_001]\nT1 = "t1 gre, echo 1"\n', tmp_path)
    assert (result.failed, result.cases[0].series["T1"].number) == ({}, 8)


def test_the_mean_of_the_echoes_goes_before_each_of_them(tmp_path: Path, echoes: Path):
    root = Path(shutil.copytree(echoes, tmp_path / "src"))
    second_t1(root, "MEMPRAGE T1 RMS", ImageType=["DERIVED", "PRIMARY", "OTHER", "MEAN"])
    (case,) = found(root).cases
    assert case.series["T1"].number == 8
    assert any("because the other is one of the echoes it combines" in note for note in in_english(case.notes))


def test_a_part_of_a_series_that_is_no_channel_can_be_chosen(echoes: Path, tmp_path: Path):
    root = Path(shutil.copytree(echoes, tmp_path / "src"))
    for path in root.glob("echo*/*"):
        edit(path, lambda d: setattr(d, "SeriesDescription", "R2* source"))
    reason = found(root).failed["case_001"]
    assert "series 7 'R2* source' (MR, 96 images): its name says a special sequence (computed map)" in reason
    reason = found(root, "[case_001]\nT1 = 7\n", tmp_path).failed["case_001"]
    assert 'it holds 4 volumes under one UID; it can be "7, echo 1" (TE 1.69 ms, 24 images) and ' in reason
    assert reason.endswith('[case_001] T1 = "7, echo 1"')
    (case,) = found(root, '[case_001]\nT1 = "7, echo 3"\n', tmp_path).cases
    assert case.series["T1"].part_note == "TE 5.41 ms"


@pytest.mark.parametrize("apart", [0.0, 0.5])
def test_an_rtstruct_chooses_the_acquisition_that_it_was_drawn_on(tmp_path: Path, apart: float):
    root = write_patient(tmp_path / "src")
    step = np.subtract(
        *(np.array(pydicom.dcmread(ct_files(root)[k]).ImagePositionPatient, dtype=float) for k in (1, 0))
    )
    for path in ct_files(root):
        again = pydicom.dcmread(path)
        edit(path, lambda d: setattr(d, "AcquisitionNumber", 1))
        again.AcquisitionNumber, again.SOPInstanceUID = 2, f"{again.SOPInstanceUID[:-3]}.2"
        again.ImagePositionPatient = [
            float(v) for v in np.array(again.ImagePositionPatient, dtype=float) + apart * step
        ]
        again.save_as(path.with_name(f"{path.name}b"))
    (line,) = (line for line in list_cases(root).lines if line.startswith("  CT <- "))
    assert line == "  CT <- series 2 'Head 2.5 ***', acquisition 1 (CT, 24 images), modality CT"
    rtstruct(root).unlink()
    reason = found(root).failed["case_001"]
    assert "channel CT has 2 series, series 2 'Head 2.5 ***', acquisition 1 (CT, 24 images) and series 2" in reason
    assert reason.endswith('[case_001] CT = "2, acquisition 1"')
    (case,) = found(root, '[case_001]\nCT = "2, acquisition 2"\n', tmp_path).cases
    assert case.series["CT"].part == ("acquisition 2",)


def test_images_that_only_their_numbers_tell_apart_can_be_chosen(tmp_path: Path):
    root = write_patient(tmp_path / "src", drawn=())
    for path in ct_files(root):
        again = pydicom.dcmread(path)
        again.InstanceNumber, again.SOPInstanceUID = again.InstanceNumber + 24, f"{again.SOPInstanceUID[:-3]}.2"
        again.RescaleIntercept = -1025
        again.save_as(path.with_name(f"{path.name}b"))
    reason = found(root).failed["case_001"]
    assert "2 different images at one position" in reason
    assert 'it can be "2, part 1" (images 1 to 24, 24 images) and "2, part 2" (images 25 to 48, 24 images)' in reason
    (case,) = found(root, '[case_001]\nCT = "2, part 2"\n', tmp_path).cases
    np.testing.assert_array_equal(sitk.GetArrayFromImage(case.read_images().images["CT"]), volumes(1)["CT"] - 1)


# ------------------------------------------------------------------------------------------- bad input


def each(files, change) -> None:
    for path in files:
        edit(path, change)


def rtstruct(root: Path) -> Path:
    return root / "RS" / "plan"


def other_patient(dataset) -> None:
    dataset.PatientID = "Somebody"


def other_frame(dataset) -> None:
    dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.2.3"
    for roi in dataset.StructureSetROISequence:
        roi.ReferencedFrameOfReferenceUID = "1.2.3"


def other_images(dataset) -> None:
    dataset.ROIContourSequence[0].ContourSequence[0].ContourImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def no_contours(dataset) -> None:
    for roi in dataset.ROIContourSequence:
        roi.ContourSequence = []


def stray_rtstruct(root: Path) -> None:
    def change(dataset) -> None:
        other_patient(dataset)
        other_frame(dataset)
        dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence = []
        for roi in dataset.ROIContourSequence:
            for contour in roi.get("ContourSequence") or ():
                contour.ContourImageSequence = []

    edit(rtstruct(root), change)


def twice(dataset) -> None:
    dataset.StructureSetROISequence[1].ROIName = "eye al"


def one_in_another_frame(dataset) -> None:
    dataset.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.3"


def malformed(dataset) -> None:
    set_raw(dataset.ROIContourSequence[0].ContourSequence[1], "ContourData", b"1\\2,5\\3")


def cut_off(root: Path) -> None:
    rtstruct(root).write_bytes(rtstruct(root).read_bytes()[:-2500])


def cut_off_within_a_sequence(root: Path) -> None:
    def change(dataset) -> None:
        dataset["ROIContourSequence"].is_undefined_length = True
        del dataset.RTROIObservationsSequence

    edit(rtstruct(root), change)
    rtstruct(root).write_bytes(rtstruct(root).read_bytes()[:-1500])


def without_images(dataset) -> None:
    """Contours that do not say which images they were drawn on."""
    for roi in dataset.ROIContourSequence:
        for contour in roi.get("ContourSequence", ()):
            del contour.ContourImageSequence


def listing(dataset, series_uids, *, keep: int = 0) -> None:
    """The series that the file refers to, with the first images of the CT; `CT` is the CT's own."""
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    (ct,) = study.RTReferencedSeriesSequence
    ct.ContourImageSequence = ct.ContourImageSequence[:keep]
    study.RTReferencedSeriesSequence = [deepcopy(ct) for _ in series_uids]
    for series, uid in zip(study.RTReferencedSeriesSequence, series_uids, strict=True):
        series.SeriesInstanceUID = ct.SeriesInstanceUID if uid == "CT" else uid


def no_frames(dataset) -> None:
    del dataset.ReferencedFrameOfReferenceSequence
    for roi in dataset.StructureSetROISequence:
        roi.ReferencedFrameOfReferenceUID = None


def enhanced(dataset) -> None:
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    dataset.NumberOfFrames = 1


BAD = {
    "missing slice": (lambda r: ct_files(r)[9].unlink(), r"CT, series 2 .*: slices are missing: 15 mm between images"),
    "enhanced": (lambda r: [p.unlink() for p in ct_files(r)[1:]] + [edit(ct_files(r)[0], enhanced)],
                 "enhanced CT multi-frame object whose frames do not say where they lie"),
    "MR as CT": (lambda r: each(ct_files(r), lambda d: setattr(d, "EchoTime", 12)),
                 "modality says CT but it has an MR's header"),
    "metres": (lambda r: each(ct_files(r), lambda d: setattr(d, "PixelSpacing", [0.0052, 0.0066])), "it is in metres"),
    "two images at one position": (
        lambda r: edit(ct_files(r)[5], lambda d: setattr(d, "ImagePositionPatient",
                                                       pydicom.dcmread(ct_files(r)[6]).ImagePositionPatient)),
        "2 different images at one position"),
    "no T2": (lambda r: shutil.rmtree(r / f"{NAME}_2"), "channel T2 is missing: no series is recognised"),
    "T2 that is FLAIR": (
        lambda r: each((r / f"{NAME}_2" / "DICOM").iterdir(), lambda d: setattr(d, "SeriesDescription", "t2 flair")),
        "left over: series 4 't2 flair' .*its name says T2 and a special sequence"),
    "not HU": (lambda r: each(ct_files(r), lambda d: setattr(d, "RescaleIntercept", 0)), "CT is not in HU"),
    "RTSTRUCT of another patient": (lambda r: edit(rtstruct(r), other_patient), "refused: its patient is not the CT's"),
    "stray RTSTRUCT": (stray_rtstruct, "the RTSTRUCT beside its images is of another patient"),
    "RTSTRUCT in another frame": (lambda r: edit(rtstruct(r), other_frame), "refused: its frame of reference"),
    "RTSTRUCT on other images": (lambda r: edit(rtstruct(r), other_images),
                            "Eye_L: 1 of its 2 contours are drawn on images that are not in the CT; export the CT"),
    "empty RTSTRUCT": (lambda r: edit(rtstruct(r), no_contours), "the RTSTRUCT is empty"),
    "damaged RTSTRUCT": (lambda r: edit(rtstruct(r), lambda d: delattr(d, "StructureSetROISequence")), "no list of regions"),
    "unknown regions": (
        lambda r: edit(rtstruct(r), lambda d: [setattr(i, "ROIName", "GTV") for i in d.StructureSetROISequence]),
        "none of the regions GTV, .* is in the label table"),
    "organ drawn twice": (lambda r: edit(rtstruct(r), twice), "Eye_L is drawn twice, as Eye_AL and eye al; delete or"),
    "region in another frame": (
        lambda r: edit(rtstruct(r), one_in_another_frame), "some of its regions are drawn in another frame of reference"),
    "RTSTRUCT without numbers": (
        lambda r: edit(rtstruct(r), lambda d: setattr(d.ROIContourSequence[0], "ReferencedROINumber", None)),
        r"^Eye_L: its region Eye_AL in the RTSTRUCT has no contour, and the RTSTRUCT has a region without a number; export "
        "it again$"),
    "two birth dates": (
        lambda r: each((r / f"{NAME}_2" / "DICOM").iterdir(), lambda d: setattr(d, "PatientBirthDate", "19500101")),
        "one patient ID and different birth dates"),
    "RTSTRUCT that is cut off": (cut_off, "is refused: the RTSTRUCT is cut off; export it again$"),
    "cut off, of undefined length": (cut_off_within_a_sequence, "is refused: the RTSTRUCT cannot be read"),
    "organ with a malformed contour": (
        lambda r: edit(rtstruct(r), malformed),
        r"^Eye_L: its region Eye_AL in the RTSTRUCT cannot be used: contour 2 of 2 has points that are not x, y, z "),
    "organ under two names": (
        lambda r: edit(rtstruct(r), lambda d: setattr(d.StructureSetROISequence[1], "ROIName", "eye ant. left")),
        "^Eye_L is drawn twice, as Eye_AL and eye ant. left; delete or rename one of them"),
    "RTSTRUCT on other series, without images": (
        lambda r: edit(rtstruct(r), lambda d: [without_images(d), listing(d, ["1.2.3"])]),
        "the series it refers to is not the CT"),
    "RTSTRUCT that refers to nothing": (
        lambda r: edit(rtstruct(r), lambda d: [without_images(d), no_frames(d)]), "nothing ties it to the CT; export both"),
    "two RTSTRUCTs": (
        lambda r: [shutil.copy(rtstruct(r), r / "again"), edit(r / "again", lambda d: setattr(d, "SOPInstanceUID", "1.9"))],
        "2 RTSTRUCTs belong to the CT"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_case_is_one_line_without_names_while_the_others_finish(tmp_path: Path, kind: str, caplog):
    damage, message = BAD[kind]
    write_patient(tmp_path / "src" / "good")
    damage(write_patient(tmp_path / "src" / "spoilt", number=2))
    summary = run(tmp_path / "src")
    assert summary.written == ["case_001"]
    assert list(summary.failed) == ["case_002"]
    reason = summary.failed["case_002"]
    assert re.search(message, reason), reason
    assert_nothing_personal(summary.dataset_folder, texts=[reason, *(r.getMessage() for r in caplog.records)])
    assert not list(summary.dataset_folder.rglob("case_002*"))


def no_lists(dataset) -> None:
    dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence = []


def stray_region(dataset, change) -> None:
    """The last region, which is no organ, with contours of the first, changed."""
    dataset.ROIContourSequence[-1].ContourSequence = deepcopy(dataset.ROIContourSequence[0].ContourSequence)
    change(dataset.StructureSetROISequence[-1], dataset.ROIContourSequence[-1].ContourSequence)


def on_other_images(roi, contours) -> None:
    for contour in contours:
        contour.ContourImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def point_in_the_chiasm(roi, contours) -> None:
    roi.ROIName = "Chiasm"
    for contour in contours:
        contour.ContourGeometricType = "POINT"


def with_the_organs_number(dataset) -> None:
    for item in dataset.StructureSetROISequence[:2]:
        item.ROIName = "Couch"
    dataset.StructureSetROISequence[1].ROINumber = dataset.StructureSetROISequence[0].ROINumber


GOOD = {
    "no images at the contours": without_images,
    "no images, the list has two series": lambda d: [without_images(d), listing(d, ["1.2.3", "CT"])],
    "no images, the list has three images": lambda d: [without_images(d), listing(d, ["1.2.3"], keep=3)],
    "no images, no list, the frame of reference": lambda d: [without_images(d), no_lists(d)],
    "a list of other series": lambda d: listing(d, ["1.2.3"]),
    "no frames of reference": no_frames,
    "another region on other images": lambda d: stray_region(d, on_other_images),
    "another region in another frame": lambda d: stray_region(
        d, lambda roi, contours: setattr(roi, "ReferencedFrameOfReferenceUID", "1.2.3")),
    "another region off every slice": lambda d: stray_region(
        d, lambda roi, contours: [setattr(c, "ContourData", ["900"] * len(c.ContourData)) for c in contours]),
    "two other regions with one number": with_the_organs_number,
    "a point with the name of an organ": lambda d: stray_region(d, point_in_the_chiasm),
}  # fmt: skip


def test_what_is_no_organ_and_lists_beside_the_contours_do_not_matter(tmp_path: Path):
    root = write_patient(tmp_path / "src")
    original = rtstruct(root).read_bytes()
    for kind, change in GOOD.items():
        rtstruct(root).write_bytes(original)
        edit(rtstruct(root), change)
        listing = list_cases(tmp_path / "src", show_progress=False)
        assert listing.failed == {}, kind
        assert "  OpticNrv_L <- optic_nerve_left (2 contours)" in listing.lines, kind


def test_the_listing_refuses_what_the_conversion_refuses_and_tells_its_warnings(tmp_path: Path):
    root = write_patient(tmp_path / "src")
    original, normal = rtstruct(root).read_bytes(), index_to_world(oblique())[:3, 2]

    def move(share: float) -> None:
        def change(dataset) -> None:
            for contour in dataset.ROIContourSequence[0].ContourSequence:
                points = np.array(contour.ContourData, float).reshape(-1, 3) + share * normal
                contour.ContourData = [f"{value:.4f}" for value in points.ravel()]

        rtstruct(root).write_bytes(original)
        edit(rtstruct(root), change)

    move(0.7)
    listing = list_cases(tmp_path / "src", show_progress=False)
    assert listing.failed == run(tmp_path / "src").failed
    assert "Eye_L: 2 of 2 contours lie up to 0.7 slices off the image they belong to" in listing.failed["case_001"]
    assert listing.lines[-1] == "1 cases (dicom): 0 to convert, 1 not"
    move(0.4)
    said = "Eye_L: contours lie up to 0.4 slices off the images: moved to the nearest"
    assert f"  {said}" in list_cases(tmp_path / "src", show_progress=False).lines
    assert said in in_english(run(tmp_path / "src").warnings["case_001"])


def test_each_of_two_cts_of_a_patient_gets_the_rtstruct_drawn_on_it(tmp_path: Path):
    first = write_patient(tmp_path / "src" / "a", frames="111")
    arrays = volumes(7)
    study = Study(f"{ID}1", f"{NAME}1", study="later", frame_of_reference="9")
    for n, (channel, name) in enumerate([("CT", "Head"), ("T1", "t1"), ("T2", "t2")]):
        write_series(to_image(arrays[channel]), tmp_path / "src" / "b" / str(n), modality="CT" if n == 0 else "MR",
                     study=study, number=n + 20, description=name, headers={"PatientBirthDate": BIRTH})  # fmt: skip
    (later,) = find_series(tmp_path / "src" / "b" / "0").images
    write_contours(
        {"Eye_L": trace_mask(arrays["label"] == 1, to_image(arrays["label"]))}, later, tmp_path / "src" / "RS"
    )
    both = pydicom.dcmread(rtstruct(first)).ReferencedFrameOfReferenceSequence[0]
    edit(tmp_path / "src" / "RS", lambda d: d.ReferencedFrameOfReferenceSequence.append(both))
    listing = list_cases(tmp_path / "src", show_progress=False)
    assert listing.failed == {}
    taken = [
        line.split(" <- ")[1].split(" (")[0] for line in listing.lines if line.startswith(("  CT <-", "  Eye_L <-"))
    ]
    pairs = set(zip(taken[::2], taken[1::2], strict=True))
    assert pairs == {("series 2 'Head 2.5 ***'", "Eye_AL"), ("series 20 'Head'", "Eye_L")}


def test_pictures_localizers_copies_and_odd_dates_do_not_stop_a_case(tmp_path: Path, caplog):
    root = write_patient(tmp_path / "src")
    capture = root / "capture"
    shutil.copy(ct_files(root)[0], capture)

    def change(dataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        dataset.SOPInstanceUID = "1.2.9"

    edit(capture, change)
    shutil.copy(ct_files(root)[0], root / "scout")

    def scout(dataset) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        dataset.SOPInstanceUID = "1.2.8"

    edit(root / "scout", scout)
    shutil.copy(ct_files(root)[4], root / "copy")
    shutil.copy(rtstruct(root), root / "copy of the plan")
    (root / "DICOMDIR").write_bytes(b"x")
    for path in ct_files(root):
        raw = path.read_bytes().replace(b"DA\x08\x0020230115", b"DA\x08\x00f81d4fae")  # the start of a UUID
        assert b"f81d4fae" in raw
        path.write_bytes(raw)
    caplog.set_level("INFO")
    summary = run(tmp_path / "src")
    assert summary.written == ["case_001"]
    assert (
        "1 DICOMDIR files, 1 copies of the same RTSTRUCT, 1 copies of the same image, 1 screen and secondary captures, "
        "1 single images" in str(summary.files)
    )
    result = read_image(summary.dataset_folder / "imagesTr" / "case_001_0000.nii.gz")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result), volumes(1)["CT"])


def test_a_tree_without_series_raises(tmp_path: Path):
    root = write_patient(tmp_path / "src", skip=("T1", "T2"), drawn=())
    for path in ct_files(root)[1:]:
        path.unlink()
    with pytest.raises(ValueError, match="src has no CT or MR series; 1 single images and localizers"):
        run(tmp_path / "src")


def test_a_listing_of_folders_says_the_same(tmp_path: Path):
    folder = tmp_path / "src" / "a"
    folder.mkdir(parents=True)
    for name, array in volumes().items():
        if name != "label":
            sitk.WriteImage(to_image(array), str(folder / f"{name}.nii.gz"))
    sitk.WriteImage(to_image((volumes()["label"] == 1).astype(np.uint8)), str(folder / "LENS-LT.nii.gz"))
    sitk.WriteImage(to_image((volumes()["label"] == 2).astype(np.uint8)), str(folder / "Brainstem.nii.gz"))
    (tmp_path / "src" / "b").mkdir()
    listing = list_cases(tmp_path / "src")
    assert listing.lines[:5] == [
        "a -> imagesTr + labelsTr", "  CT <- CT.nii.gz", "  T1 <- T1.nii.gz", "  T2 <- T2.nii.gz",
        "  Lens_L <- LENS-LT.nii.gz",
    ]  # fmt: skip
    assert "  left over: Brainstem.nii.gz" in listing.lines
    assert "channel CT is missing" in listing.failed["b"]


def test_contours_on_an_enhanced_ct_give_the_same_labels(tmp_path: Path, to_enhanced):
    root = write_patient(tmp_path / "src")
    whole = pydicom.dcmread(to_enhanced(ct_files(root)), stop_before_pixels=True).SOPInstanceUID

    def refer(dataset) -> None:  # to frames of the one object, last slice first
        items = [
            dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
        ]
        items += [contour for roi in dataset.ROIContourSequence for contour in roi.get("ContourSequence", ())]
        for item in items:
            item.ContourImageSequence = item.ContourImageSequence[:1]
            item.ContourImageSequence[0].ReferencedSOPInstanceUID = whole

    edit(rtstruct(root), refer)
    summary = run(tmp_path / "src")
    assert (summary.written, summary.failed) == (["case_001"], {})
    for folder, name, channel in (("imagesTr", "case_001_0000", "CT"), ("labelsTr", "case_001", "label")):
        result = read_image(summary.dataset_folder / folder / f"{name}.nii.gz")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(result), volumes(1)[channel])


def test_contours_of_a_tilted_gantry_land_where_they_were_drawn(tmp_path: Path):
    root = write_patient(tmp_path / "src", drawn=(), frames="111")
    tilt = index_to_world(oblique())[:3, 1] / SPACING_MM[1]
    for k, path in enumerate(ct_files(root)):
        edit(path, lambda d, k=k: setattr(d, "ImagePositionPatient", [
            float(v) + 2.2 * k * t for v, t in zip(d.ImagePositionPatient, tilt, strict=True)]))  # fmt: skip
    corner = np.array(pydicom.dcmread(ct_files(root)[12]).ImagePositionPatient, dtype=float)
    axes = np.reshape(np.asarray(oblique().GetDirection()), (3, 3))
    i, j = np.array([8.5, 12.5, 12.5, 8.5]), np.array([9.5, 9.5, 14.5, 14.5])  # of slice 13 as it was measured
    square = corner + np.outer(i * SPACING_MM[2], axes[:, 0]) + np.outer(j * SPACING_MM[1], axes[:, 1])
    write_contours({"Eye_L": [square]}, ct_series(root), root / "RS")
    summary = run(tmp_path / "src")
    assert any("tilted gantry" in line for line in in_english(summary.warnings["case_001"]))
    label = read_image(summary.dataset_folder / "labelsTr" / "case_001.nii.gz")
    drawn = np.argwhere(sitk.GetArrayFromImage(label) == 1)
    assert len(drawn) == 4 * 5
    centre = label.TransformContinuousIndexToPhysicalPoint(drawn.mean(axis=0)[::-1].tolist())
    assert np.linalg.norm(np.array(centre) - square.mean(axis=0)) < 0.5 * SPACING_MM[1]


@pytest.fixture
def rigid_only(monkeypatch) -> None:
    """Registration without its elastic part, which takes seconds and has no say in what is registered together."""
    register, rigid = channels.register, RegistrationOptions(elastic=False)
    monkeypatch.setattr(channels, "register", lambda *images, **more: register(*images, **{**more, "options": rigid}))


@pytest.mark.parametrize(("frames", "together"), [("122", ["T1", "T2"]), ("123", ["T2"]), ("111", ["T1", "T2"])])
def test_only_series_of_one_frame_of_reference_share_a_registration(tmp_path, frames, together, rigid_only):
    summary = run(write_patient(tmp_path / "src", frames=frames), register=True)
    record = json.loads((summary.dataset_folder / "provenance" / "case_001.json").read_text())
    assert record["channels"]["T2"]["registration"]["together"] == together


def test_one_series_without_a_frame_of_reference_leaves_it_to_the_images(tmp_path):
    root = write_patient(tmp_path / "src", frames="123", drawn=())
    for path in (root / f"{NAME}_2" / "DICOM").iterdir():
        edit(path, lambda dataset: setattr(dataset, "FrameOfReferenceUID", ""))
    summary = run(root, register=True)
    record = json.loads((summary.dataset_folder / "provenance" / "case_001.json").read_text())
    assert record["channels"]["T2"]["registration"]["together"] == ["T1", "T2"]
