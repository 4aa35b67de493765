"""Bytes of image files: compression, and other content under an image's name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pytest
import SimpleITK as sitk
from image_bytes import PLAIN, ZIPPED, assert_is_the_image, make_image, nifti_bytes, put

from nnunet_ext.images.reading import read_image


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
