import bz2
import gzip
import io
import itertools
import lzma
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import nnunet_ext
from nnunet_ext.images.file_names import find_channel_files, image_files
from nnunet_ext.images.geometry import orientation_code, same_grid, to_canonical
from nnunet_ext.images.label_maps import read_label_map, shown_values, whole_labels
from nnunet_ext.images.reading import read_image
from nnunet_ext.images.writing import write_image

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
    with pytest.raises(OSError, match="cannot be written: make room on the disk, or choose a folder"):
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


# What is found under the name of an image ------------------------------------------------------------------------------

AFFINE = np.array([[-1.5, 0, 0, 10.0], [0, 1.2, 0, 20.0], [0, 0, 2.0, 30.0], [0, 0, 0, 1.0]])
VALUES = np.arange(210, dtype=np.int16).reshape(5, 6, 7)


def nifti_bytes(sform_code: int = 1, qform_code: int = 1, **fields: float | Sequence[float]) -> bytearray:
    """A NIfTI file of `VALUES` on `AFFINE`, then header fields changed in place, whatever they may hold."""
    nifti = nibabel.Nifti1Image(VALUES, None)
    nifti.header.set_sform(AFFINE, code=sform_code)
    nifti.header.set_qform(AFFINE, code=qform_code)
    content = bytearray(nifti.to_bytes())
    header = np.ndarray((), nibabel.Nifti1Header.template_dtype, buffer=content)
    for name, value in fields.items():
        header[name] = value
    return content


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def assert_is_the_image(path: Path) -> None:
    image = read_image(path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), VALUES.T)
    np.testing.assert_allclose(image.GetSpacing(), (1.5, 1.2, 2.0), rtol=1e-6)
    assert image.GetOrigin() == (-10.0, -20.0, 30.0)
    assert orientation_code(image) == "LAS"


PLAIN = bytes(nifti_bytes())
ZIPPED = gzip.compress(PLAIN)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("T1.nii.gz", PLAIN, "T1.nii.gz is not compressed, unlike its name"),
        ("T1.nii", ZIPPED, "T1.nii is compressed, unlike its name"),
        ("T1.nii.gz", ZIPPED + b"garbage", "T1.nii.gz: what follows its compressed data is no part of the image"),
        ("T1.nii.gz", ZIPPED + bytes(512), ""),
        ("T1.nii.gz", gzip.compress(PLAIN[:500]) + gzip.compress(PLAIN[500:]), ""),
        ("T1.nii.gz", gzip.compress(PLAIN[:500]) + bytes(9) + gzip.compress(PLAIN[500:]) + bytes(3), ""),
        ("T1.NII.GZ", ZIPPED, ""),
        ("T1.Nii", PLAIN + b"more", ""),
    ],
)
def test_the_content_says_whether_a_nifti_file_is_compressed(tmp_path: Path, caplog, name, content, said):
    assert_is_the_image(put(tmp_path / name, content))
    assert said in caplog.text
    assert bool(said) == bool(caplog.records)


ZIP = io.BytesIO()
with zipfile.ZipFile(ZIP, "w") as archive:
    archive.writestr("T1.nii", PLAIN)
DICOM = bytes(128) + b"DICM" + bytes(400)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(PLAIN[:500]) + b"garbage" + gzip.compress(PLAIN[500:]), "cut off: 500 bytes where"),
        (ZIPPED[:-8], "cut off: its gzip stream ends too early"),
        (ZIPPED[:-8] + bytes(8), "damaged: its data cannot be unpacked"),
        (gzip.compress(b""), "cut off: 0 bytes, less than a NIfTI header"),
        (PLAIN[:352], "cut off: 352 bytes where its header promises 772"),
        (PLAIN[:348], "cut off"),
        (b"not an image", "cut off: 12 bytes"),
        (gzip.compress(ZIPPED), "packed with gzip, .*unpack it once more"),
        (b"(\xb5/\xfd" + bytes(400), "packed with zstd, .*unpack it first"),
        (bz2.compress(PLAIN), "packed with bzip2"),
        (lzma.compress(PLAIN), "packed with xz"),
        (ZIP.getvalue(), "a zip archive, .*unpack it first"),
        (DICOM, "a DICOM file, .*folder of its series"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>" * 20, "a web page or XML, .*repeat it"),
        (b'{"error": "no such file"}', "a JSON text"),
        (b"NRRD0004\n", "a NRRD file, .*name it .nrrd"),
        (b"ObjectType = Image\nNDims = 3\n", "a MetaImage file, .*name it .mha"),
        (nifti_bytes(magic=b""), "an Analyze file.*left and right are unknown; write it as NIfTI"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",  # packed bytes hold the time
)  # fmt: skip
@pytest.mark.parametrize("name", ["T1.nii", "T1.nii.gz"])
def test_other_content_under_the_name_of_a_nifti_file_is_named(tmp_path: Path, name, content, message):
    with pytest.raises(ValueError, match=rf"^{name} (is )?{message}") as caught:
        read_image(put(tmp_path / name, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.nrrd", PLAIN, "a NIfTI file, not what its ending says; name it .nii"),
        ("x.mha", ZIPPED, "packed with gzip, .*unpack"),
        ("x.mhd", b"NRRD0004\n", "a NRRD file"),
        ("x.mha", DICOM, "a DICOM file"),
    ],
)
def test_other_content_under_the_name_of_other_formats_is_named(tmp_path: Path, name, content, message):
    with pytest.raises(ValueError, match=rf"^{name} is {message}"):
        read_image(put(tmp_path / name, content))


# NIfTI headers --------------------------------------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vox_offset": 0}, "where the voxels begin .vox_offset 0.*write both as one .nii"),
        ({"vox_offset": NAN}, "where the voxels begin"),
        ({"vox_offset": 4000}, "cut off: 772 bytes where its header promises 4420"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "cut off: 772 bytes where its header promises 70362301923678"),
        ({"dim": [0, 5, 6, 7, 1, 1, 1, 1]}, "impossible sizes"),
        ({"dim": [3, -5, 6, 7, 1, 1, 1, 1]}, "impossible sizes"),
        ({"dim": [5, 5, 6, 7, 1, 3, 1, 1]}, "is 5D, 5x6x7x1x3"),
        ({"datatype": 9999}, "unknown type 9999; write it as"),
        ({"datatype": 1}, "unknown type 1; write it as"),
        ({"scl_slope": 1, "scl_inter": NAN}, "its scale is no number"),
        ({"xyzt_units": 1}, "1.5e.03x1.2e.03x2e.03 mm.*wrong size or unit; write it in mm"),
        ({"xyzt_units": 3}, "0.0015x0.0012x0.002 mm"),
        ({"sform_code": 0, "quatern_d": 1.2}, "its qform is not positive, or its axes do not span space"),
        ({"sform_code": 0, "pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}, "its qform is not positive"),
        ({"qform_code": 0, "srow_x": [0] * 4, "srow_y": [0] * 4, "srow_z": [0] * 4}, "its sform is not positive"),
        ({"qform_code": 0, "sform_code": 0}, "left and right are unknown"),
    ],
)  # fmt: skip
def test_a_nifti_header_that_cannot_be_followed_is_named(tmp_path: Path, fields, message):
    with pytest.raises(ValueError, match=rf"^x\.nii.*{message}") as caught:
        read_image(put(tmp_path / "x.nii", nifti_bytes(**fields)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"sizeof_hdr": 0},
        {"xyzt_units": 0},
        {"scl_slope": 0, "scl_inter": 5},
        {"scl_slope": NAN, "scl_inter": NAN},
        {"scl_slope": float("inf")},
        {"dim": [4, 5, 6, 7, 1, 1, 1, 1]},
        {"dim": [5, 5, 6, 7, 1, 1, 1, 1]},
        {"pixdim": [1, 1, 1, 1, 0, 0, 0, 0]},  # stale beside a right sform
        {"sform_code": 0},
    ],
)
def test_oddities_of_nifti_headers_are_read(tmp_path: Path, caplog, fields):
    assert_is_the_image(put(tmp_path / "x.nii", nifti_bytes(**fields)))
    assert not caplog.records


@pytest.mark.parametrize("row", [[0, 0, 0, 0], [NAN, 0, 0, 0]])
def test_the_qform_counts_where_the_sform_is_claimed_and_empty(tmp_path: Path, caplog, row):
    assert_is_the_image(put(tmp_path / "x.nii", nifti_bytes(srow_x=row)))
    assert "x.nii: its sform is empty or damaged, so its qform says how it lies in space" in caplog.text


@pytest.mark.parametrize("length", [1.0, 1.0000002, 1.0003])
def test_a_quaternion_longer_than_1_by_rounding_is_half_a_turn(tmp_path: Path, length):
    fields = {"quatern_b": 0, "quatern_c": 0, "quatern_d": length, "pixdim": [1, 1.5, 1.2, 2, 0, 0, 0, 0]}
    image = read_image(put(tmp_path / "x.nii", nifti_bytes(sform_code=0, **fields)))
    assert orientation_code(image) == "LPS"
    assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_a_qform_is_read_as_nibabel_and_itk_read_it(tmp_path: Path):
    rng = np.random.default_rng(0)
    for _ in range(20):
        turn = nibabel.quaternions.quat2mat(rng.normal(size=4)) @ np.diag([1, 1, rng.choice([-1, 1])])
        affine = np.eye(4)
        affine[:3, :3] = turn * (0.7, 0.8, 3.0)
        affine[:3, 3] = rng.normal(size=3) * 100
        path = save_nifti(tmp_path / "x.nii", VALUES, qform=affine, codes=(0, 1))
        assert same_grid(read_image(path), sitk.ReadImage(str(path)), 1e-3)


def test_nifti_2_and_big_endian_files_are_read(tmp_path: Path):
    for kind, order in itertools.product((nibabel.Nifti1Image, nibabel.Nifti2Image), "<>"):
        header = kind.header_class(endianness=order)
        header.set_sform(AFFINE, code=1)
        nifti = kind(VALUES.astype(f"{order}f8"), None, header=header)
        assert_is_the_image(put(tmp_path / "x.nii", nifti.to_bytes()))


# NRRD and MetaImage ---------------------------------------------------------------------------------------------------

DIRECTIONS = "space directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (10,20,30)\n"


def nrrd(path: Path, fields: str, *, sizes: str = "2 3 4", data: bytes = bytes(48), encoding: str = "raw") -> Path:
    n = len(sizes.split())
    head = f"NRRD0005\ntype: short\ndimension: {n}\n{fields}sizes: {sizes}\nendian: little\nencoding: {encoding}\n\n"
    return put(path, head.encode() + data)


def meta_image(path: Path, fields: str = "", *, source: str = "LOCAL", data: bytes = bytes(48)) -> Path:
    head = f"ObjectType = Image\nNDims = 3\nBinaryData = True\n{fields}DimSize = 2 3 4\nElementType = MET_SHORT\n"
    return put(path, f"{head}ElementDataFile = {source}\n".encode() + data)


@pytest.mark.parametrize(
    ("space", "code"),
    [
        *(("RAS", "RAS"), ("right-anterior-superior", "RAS"), ("LAS", "LAS"), ("left-anterior-superior", "LAS")),
        *(("LPS", "LPS"), ("Left-Posterior-Superior", "LPS"), ("lps", "LPS")),
    ],
)
def test_spaces_that_name_the_patients_sides_are_read(tmp_path: Path, space: str, code: str):
    assert orientation_code(read_image(nrrd(tmp_path / "x.nrrd", f"space: {space}\n{DIRECTIONS}"))) == code


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (f"space: scanner-xyz\n{DIRECTIONS}", "`space: scanner-xyz`"),
        (f"space: 3D-right-handed\n{DIRECTIONS}", "`space: 3D-right-handed`"),
        (f"space: RPS\n{DIRECTIONS}", "`space: RPS`"),
        ("space dimension: 3\n" + DIRECTIONS, "no `space:`"),
        ("space: LPS\nspacings: 1 2 3\n", "`space directions: none`"),
        ("space: LPS\nspace directions: (1,0,0) (0,2,0) none\n", r"`space directions: \(1,0,0\) \(0,2,0\) none`"),
    ],
)
def test_a_nrrd_that_does_not_name_the_patients_sides_is_refused(tmp_path: Path, fields: str, named: str):
    with pytest.raises(ValueError, match=rf"^x\.nrrd does not say .*{named}.*left and right are unknown; write it"):
        read_image(nrrd(tmp_path / "x.nrrd", fields))


def test_one_volume_of_a_list_is_a_3d_image(tmp_path: Path):
    fields = "space: LPS\nspace directions: none (1,0,0) (0,2,0) (0,0,3)\nkinds: list domain domain domain\n"
    assert read_image(nrrd(tmp_path / "x.nrrd", fields, sizes="1 2 3 4")).GetSpacing() == (1, 2, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": "byte skip: -1\n", "data": bytes(20)}, "cut off: 20 bytes of data where its header promises 48"),
        ({"fields": "line skip: 1\n", "data": b"hello\n" + bytes(20)}, "cut off"),
        ({"fields": "data file: my data.raw\n", "data": b""}, "cut off: 30 bytes"),
        ({"fields": "data file: gone away.raw\n", "data": b""}, "its data file gone away.raw is missing; copy both files"),
        ({"sizes": "2 x 4"}, "damaged: its sizes '2 x 4' are no numbers; export it again"),
        ({"sizes": "2 0 4"}, "damaged: its sizes '2 0 4' are no sizes"),
        ({"sizes": "32767 32767 32767"}, "cut off: 48 bytes of data where its header promises 70362301923326"),
        ({"sizes": "1e400 2 2"}, "are no sizes"),
        ({"encoding": "ascii", "data": b"1 2 3"}, "cannot be read, its header or its data is damaged.*export it again"),
        ({"encoding": "gzip", "data": gzip.compress(bytes(48))[:-9]}, "cut off"),
        ({"encoding": "gzip", "data": gzip.compress(bytes(40))}, "cut off: 40 bytes"),
    ],
)  # fmt: skip
def test_a_nrrd_that_is_not_whole_is_refused(tmp_path: Path, options: dict, message: str):
    put(tmp_path / "my data.raw", bytes(30))
    fields = f"space: LPS\n{DIRECTIONS}{options.pop('fields', '')}"
    with pytest.raises(ValueError, match=rf"^x\.nrrd.*{message}") as caught:
        read_image(nrrd(tmp_path / "x.nrrd", fields, **options))
    assert "\n" not in str(caught.value)


def test_detached_data_is_found_by_any_path(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    data = put(tmp_path / "sub" / "my data.raw", bytes(48))
    for source in ("sub/my data.raw", str(data)):
        header = nrrd(tmp_path / "x.nrrd", f"space: LPS\n{DIRECTIONS}data file: {source}\n", data=b"")
        assert image_files(header) == [header, data]
        assert read_image(header).GetSize() == (2, 3, 4)
        header = meta_image(tmp_path / "X.MHD", source=source, data=b"")
        assert image_files(header) == [header, data]
        assert read_image(header).GetSize() == (2, 3, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            "AnatomicalOrientation = LPS\n",
            "says by AnatomicalOrientation = LPS alone.*write it with its TransformMatrix",
        ),
        ("TransformMatrix = 0 0 0 0 0 0 0 0 0\n", "do not span space; export it again"),
        ("ElementSpacing = 1 0 3\n", "is no voxel size; write the true one"),
        ("ElementSpacing = 1 nan 3\n", "is no voxel size"),
        ("ElementSpacing = 1 x 3\n", "its ElementSpacing '1 x 3' are no numbers"),
    ],
)
def test_a_meta_image_header_that_cannot_be_followed_is_named(tmp_path: Path, fields: str, message: str):
    with pytest.raises(ValueError, match=rf"^x\.mha.*{message}"):
        read_image(meta_image(tmp_path / "x.mha", fields))


def test_a_meta_image_as_itk_writes_it_and_one_in_numbers_as_text_are_read(tmp_path: Path):
    usual = "TransformMatrix = 1 0 0 0 1 0 0 0 1\nAnatomicalOrientation = RAI\nElementSpacing = 1 2 3\n"
    assert orientation_code(read_image(meta_image(tmp_path / "x.MHA", usual))) == "LPS"
    text = (" ".join(map(str, range(24))) + "\n").encode()
    image = read_image(meta_image(tmp_path / "x.mha", f"{usual}BinaryData = False\n", data=text))
    assert sitk.GetArrayViewFromImage(image).max() == 23


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


# Label maps -----------------------------------------------------------------------------------------------------------


def test_labels_within_a_thousandth_of_a_whole_number_are_that_number(tmp_path: Path):
    values = np.float32([[0, 0.9999999, 1.0000001], [1.9995, 6.0000005, -1e-7]])
    labels, odd = whole_labels(values)
    assert labels.tolist() == [[0, 1, 1], [2, 6, 0]]
    assert labels.dtype == np.int32
    assert odd == []
    image = sitk.GetImageFromArray(np.stack([values, values]))
    sitk.WriteImage(image, str(tmp_path / "x.nii.gz"))
    assert sitk.GetArrayFromImage(read_label_map(tmp_path / "x.nii.gz")).tolist() == [[[0, 1, 1], [2, 6, 0]]] * 2


def test_other_values_are_shown_with_the_digits_that_matter(tmp_path: Path):
    labels, odd = whole_labels(np.float32([0.998, 0.5, 1, NAN, 1e20]))
    assert labels.tolist() == [0, 0, 1, 0, 0]
    assert shown_values(odd) == "0.5, 0.998, 1e+20, nan"
    assert shown_values([1, 2.0, 0.9999, 1_000_000, 5, 6, 7]) == "1, 2, 0.9999, 1000000, 5 and 2 more"
    sitk.WriteImage(sitk.GetImageFromArray(np.full((2, 3, 4), 0.998, np.float32)), str(tmp_path / "x.nrrd"))
    with pytest.raises(ValueError, match=r"x\.nrrd holds 0\.998, which is no whole number; a label map is needed"):
        read_label_map(tmp_path / "x.nrrd")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64, np.float64])
def test_label_maps_of_any_type_are_read(tmp_path: Path, dtype):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "x.nrrd"))
    found = sitk.GetArrayFromImage(read_label_map(tmp_path / "x.nrrd"))
    assert found.dtype.kind in "iu"
    np.testing.assert_array_equal(found, values)


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
