"""Headers of MetaImage and NRRD files, checked before ITK reads them."""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.images.file_content import cut_off, decompressed, one_line

_META_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
_NRRD_BYTES = {
    1: ("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"),
    2: ("short", "short int", "signed short", "signed short int", "int16", "int16_t", "ushort", "unsigned short",
        "unsigned short int", "uint16", "uint16_t"),
    4: ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"),
    8: ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t",
        "ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t", "double"),
}  # fmt: skip

#: Values of `space:` that tell left from right. SimpleITK reads these and takes any other value for LPS.
_NRRD_SPACES = {
    *("right-anterior-superior", "ras", "left-anterior-superior", "las", "left-posterior-superior", "lps"),
    *("right-anterior-superior-time", "rast", "left-anterior-superior-time", "last"),
    *("left-posterior-superior-time", "lpst"),
}


def meta_image_header(path: Path) -> tuple[dict[str, str], int]:
    """Fields of a MetaImage header (names in lower case) and the start of the data in the same file."""
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


def check_meta_image(path: Path) -> None:
    """ValueError if a MetaImage file is not whole, or its header is wrong where ITK does not look."""
    fields, start = meta_image_header(path)
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


def nrrd_header(path: Path) -> tuple[dict[str, str], int]:
    """Fields of a NRRD header (names in lower case) and the start of the data in the same file."""
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


def check_nrrd(path: Path) -> None:
    """ValueError if a NRRD file is not whole, or its header does not name the patient's sides."""
    fields, start = nrrd_header(path)
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
    """Raise ValueError if a file holds less data than its header promises, or its compressed data is damaged."""
    try:
        if encoding == "raw":
            count = data.stat().st_size - skip
        else:
            count = sum(len(piece) for piece in decompressed(data, skip, encoding))
    except EOFError as error:
        raise cut_off(path, "its compressed data ends too early") from error
    except (zlib.error, OSError, ValueError) as error:
        raise ValueError(
            f"{path.name} is damaged: its data cannot be unpacked ({one_line(error)}); copy it again"
        ) from error
    if count < expected:
        raise cut_off(path, f"{count} bytes of data where its header promises {expected}")


def read_header_fields(path: Path) -> tuple[dict[str, str], int]:
    """Fields of an image's header that its format does not know, and the number of its layers.

    Raises:
        RuntimeError: If ITK cannot read the header.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return {key: reader.GetMetaData(key).strip() for key in reader.GetMetaDataKeys()}, reader.GetNumberOfComponents()
