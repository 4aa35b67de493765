"""One reader: damaged, oddly written and nearly whole files are the same to `convert`, `evaluate`, `report`, `rtstruct`."""

from __future__ import annotations

import csv
import gzip
import re
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from fault_inputs import LABELS, copy_cases, scored

from nnunet_ext.cli.main import main
from nnunet_ext.evaluation.evaluating import evaluate
from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.images.geometry import same_grid
from nnunet_ext.images.reading import read_image

HD95_MM = 2.48  # the phantom's voxel: predictions are moved by one along x
SHEAR = 5e-4


def scores_of(folder: Path) -> EvaluationSummary:
    return evaluate(folder / "pred", folder / "labelsTs", folder / "scores", n_processes=1, show_progress=False)


@pytest.fixture(scope="module")
def untouched(phantom_files: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluationSummary:
    return scores_of(scored(phantom_files, tmp_path_factory.mktemp("untouched") / "x"))


def cut(path: Path, share: float = 0.6) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def uncompressed(path: Path) -> Path:
    plain = path.with_suffix("")
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    return plain


def as_format(path: Path, ending: str) -> Path:
    """The file as `.mhd`, `.nrrd`, ...; its data file too."""
    image = sitk.ReadImage(str(path))
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    target = path.with_name(path.name.removesuffix(".nii.gz") + ending)
    path.unlink()
    sitk.WriteImage(image, str(target), False)
    return target


def rewrite(path: Path, *, pixdim: tuple[float, ...] | None = None, shear: float = 0.0) -> None:
    """With an sform alone, its pixdim as given, its second axis leaning towards the first."""
    nifti = nibabel.load(path)
    affine = nifti.affine.copy()
    affine[0, 1] += shear * abs(affine[1, 1])
    out = nibabel.Nifti1Image(np.asarray(nifti.dataobj).astype(np.uint8), None)
    out.header.set_sform(affine, code=1)
    out.header.set_qform(None, code=0)
    out.header["pixdim"][1:4] = pixdim or np.linalg.norm(affine[:3, :3], axis=0)
    path.unlink()
    nibabel.save(out, path)


def scaled(path: Path, factor: float) -> None:
    nifti = nibabel.load(path)
    values = np.asarray(nifti.dataobj).astype(np.float32) * np.float32(factor)
    path.unlink()
    nibabel.save(nibabel.Nifti1Image(values, nifti.affine), path)


# Damaged --------------------------------------------------------------------------------------------------------------

DAMAGES: dict[str, Callable[[Path], object]] = {
    "gzip": cut,
    "NIfTI": lambda path: cut(uncompressed(path)),
    "NRRD": lambda path: cut(as_format(path, ".nrrd")),
    "MetaImage": lambda path: cut(as_format(path, ".mhd").with_suffix(".raw")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_prediction_that_is_cut_off_fails_its_case_and_no_part_of_it_is_scored(
    phantom_files: Path, tmp_path: Path, untouched: EvaluationSummary, damage: str
):
    folder = scored(phantom_files, tmp_path / "x")
    DAMAGES[damage](folder / "pred" / "case_000.nii.gz")
    summary = scores_of(folder)
    assert list(summary.failed) == ["case_000"]
    assert summary.failed["case_000"].startswith("prediction case_000.")
    assert "is cut off" in summary.failed["case_000"]
    assert "damaged, copy it again" in summary.failed["case_000"]
    assert {row.flag for row in summary.rows if row.case == "case_000"} == {"failed"}
    assert set(summary.scores("case_000").values()) == {0.0}
    assert summary.scores("case_001") == untouched.scores("case_001")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_reference_that_is_cut_off_is_in_no_mean(
    phantom_files: Path, tmp_path: Path, untouched: EvaluationSummary, damage: str
):
    folder = scored(phantom_files, tmp_path / "x")
    DAMAGES[damage](folder / "labelsTs" / "case_000.nii.gz")
    summary = scores_of(folder)
    assert summary.failed["case_000"].startswith("reference case_000.")
    assert "is cut off" in summary.failed["case_000"]
    assert np.isnan(list(summary.scores("case_000").values())).all()
    for organ, found in summary.per_organ.items():
        assert found["dsc_percent"].n == 1
        assert found["dsc_percent"].value == untouched.scores("case_001")[organ]


def test_evaluate_and_report_of_a_damaged_file_exit_with_1(phantom_files: Path, tmp_path: Path, capsys):
    folder = scored(phantom_files, tmp_path / "x")
    cut(folder / "pred" / "case_000.nii.gz")
    command = [str(folder / "pred"), str(folder / "labelsTs"), "-o", str(folder / "scores"), "-np", "1"]
    assert main(["evaluate", *command]) == 1
    assert "case 'case_000': prediction case_000.nii.gz is cut off" in capsys.readouterr().err
    options = ["-o", str(folder / "report"), "--references", str(folder / "labelsTs"), "-np", "1"]
    assert main(["report", str(folder / "pred"), *options]) == 1
    assert "case 'case_000 (pred)': prediction case_000.nii.gz is cut off" in capsys.readouterr().err
    with (folder / "report" / "evaluations" / "pred" / "evaluation.csv").open(newline="") as file:
        assert {row["flag"] for row in csv.DictReader(file) if row["case"] == "case_000"} == {"failed"}


# As convert reads it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [("pred",), ("labelsTs",), ("pred", "labelsTs")])
@pytest.mark.parametrize("header", [{"pixdim": (1, 1, 1)}, {"shear": SHEAR}, {"shear": -SHEAR}, {"shear": 9e-4}])
def test_stale_voxel_sizes_and_a_trace_of_shear_do_not_change_scores(
    phantom_files: Path, tmp_path: Path, untouched: EvaluationSummary, parts: tuple[str, ...], header: dict
):
    folder = scored(phantom_files, tmp_path / "x")
    for part in parts:
        for file in (folder / part).glob("*.nii.gz"):
            rewrite(file, **header)
    summary = scores_of(folder)
    assert not summary.failed
    for case in summary.cases:
        assert summary.scores(case) == pytest.approx(untouched.scores(case))
        assert summary.scores(case, "hd95_mm") == pytest.approx(untouched.scores(case, "hd95_mm"), rel=1e-4)
    assert summary.scores("case_000", "hd95_mm")["Eye_L"] == pytest.approx(HD95_MM, abs=1e-3)


@pytest.mark.parametrize("ending", [".mhd", ".NII.GZ", ".Nii.gz", ".MHA", ".nrrd"])
def test_formats_and_capital_endings_are_read(
    phantom_files: Path, tmp_path: Path, untouched: EvaluationSummary, ending: str
):
    folder = scored(phantom_files, tmp_path / "x")
    file = folder / "pred" / "case_000.nii.gz"
    if ending.lower() == ".nii.gz":
        file.rename(file.with_name(f"case_000{ending}"))
    else:
        written = as_format(file, ending.lower())
        written.rename(written.with_suffix(ending))
    summary = scores_of(folder)
    assert not summary.failed
    assert summary.not_compared == ()
    assert summary.scores("case_000") == untouched.scores("case_000")


# Labels that are nearly whole numbers ---------------------------------------------------------------------------------


def test_labels_stored_as_0_9999999_are_labels_everywhere(
    phantom_files: Path, phantom_dicom: Path, tmp_path: Path, converter, untouched: EvaluationSummary
):
    folder = scored(phantom_files, tmp_path / "x")
    for file in folder.glob("*/*.nii.gz"):
        scaled(file, 0.9999999)
    assert scores_of(folder).scores("case_000") == untouched.scores("case_000")
    command = [
        folder / "labelsTs" / "case_000.nii.gz",
        phantom_dicom / "phantom_000" / "CT",
        "-o",
        tmp_path / "out.dcm",
    ]
    assert main(["rtstruct", *map(str, command), "--dataset-json", str(folder / "dataset.json")]) == 0

    source = copy_cases(phantom_files, tmp_path / "source", ("phantom_000", "phantom_001"))
    scaled(source / "phantom_000" / "label.nii.gz", 0.9999999)
    scaled(source / "phantom_001" / "label.nii.gz", 0.998)
    found = converter(source)
    assert found.code == 1
    assert re.search(r"case 'phantom_001': label value 0\.998, 1\.996, .* and 2 more in label\.nii\.gz", found.err)
    original = sitk.GetArrayFromImage(sitk.ReadImage(str(phantom_files / "phantom_000" / "label.nii.gz")))
    voxels = {organ: int((original == value).sum()) for organ, value in LABELS.items() if value}
    assert converter.voxels("phantom_000") == voxels


def test_masks_of_any_two_values_are_masks_and_probabilities_are_not(phantom_files: Path, tmp_path: Path, converter):
    source = copy_cases(phantom_files, tmp_path / "source")
    case = source / "phantom_000"
    label = sitk.ReadImage(str(case / "label.nii.gz"))
    array = sitk.GetArrayFromImage(label)
    (case / "label.nii.gz").unlink()

    def mask(organ: str, values: np.ndarray) -> None:
        image = sitk.GetImageFromArray(values)
        image.CopyInformation(label)
        sitk.WriteImage(image, str(case / f"{organ}.nii.gz"), True)

    rng = np.random.default_rng(0)
    masks = {organ: array == value for organ, value in LABELS.items() if value}
    for organ, inside in masks.items():
        mask(organ, inside.astype(np.uint8))
    mask("Eye_L", (masks["Eye_L"] * np.float32(0.9999999)).astype(np.float32))
    mask("Eye_R", masks["Eye_R"].astype(np.uint8) * 255)
    mask("Lens_L", (masks["Lens_L"] / 255).astype(np.float32))  # two values: a mask, though no whole number
    mask("Lens_R", (masks["Lens_R"] + rng.uniform(-1e-6, 1e-6, array.shape)).astype(np.float32))
    assert converter(source).code == 0
    assert converter.voxels("phantom_000") == {organ: int(inside.sum()) for organ, inside in masks.items()}
    mask("Lens_R", (masks["Lens_R"] * rng.uniform(0.3, 0.98, array.shape)).astype(np.float32))
    found = converter(source)
    assert found.code == 1
    assert "case 'phantom_000': mask Lens_R.nii.gz of Lens_R holds" in found.err
    assert "a mask has 0 and one other" in found.err


# NIfTI containers and headers -----------------------------------------------------------------------------------------


def test_whole_images_in_odd_files_are_converted_as_the_images_they_are(phantom_files: Path, tmp_path: Path, converter):
    source = copy_cases(phantom_files, tmp_path / "source")
    case = source / "phantom_000"
    files = {name: case / f"{name}.nii.gz" for name in ("CT", "T1", "T2", "label")}
    images = {name: read_image(file) for name, file in files.items()}

    files["CT"].write_bytes(gzip.decompress(files["CT"].read_bytes()))
    files["T1"] = files["T1"].rename(case / "T1.nii")
    files["T2"].write_bytes(files["T2"].read_bytes() + b"garbage")
    plain = bytearray(gzip.decompress(files["label"].read_bytes()))
    struct.pack_into("<h", plain, 254, 1)
    plain[280:328] = bytes(48)
    files["label"].write_bytes(gzip.compress(bytes(plain)))

    found = converter(source)
    assert found.code == 0
    warnings = converter.record("phantom_000")["warnings"]  # those of the case, so that nobody asks which T1 it was
    for said in (
        "CT.nii.gz is not compressed, unlike its name",
        "T1.nii is compressed, unlike its name",
        "T2.nii.gz: what follows its compressed data is no part of the image",
        "label.nii.gz: its sform is empty or damaged, so its qform says how it lies in space",
    ):
        assert sum(said in line for line in warnings) == 1
    for name, image in images.items():
        assert same_grid(read_image(files[name]), image, 1e-3)
        np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (read_image(files[name]), image)))
    original = sitk.GetArrayFromImage(images["label"])
    assert converter.voxels("phantom_000") == {o: int((original == v).sum()) for o, v in LABELS.items() if v}


def test_a_quaternion_longer_than_1_by_rounding_is_read(phantom_files: Path, tmp_path: Path):
    file = copy_cases(phantom_files, tmp_path / "source") / "phantom_000" / "T1.nii.gz"
    plain = bytearray(gzip.decompress(file.read_bytes()))
    struct.pack_into("<hh", plain, 252, 1, 0)
    struct.pack_into("<fff", plain, 256, 0.0, 0.0, 1.0000002)
    file.write_bytes(gzip.compress(bytes(plain)))
    with pytest.raises(ValueError, match="w2 should be positive"):  # NiBabel alone
        nibabel.load(file)
    assert np.abs(np.reshape(read_image(file).GetDirection(), (3, 3))).tolist() == np.eye(3).tolist()
