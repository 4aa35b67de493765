import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.dataset_conversion.convert import convert
from nnunet_ext.dataset_conversion.listing import list_cases
from nnunet_ext.images.reading import read_image
from nnunet_ext.messages import in_english

SHAPE, SPACING_MM = (20, 24, 28), (9.0, 8.0, 7.0)
ORGANS = {
    "Eye_AL": (20, 5), "Eye_PL": (20, 7), "Eye_AR": (7, 5), "Eye_PR": (7, 7), "OpticNrv_L": (18, 9), "OpticNrv_R": (9, 9),
    "OpticChiasm": (13, 12), "Brainstem": (13, 15), "Glnd_Lacrimal_L": (22, 4),
}  # fmt: skip


def to_image(array: np.ndarray, shift_mm: float = 0.0) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    image.SetOrigin((-95.0 + shift_mm, -92.0, 400.0))
    return image


def write_hanseg(root: Path, *, cases=("case_01", "case_02"), skip=()) -> Path:
    """A copy of the public layout with the same file names, on a small head."""
    z, y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) for n in SHAPE), indexing="ij", sparse=True)
    head = np.sqrt((z * 9 / 78) ** 2 + (y * 8 / 85) ** 2 + (x * 7 / 80) ** 2) < 1
    for case in cases:
        folder = root / "set_1" / case
        folder.mkdir(parents=True)
        noise = np.random.default_rng(len(case)).integers(-10, 10, SHAPE)
        files = {
            "IMG_CT.nrrd": to_image((np.where(head, 40, -1000) + noise).astype(np.int16)),
            "IMG_MR_T1.nrrd": to_image((np.where(head, 120, 10) + noise).astype(np.int16), shift_mm=4.0),
        }
        for organ, (i, j) in ORGANS.items():
            mask = np.zeros(SHAPE, dtype=np.uint8)
            mask[9:11, j : j + 2, i : i + 2] = 1
            files[f"OAR_{organ}.seg.nrrd"] = to_image(mask)
        for name, image in files.items():
            if name not in skip:
                sitk.WriteImage(image, str(folder / f"{case}_{name}"), True)
    (root / "OAR_data.csv").write_text("case,organ\n")
    return root


def run(source: Path, **options):
    options = {"dataset_id": 503, "name": "HaNSeg", "n4": False, "clean_ct": False, "n_processes": 1, "preview": False,
               "show_progress": False, **options}  # fmt: skip
    return convert(source, raw_folder=source.parent / "raw", **options)


@pytest.mark.parametrize(("below", "layout"), [(".", "auto"), ("set_1", "auto"), ("set_1", "hanseg")])
def test_a_copy_of_the_layout_becomes_a_dataset(tmp_path: Path, below: str, layout: str):
    write_hanseg(tmp_path / "HaN-Seg")
    summary = run(tmp_path / "HaN-Seg" / below, layout=layout)
    assert (summary.written, summary.failed) == (["case_01", "case_02"], {})
    content = json.loads((summary.dataset_folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "CT", "1": "T1"}
    assert list(content["labels"]) == ["background", "Eye_L", "Eye_R", "OpticNrv_L", "OpticNrv_R", "OpticChiasm"]
    label = sitk.GetArrayFromImage(read_image(summary.dataset_folder / "labelsTr" / "case_01.nii.gz"))
    assert np.bincount(label.ravel())[1:].tolist() == [16, 16, 8, 8, 8]  # both halves of the eyes
    assert label[9, 5, 20] == label[9, 8, 20] == 1
    record = json.loads((summary.dataset_folder / "provenance" / "case_01.json").read_text())
    assert record["ignored_files"] == ["case_01_OAR_Brainstem.seg.nrrd", "case_01_OAR_Glnd_Lacrimal_L.seg.nrrd"]
    assert any("T1 is not registered to its CT" in line for line in in_english(summary.warnings["case_01"]))
    assert (summary.dataset_folder / "imagesTr" / "case_02_0001.nii.gz").is_file()


def test_ct_alone_works_and_a_missing_file_or_channel_is_named(tmp_path: Path):
    write_hanseg(tmp_path / "a", cases=("case_01",))
    write_hanseg(tmp_path / "a", cases=("case_07",), skip=("IMG_MR_T1.nrrd",))
    summary = run(tmp_path / "a")
    assert summary.written == ["case_01"]
    assert summary.failed == {"case_07": "channel T1 is missing: there is no case_07_IMG_MR_T1.nrrd"}
    ct_only = run(tmp_path / "a", modalities=["CT"], name="CT", dataset_id=504)
    assert ct_only.written == ["case_01", "case_07"]
    wrong = run(tmp_path / "a", modalities=["CT", "T2"], name="T2", dataset_id=505)
    assert wrong.failed["case_01"] == "HaN-Seg has no channel T2, only CT and T1: pass --modalities CT T1"


def test_two_versions_of_an_organ_are_refused(tmp_path: Path):
    root = write_hanseg(tmp_path / "a")
    folder = root / "set_1" / "case_02"
    source = folder / "case_02_OAR_OpticNrv_L.seg.nrrd"
    sitk.WriteImage(sitk.ReadImage(str(source)), str(folder / "case_02_OAR_OpticNerve_L.seg.nrrd"), True)
    summary = run(root)
    assert summary.written == ["case_01"]
    assert "OpticNrv_L is drawn twice, as case_02/case_02_OAR_OpticNerve_L.seg.nrrd and" in summary.failed["case_02"]


def test_a_git_lfs_pointer_is_named(tmp_path: Path):
    root = write_hanseg(tmp_path / "a")
    (root / "set_1" / "case_02" / "case_02_IMG_CT.nrrd").write_text("version https://git-lfs.github.com/spec/v1\n")
    summary = run(tmp_path / "a")
    assert summary.written == ["case_01"]
    assert "case_02_IMG_CT.nrrd is a git-LFS pointer" in summary.failed["case_02"]


def test_the_dry_run_shows_the_layout(tmp_path: Path):
    listing = list_cases(write_hanseg(tmp_path / "a", cases=("case_01",)))
    assert "  Eye_L <- case_01_OAR_Eye_AL.seg.nrrd + case_01_OAR_Eye_PL.seg.nrrd" in listing.lines
    assert listing.lines[-1] == "1 cases (hanseg): 1 to convert, 0 not"


def test_a_folder_in_another_layout_is_refused(tmp_path: Path):
    (tmp_path / "a" / "x").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"there is no case_XX/case_XX_IMG_CT\.nrrd"):
        run(tmp_path / "a", layout="hanseg")
