"""The bytes of an image file, decompressed and complete, and the kind of file if they are no image."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from nnunet_ext.images.notes import note
from nnunet_ext.messages import Message

GZIP = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 16  # as much as 64 MB when unpacked

#: Contents found under the name of another format: first bytes, kind of file, remedy.
_OTHER_CONTENT = (
    (b"(\xb5/\xfd", "packed with zstd", "unpack it first"),
    (b"BZh", "packed with bzip2", "unpack it first"),
    (b"\xfd7zXZ", "packed with xz", "unpack it first"),
    (b"\x04\x22M\x18", "packed with lz4", "unpack it first"),
    (GZIP, "packed with gzip", "unpack it once more"),
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


def decompressed(data: Path, skip: int, encoding: str) -> Iterator[bytes]:
    """Content of a packed stream, piece by piece, its checksum checked. Several gzip or bzip2 streams in a row are one.

    Whatever else follows is left out and said. If the image is whole without it, it is no part of the image.
    """
    # zlib: MetaImage writes zlib streams, NRRD gzip ones; 47 accepts both.
    mark = {"gzip": GZIP, "bzip2": b"BZh", "zlib": None}[encoding]
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
            rest = without_padding(file, stream.unused_data)
            if mark is None or not rest:
                return
            if not rest.startswith(mark):
                note(Message("more_after_the_image", {"file": data.name}))
                return


def without_padding(file: IO[bytes], start: bytes) -> bytes:
    """First bytes behind a stream, without the zeros that fill up blocks. Empty at the end of the file."""
    rest = start.lstrip(b"\0")
    while len(rest) < 3 and (more := file.read(_CHUNK_BYTES)):
        rest = (rest + more).lstrip(b"\0")
    return rest


def refuse_other_content(path: Path, start: bytes, expected: str) -> None:
    """ValueError if a file begins as one of another kind than the expected `NRRD`, `MetaImage` or `NIfTI`."""
    what: tuple[str, str] | None = None
    if start[128:132] == b"DICM":
        what = "a DICOM file", "give the folder of its series instead, or export it as NIfTI"
    elif start[257:262] == b"ustar":
        what = "a tar archive", "unpack it first"
    elif start[344:347] in (b"n+1", b"ni1") or start[4:7] in (b"n+2", b"ni2"):
        what = "a NIfTI file", "name it .nii"
    else:
        text = start.lstrip(b"\xef\xbb\xbf \r\n\t")
        what = next(((kind, remedy) for mark, kind, remedy in _OTHER_CONTENT if text.startswith(mark)), None)
    if what and expected not in what[0]:
        raise ValueError(f"{path.name} is {what[0]}, not what its ending says; {what[1]}")


def cut_off(path: Path, detail: str) -> ValueError:
    """The error for a file that is cut off."""
    return ValueError(f"{path.name} is cut off: {detail}; the file is damaged, copy it again")


def one_line(error: Exception) -> str:
    """The telling part of an exception's message on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
