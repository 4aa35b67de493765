"""Reading and writing one 3D image, with the checks that image libraries leave out.

`read_image` is the only reader of image files in this package; `read_label_map` is the same for label maps. It refuses
what would go wrong hours later: cut-off files (SimpleITK fills the rest with zeros), 4D and colour images, NaN, and
headers whose orientation is missing, sheared or contradictory. NIfTI is read through NiBabel from one pass over the file.
The content says whether it is compressed, whatever its name. Where a stale qform stands beside an sform, the sform counts
(ITK decides otherwise in some cases). NRRD and MetaImage are read by SimpleITK after their byte count has been checked.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import logging
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import IO

import numpy as np
import SimpleITK as sitk

from nnunet_ext.files import written_whole

log = logging.getLogger(__name__)
_lines: ContextVar[list[str] | None] = ContextVar("lines", default=None)

#: File endings that are read, longest first so that `.nii.gz` is not taken for `.gz`.
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")

#: Other names of a channel. Names that are not listed stand for themselves; case never matters.
MODALITY_ALIASES = {
    "CT": ("CT", "CT_plan", "planCT", "planning_CT", "pCT"),
    "T1": ("T1", "T1w", "MR_T1", "MRI_T1", "T1_MR"),
    "T2": ("T2", "T2w", "MR_T2", "MRI_T2", "T2_MR"),
}

#: Voxels whose longest side is shorter than this were meant in metres: no clinical scanner goes below 0.1 mm.
SMALLEST_SPACING_MM = 0.02
#: Voxels with a longer side are those of a header that says metres and means millimetres.
LARGEST_SPACING_MM = 100.0

#: Cosine between two axes of an sform above which it is sheared: 0.06 degrees, 0.25 mm over a head.
SHEAR_TOLERANCE = 1e-3

#: A label this near to a whole number is that number: what scaling and resampling in 32-bit float leave of it.
LABEL_TOLERANCE = 1e-3

#: A qform's quaternion may be longer than 1 by rounding: each of its numbers to three decimals.
QUATERNION_TOLERANCE = 1e-3

_GZIP = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 16  # as much as 64 MB when unpacked
_MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}  # NIfTI xyzt_units: metre, mm, micron


def image_stem(path: Path) -> str | None:
    """File name without its image ending, or None where it is not an image this package reads."""
    lower = path.name.lower()
    if lower.startswith("."):
        return None
    ending = next((ending for ending in ENDINGS if lower.endswith(ending)), None)
    return path.name[: -len(ending)] if ending and len(lower) > len(ending) else None


def image_files(path: Path) -> list[Path]:
    """The files that make up one image: itself, and the data file that a `.mhd` or detached `.nrrd` header names."""
    name = None
    _refuse_pointer(path)
    if path.name.lower().endswith(".mhd"):
        name = _meta_image_header(path)[0].get("elementdatafile")
    elif path.name.lower().endswith(".nrrd"):
        fields = _nrrd_header(path)[0]
        name = fields.get("data file", fields.get("datafile"))
    if name is None or name.upper().startswith(("LOCAL", "LIST")) or "%" in name:
        return [path]
    return [path, path.parent / name.strip()]


def _refuse_pointer(path: Path) -> None:
    """ValueError for an empty file and for what git leaves in place of a large file it has not fetched."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise ValueError(f"{path.name} is empty (0 bytes); copy it again")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path.name} is a git-LFS pointer, not an image; fetch its content with `git lfs pull`")


def broken_link(path: Path) -> str:
    """The message for a link that leads nowhere."""
    return f"{path.name} is a broken link: what it leads to is not there; copy it, or mend or remove the link"


def refuse_no_file(path: Path) -> None:
    """ValueError where a file that was chosen by its name is a broken link, a pipe or a device.

    Opening a pipe would wait for ever.
    """
    if not path.is_file():
        if path.is_symlink() and not path.exists():
            raise ValueError(broken_link(path))
        raise ValueError(f"{path.name} is no regular file; put the image itself there")


def find_channel_files(folder: Path, modalities: Sequence[str], *, optional: Sequence[str] = ()) -> dict[str, Path]:
    """The file of each channel in a case folder; channels in `optional` may have none.

    A file is the channel `T1` if its name without ending is `T1` or one of its aliases (`T1w`), or ends in it after
    `_`, `-` or a blank (`patient7_T1.nii.gz`), whatever the case. A whole name goes before an ending.

    Raises:
        ValueError: If a channel has no file or more than one; the message names the files.
    """
    stems = {path: stem for path in sorted(folder.iterdir()) if not path.is_dir() and (stem := image_stem(path))}
    found = {}
    for modality in modalities:
        names = {name.lower() for name in (modality, *MODALITY_ALIASES.get(modality.upper(), ()))}
        whole = [path for path, stem in stems.items() if stem.lower() in names]
        ends = [path for path, stem in stems.items() if re.split(r"[_\- ]", stem.lower())[-1] in names]
        candidates = whole or ends
        if not candidates and modality in optional:
            continue
        if not candidates:
            there = ", ".join(path.name for path in stems) or "no image"
            raise ValueError(
                f"channel {modality} is missing: no file named {modality}{{{','.join(ENDINGS)}}}; found {there}"
            )
        if len(candidates) > 1:
            several = " and ".join(path.name for path in candidates)
            raise ValueError(f"channel {modality} has {len(candidates)} files, {several}; keep one")
        refuse_no_file(candidates[0])
        found[modality] = candidates[0]
    owners: dict[Path, str] = {}
    for modality, path in found.items():
        if path in owners:
            raise ValueError(f"{path.name} would be both channel {owners[path]} and channel {modality}; rename it")
        owners[path] = modality
    return found


@contextlib.contextmanager
def collected_notes(lines: list[str]) -> Iterator[None]:
    """Lines about files read meanwhile go to a list and not to the log: the caller knows of which case they are."""
    before = _lines.set(lines)
    try:
        yield
    finally:
        _lines.reset(before)


def _note(line: str) -> None:
    if (lines := _lines.get()) is None:
        log.warning(line)
    elif line not in lines:
        lines.append(line)


def read_image(path: Path) -> sitk.Image:
    """One whole, finite, scalar 3D image with a known orientation.

    Args:
        path: `.nii`, `.nii.gz`, `.nrrd`, `.mha` or `.mhd`.

    Returns:
        The image as stored (axis order untouched); NIfTI with a scale factor becomes 32-bit float. What is odd about a
        file that is read all the same is logged, or goes where `collected_notes` says.

    Raises:
        FileNotFoundError, OSError: If there is no such file, or it may not be read.
        ValueError: If the image is not one.
        The messages have one line. They name the file, what is wrong and what to do.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path.name} is a folder, not an image; give the file in it")
    if not (path.exists() or path.is_symlink()):
        raise FileNotFoundError(f"{path.name} does not exist")
    refuse_no_file(path)
    if image_stem(path) is None:
        raise ValueError(f"{path.name}: cannot read this ending; use one of {', '.join(ENDINGS)}")
    try:
        _refuse_pointer(path)
        image = _read_nifti(path) if path.name.lower().endswith((".nii", ".nii.gz")) else _read_with_itk(path)
    except OSError as error:
        reason = error.strerror or _one_line(error)
        raise OSError(f"{path.name} cannot be read ({reason}); check who may read it, or copy it again") from error
    except MemoryError as error:
        raise MemoryError(f"{path.name} does not fit into memory; free some, or crop the image") from error
    size, spacing = image.GetSize(), image.GetSpacing()
    if min(size) < 2:
        raise ValueError(f"{path.name}: a 3D image is needed, this one is flat, {'x'.join(map(str, size))} voxels")
    if not all(np.isfinite(mm) and mm > 0 for mm in spacing):
        raise ValueError(f"{path.name}: spacing {spacing} mm is not positive; write the file with its true voxel size")
    size_mm = "x".join(f"{mm:.3g}" for mm in spacing)
    if max(spacing) < SMALLEST_SPACING_MM:
        raise ValueError(
            f"{path.name}: its voxels measure {size_mm} mm, so it is in metres or names a wrong unit; write it in mm"
        )
    if max(spacing) > LARGEST_SPACING_MM:
        raise ValueError(
            f"{path.name}: its voxels measure {size_mm} mm: its header gives a wrong size or unit; write it in mm"
        )
    array = sitk.GetArrayViewFromImage(image)
    if array.dtype.kind == "f":
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            raise ValueError(f"{path.name}: {bad} of {array.size} voxels are NaN or infinite; export the image again")
    return image


def read_label_map(path: Path) -> sitk.Image:
    """A label map: as `read_image`, its values whole numbers of an integer type.

    Raises:
        FileNotFoundError, ValueError: As `read_image`, and where `label_map_of` finds values that are no labels.
    """
    image, odd = label_map_of(read_image(path))
    if odd:
        raise ValueError(
            f"{Path(path).name} holds {shown_values(odd)}, which is no whole number; a label map is needed, no "
            "probabilities and no image"
        )
    return image


def label_map_of(image: sitk.Image) -> tuple[sitk.Image, list[float]]:
    """An image with its values as labels, and those that are none; see `whole_labels`."""
    array = sitk.GetArrayViewFromImage(image)
    labels, odd = whole_labels(array)
    if labels is array:
        return image, odd
    result = sitk.GetImageFromArray(labels)
    result.CopyInformation(image)
    return result, odd


def whole_labels(array: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Label values as whole numbers, and those that are none.

    Args:
        array: Of any shape. An integer array is returned as it is.

    Returns:
        32-bit integers, 0 where the value is no label. Sorted values further than `LABEL_TOLERANCE` from a whole number,
        beyond 32 bit, or not finite.
    """
    if array.dtype.kind != "f":
        return array, []
    nearest = np.rint(array)
    fits = (np.abs(array - nearest) <= LABEL_TOLERANCE) & (np.abs(nearest) < 2**31)  # False for NaN
    return np.where(fits, nearest, 0).astype(np.int32), np.unique(array[~fits]).tolist() if not fits.all() else []


def shown_values(values: Iterable[float], most: int = 5) -> str:
    """Label values for a message, with all digits that tell them from others: `1, 0.5 and 3 more`."""
    texts = [str(np.float32(value) if isinstance(value, float) else value).removesuffix(".0") for value in values]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image under a temporary name in the same folder, then rename it: a stopped run leaves no half file."""
    path = Path(path)
    ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), path.suffix)
    ending = path.name[len(path.name) - len(ending) :]
    try:
        with written_whole(path, ending=ending) as temporary:
            sitk.WriteImage(image, str(temporary), True)
    except RuntimeError as error:  # ITK's word for it
        raise OSError(
            f"{path} cannot be written: make room on the disk, or choose a folder you may write to"
        ) from error


# ---------------------------------------------------------------------------------------------------- NIfTI


def _read_nifti(path: Path) -> sitk.Image:
    from nibabel import Nifti1Header, Nifti2Header
    from nibabel.arrayproxy import ArrayProxy
    from nibabel.spatialimages import HeaderDataError

    content = _nifti_content(path)
    n_bytes = content.getbuffer().nbytes
    start = bytes(content.getbuffer()[:540])
    _refuse_other_content(path, start, "NIfTI")
    if n_bytes < 348:
        raise _cut_off(path, f"{n_bytes} bytes, less than a NIfTI header")
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
        raise _cut_off(path, f"{n_bytes} bytes, less than a NIfTI header")
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
        raise _cut_off(path, f"{n_bytes} bytes where its header promises {expected:.0f}")
    try:
        slope, inter = header.get_slope_inter()  # None, None where the slope is 0 or no number: not scaled
    except HeaderDataError as error:
        raise ValueError(
            f"{path.name}: its scale is no number (scl_slope {header['scl_slope']}, scl_inter {header['scl_inter']}); "
            "export the image again"
        ) from error
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    if packed != path.name.lower().endswith(".gz"):
        state = "compressed" if packed else "not compressed"
        _note(f"{path.name} is {state}, unlike its name: other programs may refuse it, rename it")
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
    image.SetDirection(_rotation(matrix / spacing, f"{path.name}: its {form}").ravel().tolist())
    return image


def _nifti_content(path: Path) -> io.BytesIO:
    """What a NIfTI file holds, unpacked where it is gzip, in one piece of memory that goes back whole when it is freed."""
    with path.open("rb") as file:
        if file.read(2) != _GZIP:
            file.seek(0)
            return io.BytesIO(file.read())
    content = io.BytesIO()
    try:
        for piece in _decompressed(path, 0, "gzip"):
            content.write(piece)
    except EOFError as error:
        raise _cut_off(path, "its gzip stream ends too early") from error
    except zlib.error as error:
        raise ValueError(
            f"{path.name} is damaged: its data cannot be unpacked ({_one_line(error)}); copy it again"
        ) from error
    content.seek(0)
    return content


def _nifti_shape(path: Path, dim: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(dim[1 : 1 + dim[0]]) if 1 <= dim[0] <= 7 else ()
    if not shape or min(shape) < 1:
        raise ValueError(f"{path.name} is damaged: its header gives impossible sizes (dim {dim}); copy it again")
    return shape


def _nifti_affine(path: Path, header) -> tuple[np.ndarray, str]:
    """Voxel index to RAS in the header's unit, shape `(4, 4)`, and which form says so: the sform, else the qform.

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
        _note(f"{path.name}: its sform is empty or damaged, so its qform says how it lies in space")
    return forms[good[0]], good[0]


def _qform(header) -> np.ndarray:
    """Affine of the qform, NaN where its quaternion is none. Rounding may leave it longer than 1: that is half a turn."""
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


def _rotation(axes: np.ndarray, where: str) -> np.ndarray:
    """Nearest orthonormal matrix: headers hold 32-bit floats. Raises ValueError where the axes are truly sheared."""
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


# -------------------------------------------------------------------------------------- NRRD and MetaImage


def _read_with_itk(path: Path) -> sitk.Image:
    nrrd = path.name.lower().endswith(".nrrd")
    with path.open("rb") as file:
        _refuse_other_content(path, file.read(540), "NRRD" if nrrd else "MetaImage")
    try:
        _check_nrrd(path) if nrrd else _check_meta_image(path)
    except OverflowError as error:  # a size of 1e99
        raise ValueError(f"{path.name} is damaged: its header gives impossible sizes; copy it again") from error
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("NrrdImageIO" if nrrd else "MetaImageIO")  # found by themselves only for endings in lower case
    try:
        reader.ReadImageInformation()
        dimension, components = reader.GetDimension(), reader.GetNumberOfComponents()
        size = reader.GetSize()
        if components > 1:
            raise ValueError(
                f"{path.name} is an RGB or vector image of {components} components; a scalar one is needed"
            )
        if dimension == 4 and size[3] == 1:
            reader.SetExtractSize([*size[:3], 0])
        elif dimension != 3:
            sizes = "x".join(map(str, size))
            raise ValueError(f"{path.name} is {dimension}D, {sizes}; one 3D image is needed")
        image = reader.Execute()
    except RuntimeError as error:
        raise ValueError(
            f"{path.name} cannot be read, its header or its data is damaged or missing: {_one_line(error)}; export it again"
        ) from error
    if "complex" in image.GetPixelIDTypeAsString():
        raise ValueError(f"{path.name} is a complex-valued image; a scalar 3D image is needed")
    direction = np.reshape(image.GetDirection(), (3, 3))
    image.SetDirection(_rotation(direction, f"{path.name}: its direction").ravel().tolist())
    return sitk.Cast(image, sitk.sitkFloat32) if image.GetPixelID() == sitk.sitkFloat64 else image


_META_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
_NRRD_BYTES = {
    1: ("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"),
    2: ("short", "short int", "signed short", "signed short int", "int16", "int16_t", "ushort", "unsigned short",
        "unsigned short int", "uint16", "uint16_t"),
    4: ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"),
    8: ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t",
        "ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t", "double"),
}  # fmt: skip


def _meta_image_header(path: Path) -> tuple[dict[str, str], int]:
    """Fields of a MetaImage header (names in lower case) and where the data starts in the same file."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        for line in iter(lambda: file.readline(65536), b""):
            key, separator, value = line.decode("latin-1").partition("=")
            if not separator:
                break
            fields[key.strip().lower()] = value.strip()
            if key.strip().lower() == "elementdatafile":
                break
        return fields, file.tell()


def _check_meta_image(path: Path) -> None:
    fields, start = _meta_image_header(path)
    source = fields.get("elementdatafile")
    if source is None or "dimsize" not in fields:
        raise ValueError(
            f"{path.name} is not a MetaImage file: its header has no DimSize or ElementDataFile; export it again"
        )
    # MetaIO's letters say where an axis comes from. It reads them and forgets them.
    letters = fields.get("anatomicalorientation", "RAI").upper()
    matrix = fields.keys() & {"transformmatrix", "orientation", "rotation"}
    if not matrix and letters != "RAI" and re.fullmatch("[RLAPIS]{3}", letters):
        raise ValueError(
            f"{path.name} says by AnatomicalOrientation = {letters} alone how it lies in space, which no reader follows; "
            "write it with its TransformMatrix"
        )
    spacing = _numbers(path, "ElementSpacing", fields.get("elementspacing", "1"))
    if not all(math.isfinite(mm) and mm != 0 for mm in spacing):  # negative: ITK turns the axis round
        raise ValueError(f"{path.name}: ElementSpacing {spacing} mm is no voxel size; write the true one")
    axes = _numbers(path, "TransformMatrix", fields.get("transformmatrix", ""))
    if len(axes) == 9 and not abs(np.linalg.det(np.reshape(axes, (3, 3)))) > 1e-6:
        raise ValueError(f"{path.name}: the axes of its TransformMatrix {axes} do not span space; export it again")
    sizes = _sizes(path, "DimSize", fields["dimsize"])
    if fields.get("ndims", str(len(sizes))) != str(len(sizes)):
        raise ValueError(
            f"{path.name} is damaged: DimSize {fields['dimsize']} for NDims {fields['ndims']}; export it again"
        )
    if source.upper() == "LIST" or "%" in source:
        return  # slices in files of their own: SimpleITK says when one is missing
    data = path if source.upper() == "LOCAL" else path.parent / source
    if not data.is_file():
        raise ValueError(f"{path.name}: its data file {source} is missing; copy both files")
    item = _META_BYTES.get(fields.get("elementtype", "").upper().removeprefix("MET_").replace("UCHAR", "CHAR")
                           .replace("USHORT", "SHORT").replace("UINT", "INT").replace("ULONG", "LONG"))  # fmt: skip
    if item is None:
        raise ValueError(
            f"{path.name}: element type {fields.get('elementtype')!r} is not a number; a scalar image is needed"
        )
    if fields.get("binarydata", "true").lower() == "false":
        item = 2  # numbers as text: a digit and a blank at least
    expected = (
        math.prod(sizes) * item * int(*_numbers(path, "channels", fields.get("elementnumberofchannels", "1"))[:1])
    )
    header_size = int(*_numbers(path, "HeaderSize", fields.get("headersize", "0"))[:1])
    skip = start if data == path else max(header_size, 0)  # -1: the data is at the end
    compressed = fields.get("compresseddata", "false").lower() == "true"
    _check_byte_count(path, data, skip, expected, "zlib" if compressed else "raw")


def _nrrd_header(path: Path) -> tuple[dict[str, str], int]:
    """Fields of a NRRD header (names in lower case) and where the data starts in the same file."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        if not file.readline(64).startswith(b"NRRD"):
            raise ValueError(f"{path.name} is not a NRRD file: it does not start with NRRD")
        for line in iter(lambda: file.readline(65536), b""):
            text = line.decode("latin-1").rstrip("\r\n")
            if not text:
                break
            key, separator, value = text.partition(":")
            if separator and not text.startswith("#") and not value.startswith("="):
                fields[key.strip().lower()] = value.strip()
        return fields, file.tell()


#: What `space:` may say so that left and right are known; SimpleITK reads these and takes any other for LPS.
_NRRD_SPACES = {
    *("right-anterior-superior", "ras", "left-anterior-superior", "las", "left-posterior-superior", "lps"),
    *("right-anterior-superior-time", "rast", "left-anterior-superior-time", "last"),
    *("left-posterior-superior-time", "lpst"),
}


def _check_nrrd(path: Path) -> None:
    fields, start = _nrrd_header(path)
    item = next((size for size, names in _NRRD_BYTES.items() if fields.get("type", "").lower() in names), None)
    if item is None or "sizes" not in fields:
        raise ValueError(
            f"{path.name}: NRRD type {fields.get('type')!r} and sizes {fields.get('sizes')!r} are no image; export it again"
        )
    sizes = _sizes(path, "sizes", fields["sizes"])
    space = fields.get("space")
    if space is None or space.lower() not in _NRRD_SPACES:
        named = "no `space:`" if space is None else f"`space: {space}`"
        raise ValueError(
            f"{path.name} does not say how it lies in space ({named}), so left and right are unknown; write it with its "
            "orientation"
        )
    directions = re.findall(r"none|\([^)]*\)", fields.get("space directions", "").lower())
    if sum(direction != "none" for direction in directions) < 3:
        raise ValueError(
            f"{path.name} does not say how its three axes lie in space (`space directions: "
            f"{fields.get('space directions', 'none')}`), so left and right are unknown; write it with its orientation"
        )
    source = fields.get("data file", fields.get("datafile"))
    encoding = fields.get("encoding", "raw").lower()
    lines = int(*_numbers(path, "line skip", fields.get("line skip", fields.get("lineskip", "0")))[:1])
    bytes_ = int(*_numbers(path, "byte skip", fields.get("byte skip", fields.get("byteskip", "0")))[:1])
    if source and ("%" in source or source.upper().startswith("LIST")):
        return  # slices in files of their own: SimpleITK says when one is missing
    data = path.parent / source if source else path
    if not data.is_file():
        raise ValueError(f"{path.name}: its data file {source} is missing; copy both files")
    expected = math.prod(sizes) * item
    kind = {"gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2", "raw": "raw"}.get(encoding)
    if kind and not (lines and kind != "raw"):  # text is counted by SimpleITK's reader itself
        skip = 0 if source else start
        if kind == "raw":
            skip += max(bytes_, 0) + lines  # -1: the data is at the end; a line has one byte at least
        else:
            expected += max(bytes_, 0)  # of what is unpacked
        _check_byte_count(path, data, skip, expected, kind)


def _numbers(path: Path, field: str, text: str) -> list[float]:
    try:
        return [float(number) for number in text.split()]
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged: its {field} {text!r} are no numbers; export it again") from error


def _sizes(path: Path, field: str, text: str) -> list[int]:
    sizes = _numbers(path, field, text)
    if not sizes or not all(math.isfinite(n) and n >= 1 and n == int(n) for n in sizes):
        raise ValueError(f"{path.name} is damaged: its {field} {text!r} are no sizes; export it again")
    return [int(n) for n in sizes]


def _check_byte_count(path: Path, data: Path, skip: int, expected: int, encoding: str) -> None:
    """Raise ValueError where a file holds less data than its header promises, or its compressed data is damaged."""
    try:
        if encoding == "raw":
            count = data.stat().st_size - skip
        else:
            count = sum(len(piece) for piece in _decompressed(data, skip, encoding))
    except EOFError as error:
        raise _cut_off(path, "its compressed data ends too early") from error
    except (zlib.error, OSError, ValueError) as error:
        raise ValueError(
            f"{path.name} is damaged: its data cannot be unpacked ({_one_line(error)}); copy it again"
        ) from error
    if count < expected:
        raise _cut_off(path, f"{count} bytes of data where its header promises {expected}")


def _decompressed(data: Path, skip: int, encoding: str) -> Iterator[bytes]:
    """What a packed stream holds, piece by piece, its checksum checked. Several gzip or bzip2 streams in a row are one.

    Whatever else follows is left out and said: if the image is whole without it, it is no part of the image.
    """
    # zlib: MetaImage writes zlib streams, NRRD gzip ones; 47 accepts both.
    mark = {"gzip": _GZIP, "bzip2": b"BZh", "zlib": None}[encoding]
    with data.open("rb") as file:
        file.seek(skip)
        rest = file.read(_CHUNK_BYTES)
        while True:
            stream = bz2.BZ2Decompressor() if encoding == "bzip2" else zlib.decompressobj(47)
            while not stream.eof:
                if not rest:
                    raise EOFError("its compressed data ends too early")
                yield stream.decompress(rest)
                rest = b"" if stream.eof else file.read(_CHUNK_BYTES)
            rest = _without_padding(file, stream.unused_data)
            if mark is None or not rest:
                return
            if not rest.startswith(mark):
                _note(f"{data.name}: what follows its compressed data is no part of the image and was left out")
                return


def _without_padding(file: IO[bytes], start: bytes) -> bytes:
    """The beginning of what follows a stream, without the zeros that fill up blocks; empty at the end of the file."""
    rest = start.lstrip(b"\0")
    while len(rest) < 3 and (more := file.read(_CHUNK_BYTES)):
        rest = (rest + more).lstrip(b"\0")
    return rest


# ------------------------------------------------------------------------------------------------- messages


#: How files begin that are found under the name of an image, what they are, and what to do with them.
_OTHER_CONTENT = (
    (b"(\xb5/\xfd", "packed with zstd", "unpack it first"),
    (b"BZh", "packed with bzip2", "unpack it first"),
    (b"\xfd7zXZ", "packed with xz", "unpack it first"),
    (b"\x04\x22M\x18", "packed with lz4", "unpack it first"),
    (_GZIP, "packed with gzip", "unpack it once more"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"Rar!", "a rar archive", "unpack it first"),
    (b"NRRD", "a NRRD file", "name it .nrrd"),
    (b"ObjectType", "a MetaImage file", "name it .mha, or .mhd where it is a header alone"),
    (b"NDims", "a MetaImage file", "name it .mha, or .mhd where it is a header alone"),
    (b"\x89HDF", "an HDF5 file", "export it as NIfTI"),
    (b"CDF", "a NetCDF (MINC) file", "export it as NIfTI"),
    (b"\x89PNG", "a PNG picture", "export the volume as NIfTI"),
    (b"%PDF", "a PDF document", "export the volume as NIfTI"),
    (b"/annex/objects", "a git-annex pointer", "fetch its content with `git annex get`"),
    (b"<", "a web page or XML", "the download or export failed: repeat it"),
    (b"{", "a JSON text", "the download or export failed: repeat it"),
)


def _refuse_other_content(path: Path, start: bytes, expected: str) -> None:
    """ValueError where a file begins as another kind does: `NRRD`, `MetaImage` or `NIfTI` is expected."""
    what = None
    if start[128:132] == b"DICM":
        what = "a DICOM file", "give the folder of its series instead, or export it as NIfTI"
    elif start[257:262] == b"ustar":
        what = "a tar archive", "unpack it first"
    elif start[344:347] in (b"n+1", b"ni1") or start[4:7] in (b"n+2", b"ni2"):
        what = "a NIfTI file", "name it .nii"
    else:
        text = start.lstrip(b"\xef\xbb\xbf \r\n\t")
        what = next((kind for mark, *kind in _OTHER_CONTENT if text.startswith(mark)), None)
    if what and expected not in what[0]:
        raise ValueError(f"{path.name} is {what[0]}, not what its ending says; {what[1]}")


def _cut_off(path: Path, detail: str) -> ValueError:
    return ValueError(f"{path.name} is cut off: {detail}; the file is damaged, copy it again")


def _one_line(error: Exception) -> str:
    """The telling part of an exception's message on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]


def read_header_fields(path: Path) -> tuple[dict[str, str], int]:
    """Fields of an image's header that its format does not know, and the number of its layers.

    Raises:
        RuntimeError: If ITK cannot read the header.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return {key: reader.GetMetaData(key).strip() for key in reader.GetMetaDataKeys()}, reader.GetNumberOfComponents()


def read_layers(path: Path) -> list[sitk.Image]:
    """The 3D images that a NRRD file holds one beside the other along a first axis of kind `list`; usually one.

    Raises:
        ValueError: As `read_image`.
    """
    refuse_no_file(path)
    _check_nrrd(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ValueError(f"{path.name} cannot be read: {_one_line(error)}") from error
    layers = image.GetNumberOfComponentsPerPixel()
    if layers == 1:
        return [read_image(path)]
    if image.GetDimension() != 3:
        raise ValueError(f"{path.name} is {image.GetDimension() + 1}D; its layers must be 3D")
    direction = np.reshape(image.GetDirection(), (3, 3))
    image.SetDirection(_rotation(direction, f"{path.name}: its direction").ravel().tolist())
    return [sitk.VectorIndexSelectionCast(image, layer) for layer in range(layers)]
