"""Images as bytes and files, right and wrong ones."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from nnunet_ext.images.geometry import orientation_code
from nnunet_ext.images.reading import read_image


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


CUBE = np.zeros((5, 6, 7), dtype=np.float32)
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
NAN = float("nan")
DIRECTIONS = "space directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (10,20,30)\n"


def nrrd(path: Path, fields: str, *, sizes: str = "2 3 4", data: bytes = bytes(48), encoding: str = "raw") -> Path:
    n = len(sizes.split())
    head = f"NRRD0005\ntype: short\ndimension: {n}\n{fields}sizes: {sizes}\nendian: little\nencoding: {encoding}\n\n"
    return put(path, head.encode() + data)


def meta_image(path: Path, fields: str = "", *, source: str = "LOCAL", data: bytes = bytes(48)) -> Path:
    head = f"ObjectType = Image\nNDims = 3\nBinaryData = True\n{fields}DimSize = 2 3 4\nElementType = MET_SHORT\n"
    return put(path, f"{head}ElementDataFile = {source}\n".encode() + data)
