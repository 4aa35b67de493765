"""Images of every format, whole and damaged."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from image_bytes import PLAIN, make_image, put

import nnunet_ext
from nnunet_ext.images.file_names import image_files
from nnunet_ext.images.geometry import same_grid, to_canonical
from nnunet_ext.images.reading import read_image

ORIENTATIONS = Path(__file__).parents[3] / "shared" / "data" / "orientations"


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
def test_reads_what_simpleitk_wrote(tmp_path: Path, ending: str, compress: bool, dtype):
    image, path = make_image(dtype), tmp_path / f"x{ending}"
    sitk.WriteImage(image, str(path), compress)
    result = read_image(path)
    assert same_grid(result, image, 1e-3)
    assert result.GetPixelID() == image.GetPixelID()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(result), sitk.GetArrayFromImage(image))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("share", [0.5, 0.98])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, ending: str, compress: bool, share: float):
    path = tmp_path / f"x{ending}"
    sitk.WriteImage(make_image(), str(path), compress)
    data = image_files(path)[-1]
    data.write_bytes(data.read_bytes()[: int(share * data.stat().st_size)])
    with pytest.raises(ValueError, match=rf"{path.name} is (cut off|damaged).*copy it again"):
        read_image(path)


@pytest.mark.skipif(not ORIENTATIONS.is_dir(), reason="no real images beside the repository")
def test_real_orientation_files_become_equal():
    images = [to_canonical(read_image(path)) for path in sorted(ORIENTATIONS.glob("*.nii.gz"))]
    assert len(images) == 6
    for image in images[1:]:
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(images[0]))
        assert same_grid(image, images[0], 0.01)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_vector_and_4d_images_of_other_formats_are_refused(tmp_path: Path, ending: str):
    path = tmp_path / f"x{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True), str(path))
    with pytest.raises(ValueError, match="RGB or vector image of 3"):
        read_image(path)
    if ending == ".mha":
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 4, 5, 6), np.uint8), isVector=False), str(path))
        with pytest.raises(ValueError, match="is 4D, 6x5x4x2"):
            read_image(path)


def test_other_files_are_refused(tmp_path: Path):
    pointer = tmp_path / "CT.nii.gz"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="git-LFS pointer"):
        read_image(pointer)
    pointer.write_bytes(b"")
    with pytest.raises(ValueError, match="empty"):
        read_image(pointer)
    pointer.write_bytes(b"not an image at all, but long enough to look at" * 20)
    with pytest.raises(ValueError, match="damaged"):
        read_image(pointer)
    (tmp_path / "CT.nii").write_bytes(b"not an image at all, but long enough to look at" * 20)
    with pytest.raises(ValueError, match="is not a readable NIfTI"):
        read_image(tmp_path / "CT.nii")
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.nii")


def test_a_folder_and_a_file_that_may_not_be_read_are_named(tmp_path: Path, monkeypatch):
    (tmp_path / "x.nii.gz").mkdir()
    with pytest.raises(ValueError, match=r"x\.nii\.gz is a folder, not an image; give the file in it"):
        read_image(tmp_path / "x.nii.gz")
    path = put(tmp_path / "y.nii", PLAIN)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match=r"^y\.nii cannot be read \(Permission denied\); check who may read it"):
        read_image(path)


def test_only_the_readers_read_image_files():
    """DICOM aside: `dicom` reads the header of an image file of a series."""
    package = Path(nnunet_ext.__file__).parent
    readers = re.compile(
        r"ReadImage\(|ImageFileReader|ImageSeriesReader|(nibabel|nib)\.load\(|from_filename\(|nrrd\.read\("
    )
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if readers.search(path.read_text(encoding="utf-8"))
    }
    assert found <= {"images/reading.py", "images/label_maps.py", "images/itk_headers.py", "dicom/pixels.py"}
