"""NIfTI headers: scale, units, sform and qform."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from image_bytes import AFFINE, CUBE, NAN, VALUES, assert_is_the_image, nifti_bytes, put, save_nifti

from nnunet_ext.images.geometry import orientation_code, same_grid
from nnunet_ext.images.reading import read_image


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


SHEAR = np.array([[1, 0, 0, 0], [0, 1, 0.2, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


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
