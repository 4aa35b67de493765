"""Cases of a folder to contour."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK as sitk
from small_sources import CHANNELS, write_dicom

from nnunet_ext.cases.prediction_cases import channel_files, check_channels, find_cases


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.Image(5, 7, 11, sitk.sitkInt16), str(path))
    return path


def find(source: Path, **more):
    return find_cases(source, **{"channels": CHANNELS, "optional": (), "show_progress": False, **more})


def test_files_are_cases_by_nnunets_names_and_folders_may_lie_beside_them(tmp_path: Path):
    for number, _ in enumerate(CHANNELS):
        image(tmp_path / f"b_{number:04d}.nii.gz")
    for channel in CHANNELS:
        image(tmp_path / "a" / f"{channel}.nii.gz")
    image(tmp_path / "odd.nii.gz")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "run.txt").write_text("x")
    found = find(tmp_path)
    assert (found.kind, list(found.cases)) == ("folders", ["a", "b"])
    assert [found.cases[name].as_trained for name in ("a", "b")] == [False, True]
    assert list(found.cases["b"].read_images().images) == list(CHANNELS)
    assert "odd.nii.gz" in found.others
    count = found.count()
    assert count.channels == 2 * len(CHANNELS)
    assert find(tmp_path, layout="files").kind == "files"


def test_a_dicom_tree_is_cases_under_numbers(tmp_path: Path):
    write_dicom(tmp_path / "patient")
    found = find(tmp_path)
    assert (found.kind, list(found.cases)) == ("dicom", ["case_001"])
    assert len(found.key_rows) == 1


def test_a_case_that_is_both_is_refused_and_a_folder_without_channels_fails(tmp_path: Path):
    image(tmp_path / "a_0000.nii.gz")
    image(tmp_path / "a" / "CT.nii.gz")
    with pytest.raises(ValueError, match=r"\['a'\] are both files and folders"):
        find(tmp_path)
    (tmp_path / "a_0000.nii.gz").unlink()
    assert "T1" in find(tmp_path).failed["a"]


def test_a_folder_without_any_channel_of_a_model_that_needs_none_says_how_to_name_them(tmp_path: Path):
    image(tmp_path / "b" / "T1.nii.gz")
    for name in ("flair", "scan1", "scan2", "scan3"):
        image(tmp_path / "a" / f"{name}.nii.gz")
    (tmp_path / "c").mkdir()
    found = find(tmp_path, channels=("CT", "T1"), optional=("CT", "T1"))
    assert list(found.cases) == ["b"]
    assert found.failed["a"] == (
        "no image is named as a channel of the model (CT, T1): found flair.nii.gz, scan1.nii.gz, scan2.nii.gz, ...; "
        "rename each image to the channel that it is, e.g. T1.nii.gz or a_T1.nii.gz"
    )
    assert "found none" in found.failed["c"]


def test_channels_of_one_case_beside_each_other_are_told_apart_from_cases(tmp_path: Path):
    image(tmp_path / "T1.nii.gz")
    with pytest.raises(
        FileNotFoundError, match=r"Found T1\.nii\.gz\. Put images of one case into a folder of their own"
    ):
        find(tmp_path, channels=("CT", "T1"), optional=("CT", "T1"))


def test_arguments_that_do_not_fit_are_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no case in"):
        find(tmp_path)
    with pytest.raises(ValueError, match="layout 'tree' is not one of"):
        find(tmp_path, layout="tree")
    image(tmp_path / "a_0000.nii.gz")
    with pytest.raises(ValueError, match="a series file is for DICOM"):
        find(tmp_path, series_file=tmp_path / "series.toml")


def test_files_are_channels_by_their_numbers():
    ct, t1 = Path("a_0000.nii.gz"), Path("a_0001.nii.gz")
    assert channel_files("a", [t1, ct], ("CT", "T1")) == {"CT": ct, "T1": t1}
    with pytest.raises(ValueError, match=r"must be a_0000.nii.gz; found a_0001.nii.gz"):
        channel_files("a", [ct, t1], ("CT",))
    with pytest.raises(ValueError, match=r"channel CT has 2 files, a_0000.nii.gz and a_0000.mha"):
        channel_files("a", [ct, Path("a_0000.mha")], ("CT",))


def test_a_channel_may_lack_if_the_model_can_do_without():
    check_channels({"CT": "ct.nii.gz"}, ("CT", "T1"), optional=("T1",))
    with pytest.raises(ValueError, match=r"trained on CT, T1; there is no file of T1, only ct.nii.gz \(with modality"):
        check_channels({"CT": "ct.nii.gz"}, ("CT", "T1"), optional=())
