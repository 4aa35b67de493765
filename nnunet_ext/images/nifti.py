"""NIfTI files with the checks that readers leave out: which affine holds, shear, units, length."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from nnunet_ext.images.file_content import GZIP, cut_off, decompressed, one_line, refuse_other_content
from nnunet_ext.images.notes import note
from nnunet_ext.messages import Message

if TYPE_CHECKING:
    from nibabel import Nifti1Header

#: An sform is sheared if the cosine between two of its axes is larger. This is 0.06 degrees, or 0.25 mm over a head.
SHEAR_TOLERANCE = 1e-3
#: A qform's quaternion may be longer than 1 by this much, if its numbers were rounded to three decimals.
QUATERNION_TOLERANCE = 1e-3
_MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}  # NIfTI xyzt_units: metre, mm, micron


def read_nifti(path: Path) -> sitk.Image:
    """The image of a NIfTI file as stored, on the grid that its header names.

    Raises:
        ValueError: If the file is damaged, or is no scalar 3D image with a known orientation.
    """
    from nibabel import Nifti1Header, Nifti2Header
    from nibabel.arrayproxy import ArrayProxy
    from nibabel.spatialimages import HeaderDataError

    content = _nifti_content(path)
    n_bytes = content.getbuffer().nbytes
    start = bytes(content.getbuffer()[:540])
    refuse_other_content(path, start, "NIfTI")
    if n_bytes < 348:
        raise cut_off(path, f"{n_bytes} bytes, less than a NIfTI header")
    kinds = {b"n+1": Nifti1Header, b"ni1": Nifti1Header, b"n+2": Nifti2Header, b"ni2": Nifti2Header}
    kind = kinds.get(start[344:347]) or kinds.get(start[4:7])
    if kind is None:
        if 348 in (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")):
            raise ValueError(
                f"{path.name} is an Analyze file, which does not say how it lies in space, so left and right are unknown; "
                "write it as NIfTI with its orientation"
            )
        raise ValueError(
            f"{path.name} is not a readable NIfTI file: it begins neither like one nor like gzip, so it is damaged or "
            "something else; copy it again, or export it as NIfTI"
        )
    if n_bytes < kind.sizeof_hdr:
        raise cut_off(path, f"{n_bytes} bytes, less than a NIfTI header")
    header = kind(start[: kind.sizeof_hdr], check=False)  # nibabel's checks mend in silence, or say it to its own log
    try:
        dtype = header.get_data_dtype()
        if dtype.kind == "V" and dtype.fields is None:  # single bits
            raise KeyError(dtype)
    except (HeaderDataError, KeyError) as error:
        raise ValueError(
            f"{path.name} holds voxels of the unknown type {int(header['datatype'])}; write it as 16-bit integer or float"
        ) from error
    if dtype.fields is not None or dtype.kind == "c":
        meant = "an RGB (colour)" if dtype.fields is not None else "a complex-valued"
        raise ValueError(f"{path.name} is {meant} image; a scalar 3D image is needed")
    shape = whole = _nifti_shape(path, header["dim"].tolist())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise ValueError(f"{path.name} is {len(shape)}D, {'x'.join(map(str, whole))}; one 3D image is needed")
    offset = float(header["vox_offset"])
    if not offset >= kind.sizeof_hdr:
        raise ValueError(
            f"{path.name}: its header does not say where the voxels begin (vox_offset {offset:g}): it is damaged, or the "
            "header of a pair of files; write both as one .nii"
        )
    expected = offset + math.prod(shape) * dtype.itemsize
    if n_bytes < expected:
        raise cut_off(path, f"{n_bytes} bytes where its header promises {expected:.0f}")
    try:
        slope, inter = header.get_slope_inter()  # None, None where the slope is 0 or no number: not scaled
    except HeaderDataError as error:
        raise ValueError(
            f"{path.name}: its scale is no number (scl_slope {header['scl_slope']}, scl_inter {header['scl_inter']}); "
            "export the image again"
        ) from error
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    if packed != path.name.lower().endswith(".gz"):
        if packed:
            note(Message("packed_unlike_its_name", {"file": path.name}))
        else:
            note(Message("not_packed_unlike_its_name", {"file": path.name}))
    data = np.asanyarray(ArrayProxy(content, (shape, dtype, int(offset), slope or 1.0, inter or 0.0)))
    del content  # half of the memory
    if data.dtype.kind == "f" and data.dtype.itemsize != 4:
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
            data = data.astype(np.float32)
    data = np.ascontiguousarray(data.T, dtype=data.dtype.newbyteorder("="))
    image = sitk.GetImageFromArray(data)

    affine, form = _nifti_affine(path, header)
    affine[:3] *= _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    matrix = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]  # RAS to LPS
    spacing = np.linalg.norm(matrix, axis=0)
    image.SetSpacing([float(mm) for mm in spacing])
    image.SetOrigin([float(mm) for mm in affine[:3, 3] * (-1.0, -1.0, 1.0)])
    image.SetDirection(rotation_of(matrix / spacing, f"{path.name}: its {form}").ravel().tolist())
    return image


def _nifti_content(path: Path) -> io.BytesIO:
    """Content of a NIfTI file, unpacked, in one piece of memory that goes back whole when it is freed."""
    with path.open("rb") as file:
        if file.read(2) != GZIP:
            file.seek(0)
            return io.BytesIO(file.read())
    content = io.BytesIO()
    try:
        for piece in decompressed(path, 0, "gzip"):
            content.write(piece)
    except EOFError as error:
        raise cut_off(path, "its gzip stream ends too early") from error
    except zlib.error as error:
        raise ValueError(
            f"{path.name} is damaged: its data cannot be unpacked ({one_line(error)}); copy it again"
        ) from error
    content.seek(0)
    return content


def _nifti_shape(path: Path, dim: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(dim[1 : 1 + dim[0]]) if 1 <= dim[0] <= 7 else ()
    if not shape or min(shape) < 1:
        raise ValueError(f"{path.name} is damaged: its header gives impossible sizes (dim {dim}); copy it again")
    return shape


def _nifti_affine(path: Path, header: Nifti1Header) -> tuple[np.ndarray, str]:
    """Voxel index to RAS in the header's unit, shape `(4, 4)`, and the form that says so.

    The sform goes before the qform.

    Tools that have only a qform may claim an sform and leave it empty. The qform counts then, as in ITK, and is logged.
    """
    forms = {}
    if int(header["sform_code"]) > 0:
        forms["sform"] = np.array(header.get_sform(), dtype=float)
    if int(header["qform_code"]) > 0:
        forms["qform"] = _qform(header)
    if not forms:
        raise ValueError(
            f"{path.name} does not say how it lies in space (sform and qform codes are 0), so left and right are "
            "unknown; write it with its orientation"
        )
    good = [form for form, affine in forms.items() if _places_voxels(affine)]
    if not good:
        form = next(iter(forms))
        spacing = np.linalg.norm(forms[form][:3, :3], axis=0)
        raise ValueError(
            f"{path.name}: spacing {spacing.tolist()} mm of its {form} is not positive, or its axes do not span "
            "space; write the true voxel size and orientation"
        )
    if good[0] != next(iter(forms)):
        note(Message("sform_damaged", {"file": path.name}))
    return forms[good[0]], good[0]


def _qform(header: Nifti1Header) -> np.ndarray:
    """Affine of the qform, NaN if its quaternion is none. Rounding may leave it longer than 1, which is half a turn."""
    from nibabel.quaternions import quat2mat

    b, c, d = (float(header[f"quatern_{name}"]) for name in "bcd")
    rest = 1.0 - (b * b + c * c + d * d)
    affine = np.full((4, 4), np.nan)
    if rest < -QUATERNION_TOLERANCE or not np.isfinite(rest):
        return affine
    # Below three steps of a 32-bit float the rest is rounding, as NiBabel has it.
    turn = quat2mat([0.0 if rest < 3 * np.finfo(np.float32).eps else math.sqrt(rest), b, c, d])
    sizes = np.abs(header["pixdim"][1:4].astype(float)) * (1, 1, -1 if header["pixdim"][0] < 0 else 1)
    affine[:3, :3] = turn * sizes
    affine[:3, 3] = [float(header[f"qoffset_{name}"]) for name in "xyz"]
    affine[3] = (0, 0, 0, 1)
    return affine


def _places_voxels(affine: np.ndarray) -> bool:
    """Whether an affine is finite and its three axes span space."""
    axes = affine[:3, :3]
    return bool(np.isfinite(affine).all() and abs(np.linalg.det(axes)) > 1e-6 * np.linalg.norm(axes, axis=0).prod() > 0)


def rotation_of(axes: np.ndarray, where: str) -> np.ndarray:
    """Nearest orthonormal matrix, as headers hold 32-bit floats. Raises ValueError if the axes are truly sheared."""
    cosines = np.abs(axes.T @ axes - np.eye(3))
    if cosines.max() > SHEAR_TOLERANCE:
        raise ValueError(
            f"{where} is sheared: its axes are not at right angles (cosine {cosines.max():.4f}; gantry tilt?); "
            "resample the image to a rectangular grid first"
        )
    whole = np.round(axes)
    if np.allclose(axes, whole, atol=1e-6):
        return whole + 0.0  # no -0
    u, _, vt = np.linalg.svd(axes)
    return np.round(u @ vt, 12) + 0.0  # ITK cannot invert a direction with entries such as 1e-40
