"""Reading and writing one 3D image, with the checks that image libraries leave out.

`read_image` refuses what would go wrong hours later: cut-off files (SimpleITK fills the rest with zeros), 4D and
colour images, NaN, and headers whose orientation is missing, sheared or contradictory. NIfTI is read through NiBabel
from one pass over the file: where a stale qform stands beside an sform, the sform counts (ITK decides otherwise in
some cases); NRRD and MetaImage are read by SimpleITK after their byte count has been checked.
"""

from __future__ import annotations

import bz2
import gzip
import io
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

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

#: Cosine between two axes of an sform above which it is sheared: 0.06 degrees, 0.25 mm over a head.
SHEAR_TOLERANCE = 1e-3

_CHUNK_BYTES = 1 << 22
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
    if name is None or name.upper() in ("LOCAL", "LIST") or "%" in name or " " in name.strip():
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


def read_image(path: Path) -> sitk.Image:
    """One whole, finite, scalar 3D image with a known orientation.

    Args:
        path: `.nii`, `.nii.gz`, `.nrrd`, `.mha` or `.mhd`.

    Returns:
        The image as stored (axis order untouched); NIfTI with a scale factor becomes 32-bit float.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the image is not one; the message names the file, what is wrong and what to do.
    """
    path = Path(path)
    if not (path.exists() or path.is_symlink()):
        raise FileNotFoundError(f"{path.name} does not exist")
    refuse_no_file(path)
    if image_stem(path) is None:
        raise ValueError(f"{path.name}: cannot read this ending; use one of {', '.join(ENDINGS)}")
    _refuse_pointer(path)
    is_nifti = path.name.lower().endswith((".nii", ".nii.gz"))
    image = _read_nifti(path) if is_nifti else _read_with_itk(path)
    size, spacing = image.GetSize(), image.GetSpacing()
    if min(size) < 2:
        raise ValueError(f"{path.name}: a 3D image is needed, this one is flat, {'x'.join(map(str, size))} voxels")
    if not all(np.isfinite(mm) and mm > 0 for mm in spacing):
        raise ValueError(f"{path.name}: spacing {spacing} mm is not positive; write the file with its true voxel size")
    if max(spacing) < SMALLEST_SPACING_MM:
        size_mm = "x".join(f"{mm:.3g}" for mm in spacing)
        raise ValueError(f"{path.name}: its voxels measure {size_mm} mm, so it is in metres; write it in mm")
    array = sitk.GetArrayViewFromImage(image)
    if array.dtype.kind == "f":
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            raise ValueError(f"{path.name}: {bad} of {array.size} voxels are NaN or infinite; export the image again")
    return image


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image under a temporary name in the same folder, then rename it: a stopped run leaves no half file."""
    path = Path(path)
    ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), path.suffix)
    temporary = path.with_name(f".{path.name[: len(path.name) - len(ending)]}.{os.getpid()}{ending}")
    try:
        sitk.WriteImage(image, str(temporary), True)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------- NIfTI


def _read_nifti(path: Path) -> sitk.Image:
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    content = _gunzip(path) if path.name.lower().endswith(".gz") else io.BytesIO(path.read_bytes())
    n_bytes = content.getbuffer().nbytes
    if n_bytes < 348:
        raise ValueError(f"{path.name} is cut off: {n_bytes} bytes, less than a NIfTI header; copy it again")
    start = bytes(content.getbuffer()[:4])
    version_2 = 540 in (int.from_bytes(start, "little"), int.from_bytes(start, "big"))
    try:
        nifti = (nibabel.Nifti2Image if version_2 else nibabel.Nifti1Image).from_stream(content)
    except (HeaderDataError, ImageFileError, ValueError) as error:
        raise ValueError(f"{path.name} is not a readable NIfTI file: {_one_line(error)}") from error
    header, dtype = nifti.header, nifti.get_data_dtype()
    if dtype.fields is not None or dtype.kind == "c":
        kind = "an RGB (colour)" if dtype.fields is not None else "a complex-valued"
        raise ValueError(f"{path.name} is {kind} image; a scalar 3D image is needed")
    shape = nifti.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise ValueError(
            f"{path.name} is {len(shape)}D, {'x'.join(map(str, nifti.shape))}; give one 3D image per channel"
        )
    expected = int(nifti.dataobj.offset) + int(np.prod(shape)) * dtype.itemsize
    if n_bytes < expected:
        raise ValueError(f"{path.name} is cut off: {n_bytes} bytes where its header promises {expected}; copy it again")
    data = np.asanyarray(nifti.dataobj).reshape(shape)
    del content, nifti  # half of the memory
    if data.dtype.kind == "f" and data.dtype.itemsize != 4:
        data = data.astype(np.float32)
    data = np.ascontiguousarray(data.T, dtype=data.dtype.newbyteorder("="))
    image = sitk.GetImageFromArray(data)

    if int(header["sform_code"]) > 0:
        affine, form = np.asarray(header.get_sform(), dtype=float), "sform"
    elif int(header["qform_code"]) > 0:
        try:
            affine, form = np.asarray(header.get_qform(), dtype=float), "qform"
        except (HeaderDataError, ValueError) as error:
            raise ValueError(f"{path.name}: the qform cannot be read: {_one_line(error)}") from error
    else:
        raise ValueError(
            f"{path.name} does not say how it lies in space (sform and qform codes are 0), so left and right are "
            "unknown; write it with its orientation"
        )
    affine[:3] *= _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    matrix = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]  # RAS to LPS
    spacing = np.linalg.norm(matrix, axis=0)
    if not np.all(np.isfinite(affine)) or not np.all(spacing > 0):
        raise ValueError(
            f"{path.name}: spacing {spacing.tolist()} mm of its {form} is not positive; write the true voxel size"
        )
    image.SetSpacing([float(mm) for mm in spacing])
    image.SetOrigin([float(mm) for mm in affine[:3, 3] * (-1.0, -1.0, 1.0)])
    image.SetDirection(_rotation(matrix / spacing, f"{path.name}: its {form}").ravel().tolist())
    return image


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


def _gunzip(path: Path) -> io.BytesIO:
    """Content of a gzip file, its checksum checked; in one piece of memory, which goes back whole when it is freed."""
    content = io.BytesIO()
    try:
        with gzip.open(path, "rb") as stream:
            shutil.copyfileobj(stream, content, _CHUNK_BYTES)
    except EOFError as error:
        raise ValueError(f"{path.name} is cut off: its gzip stream ends too early; copy it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path.name} is damaged: {_one_line(error)}; copy it again") from error
    content.seek(0)
    return content


# -------------------------------------------------------------------------------------- NRRD and MetaImage


def _read_with_itk(path: Path) -> sitk.Image:
    if path.name.lower().endswith(".nrrd"):
        _check_nrrd(path)
    else:
        _check_meta_image(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
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
            raise ValueError(f"{path.name} is {dimension}D, {sizes}; give one 3D image per channel")
        image = reader.Execute()
    except RuntimeError as error:
        raise ValueError(f"{path.name} cannot be read: {_one_line(error)}") from error
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
        raise ValueError(f"{path.name} is not a MetaImage file: its header has no DimSize or ElementDataFile")
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
    channels = int(fields.get("elementnumberofchannels", "1"))
    expected = int(np.prod([int(n) for n in fields["dimsize"].split()])) * item * channels
    skip = start if data == path else max(int(fields.get("headersize", "0")), 0)
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


def _check_nrrd(path: Path) -> None:
    fields, start = _nrrd_header(path)
    item = next((size for size, names in _NRRD_BYTES.items() if fields.get("type", "").lower() in names), None)
    if item is None or "sizes" not in fields:
        raise ValueError(
            f"{path.name}: NRRD type {fields.get('type')!r} and sizes {fields.get('sizes')!r} are no image"
        )
    if "space" not in fields:
        raise ValueError(f"{path.name} does not say how it lies in space (no `space:`), so left and right are unknown; "
                         "write it with its orientation")  # fmt: skip
    source = fields.get("data file", fields.get("datafile"))
    encoding = fields.get("encoding", "raw").lower()
    skipped = fields.keys() & {"line skip", "lineskip", "byte skip", "byteskip"}
    if (source and ("%" in source or source.upper().startswith("LIST") or " " in source)) or skipped:
        return
    data = path.parent / source if source else path
    if not data.is_file():
        raise ValueError(f"{path.name}: its data file {source} is missing; copy both files")
    expected = int(np.prod([int(n) for n in fields["sizes"].split()])) * item
    kind = {"gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2", "raw": "raw"}.get(encoding)
    if kind:
        _check_byte_count(path, data, 0 if source else start, expected, kind)


def _check_byte_count(path: Path, data: Path, skip: int, expected: int, encoding: str) -> None:
    """Raise ValueError where a file holds less data than its header promises, or its compressed data is damaged."""
    try:
        if encoding == "raw":
            count = data.stat().st_size - skip
        else:
            count = sum(len(piece) for piece in _decompressed(data, skip, encoding))
    except (zlib.error, OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path.name} is damaged: {_one_line(error)}; copy it again") from error
    if count < expected:
        raise ValueError(
            f"{path.name} is cut off: {count} bytes of data where its header promises {expected}; copy it again"
        )


def _decompressed(data: Path, skip: int, encoding: str) -> Iterator[bytes]:
    # zlib: MetaImage writes zlib streams, NRRD gzip ones; 47 accepts both.
    stream = bz2.BZ2Decompressor() if encoding == "bzip2" else zlib.decompressobj(47)
    with data.open("rb") as file:
        file.seek(skip)
        while not stream.eof and (piece := file.read(_CHUNK_BYTES)):
            yield stream.decompress(piece)
    if not stream.eof:
        raise EOFError("its compressed data ends too early")


def _one_line(error: Exception) -> str:
    """The telling part of an exception's message on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]


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
