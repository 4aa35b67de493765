"""Headers of NRRD and MetaImage."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import SimpleITK as sitk
from image_bytes import DIRECTIONS, make_image, meta_image, nrrd, put

from nnunet_ext.images.file_names import image_files
from nnunet_ext.images.geometry import orientation_code
from nnunet_ext.images.reading import read_image


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
