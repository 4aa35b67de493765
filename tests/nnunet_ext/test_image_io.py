import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.geometry import orientation_code, same_grid, to_canonical
from nnunet_ext.image_io import find_channel_files, image_files, read_image, write_image

ORIENTATIONS = Path(__file__).parents[3] / "shared" / "data" / "orientations"


def make_image(dtype=np.int16) -> sitk.Image:
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 200, (15, 17, 21)).astype(dtype))
    image.SetSpacing((0.7, 0.8, 3.0))
    image.SetOrigin((-31.0, 17.5, 400.0))
    transform = sitk.Euler3DTransform()
    transform.SetRotation(0.1, -0.2, 0.3)
    image.SetDirection(transform.GetMatrix())
    return sitk.DICOMOrient(image, "PIR")


def save_nifti(path: Path, array: np.ndarray, *, sform=None, qform=None, codes=(1, 0)) -> Path:
    nifti = nibabel.Nifti1Image(array, None)
    nifti.header.set_sform(np.eye(4) if sform is None else sform, code=codes[0])
    nifti.header.set_qform(np.eye(4) if qform is None else qform, code=codes[1])
    path.write_bytes(gzip.compress(nifti.to_bytes()) if path.name.endswith(".gz") else nifti.to_bytes())
    return path


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


def test_a_gzip_stream_whole_but_too_short_is_refused(tmp_path: Path):
    path = tmp_path / "x.nii.gz"
    sitk.WriteImage(make_image(), str(path))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-100]))
    with pytest.raises(ValueError, match=r"cut off: \d+ bytes where its header promises"):
        read_image(path)


def test_a_flipped_byte_in_a_gzip_stream_is_refused(tmp_path: Path):
    path = tmp_path / "x.nii.gz"
    sitk.WriteImage(make_image(), str(path))
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF  # the checksum
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.nii\.gz is damaged"):
        read_image(path)


def test_the_sform_counts_where_a_stale_qform_stands_beside_it(tmp_path: Path):
    array = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)
    right = np.array([[0, 2.0, 0, 1], [-3.0, 0, 0, 2], [0, 0, 4.0, 3], [0, 0, 0, 1]])
    stale = np.diag([3.0, 2.0, 4.0, 1.0])
    for codes in ((1, 1), (2, 1), (4, 2), (1, 2)):
        image = read_image(save_nifti(tmp_path / "x.nii", array, sform=right, qform=stale, codes=codes))
        assert orientation_code(image) == "PRS"
        assert image.GetSpacing() == (3.0, 2.0, 4.0)
        assert image.GetOrigin() == (-1.0, -2.0, 3.0)


def test_rounding_dust_in_an_oblique_sform_is_removed(tmp_path: Path):
    sform = np.eye(4)
    sform[1:3, 1:3] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    sform[0, 1] = 1e-41  # ITK fails to invert such a direction
    image = read_image(save_nifti(tmp_path / "x.nii", np.zeros((5, 6, 7), dtype=np.int16), sform=sform))
    assert 0 in image.GetDirection()
    assert image.TransformPhysicalPointToIndex(image.TransformIndexToPhysicalPoint((4, 3, 2))) == (4, 3, 2)


def test_the_qform_counts_where_there_is_no_sform(tmp_path: Path):
    array = np.zeros((5, 6, 7), dtype=np.int16)
    image = read_image(save_nifti(tmp_path / "x.nii", array, qform=np.diag([-3.0, 2.0, 4.0, 1.0]), codes=(0, 1)))
    assert orientation_code(image) == "LAS"
    assert image.GetSpacing() == (3.0, 2.0, 4.0)


def test_nifti_scale_and_units_are_applied(tmp_path: Path):
    nifti = nibabel.Nifti1Image(np.full((4, 5, 6), 10, dtype=np.int16), np.diag([0.001, 0.002, 0.003, 1]))
    nifti.header.set_xyzt_units("meter")
    nifti.header.set_slope_inter(2.0, -1024.0)
    raw = bytearray(nifti.header.binaryblock) + b"\0" * 4 + np.full(120, 10, dtype="<i2").tobytes()
    raw[112:120] = np.array([2.0, -1024.0], dtype="<f4").tobytes()  # scl_slope, scl_inter
    raw[108:112] = np.array([352.0], dtype="<f4").tobytes()
    (tmp_path / "x.nii").write_bytes(raw)
    image = read_image(tmp_path / "x.nii")
    np.testing.assert_allclose(image.GetSpacing(), (1, 2, 3), rtol=1e-5)
    assert np.all(sitk.GetArrayFromImage(image) == -1004.0)


@pytest.mark.skipif(not ORIENTATIONS.is_dir(), reason="no real images beside the repository")
def test_real_orientation_files_become_equal():
    images = [to_canonical(read_image(path)) for path in sorted(ORIENTATIONS.glob("*.nii.gz"))]
    assert len(images) == 6
    for image in images[1:]:
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(images[0]))
        assert same_grid(image, images[0], 0.01)


SHEAR = np.array([[1, 0, 0, 0], [0, 1, 0.2, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
CUBE = np.zeros((5, 6, 7), dtype=np.float32)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((5, 6, 7, 3), np.float32), {}, "is 4D, 5x6x7x3"),
        (np.zeros((5, 6), np.float32), {}, "is 2D"),
        (np.zeros((5, 6, 1), np.float32), {}, "flat, 5x6x1"),
        (np.zeros((5, 6, 7), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]), {}, "RGB"),
        (np.zeros((5, 6, 7), dtype=np.complex64), {}, "complex"),
        (np.where(np.arange(210).reshape(5, 6, 7) < 3, np.nan, 1).astype(np.float32), {}, "3 of 210 voxels are NaN"),
        (np.full((5, 6, 7), np.inf, dtype=np.float32), {}, "210 of 210 voxels are NaN or infinite"),
        (CUBE, {"codes": (0, 0)}, "left and right are unknown"),
        (CUBE, {"sform": SHEAR}, "sheared"),
        (CUBE, {"sform": np.diag([1.0, 0, 1, 1])}, "is not positive"),
    ],
)
def test_bad_nifti_is_refused_with_its_name_and_the_reason(tmp_path: Path, array, options, message: str):
    path = save_nifti(tmp_path / "bad.nii.gz", array, **options)
    with pytest.raises(ValueError, match=rf"^bad\.nii\.gz.*{message}"):
        read_image(path)


def test_a_4d_nifti_of_one_volume_is_3d(tmp_path: Path):
    assert read_image(save_nifti(tmp_path / "x.nii", CUBE[..., None])).GetSize() == (5, 6, 7)


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


def test_a_mhd_without_its_data_file_is_refused(tmp_path: Path):
    sitk.WriteImage(make_image(), str(tmp_path / "x.mhd"))
    (tmp_path / "x.raw").unlink(missing_ok=True)
    (tmp_path / "x.zraw").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"data file x.* is missing"):
        read_image(tmp_path / "x.mhd")


def test_nrrd_without_a_space_is_refused(tmp_path: Path):
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 3 4\nendian: little\nencoding: raw\n\n"
    (tmp_path / "x.nrrd").write_bytes(header.encode() + bytes(48))
    with pytest.raises(ValueError, match="left and right are unknown"):
        read_image(tmp_path / "x.nrrd")


def test_write_leaves_nothing_but_the_file(tmp_path: Path):
    write_image(make_image(), tmp_path / "x.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["x.nii.gz"]
    assert same_grid(read_image(tmp_path / "x.nii.gz"), make_image(), 1e-3)
    with pytest.raises(RuntimeError):
        write_image(make_image(), tmp_path / "none" / "x.nii.gz")


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


def test_channels_are_found_by_name_alias_and_ending(tmp_path: Path):
    touch(tmp_path, "ct.NRRD", "t1W.nii.gz", "p7_T2.mha", "label.nii.gz", "notes.txt", ".T1.nii.gz", "FLAIR.nii")
    found = find_channel_files(tmp_path, ("CT", "T1", "T2", "FLAIR"))
    assert {m: path.name for m, path in found.items()} == {
        "CT": "ct.NRRD", "T1": "t1W.nii.gz", "T2": "p7_T2.mha", "FLAIR": "FLAIR.nii",
    }  # fmt: skip


def test_a_whole_name_goes_before_an_ending(tmp_path: Path):
    found = find_channel_files(touch(tmp_path, "T1.nii.gz", "label_T1.nii.gz"), ("T1",))
    assert found["T1"].name == "T1.nii.gz"


def test_missing_and_double_channels_are_named(tmp_path: Path):
    touch(tmp_path, "CT.nii.gz", "CT.nrrd", "T1.nii")
    with pytest.raises(ValueError, match=r"channel T2 is missing.*found CT\.nii\.gz, CT\.nrrd, T1\.nii"):
        find_channel_files(tmp_path, ("T2",))
    with pytest.raises(ValueError, match=r"channel CT has 2 files, CT\.nii\.gz and CT\.nrrd"):
        find_channel_files(tmp_path, ("CT",))
