"""Files read in one way and written whole or not at all, and errors told in one line.

JSON and TOML may be UTF-8 with or without a byte order mark, or UTF-16. What is wrong with a file is said with its name, the
cause and what to do. An error that nobody foresaw is a fault of ours: its traceback goes to a file, and the line says so.
"""

from __future__ import annotations

import contextlib
import dis
import errno
import itertools
import json
import os
import platform
import re
import secrets
import sys
import sysconfig
import tempfile
import traceback
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nnunet_ext._version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: What `misfit` checks content against: a type, None for null, a tuple of alternatives of different types, `[item]` for a
#: list of any length, `[a, b]` for a list of that length, `{str: item}` for any names, `{"key": item, "may_lack?": item}`
#: for these keys.
Shape = Any

_OS_ERRORS: dict[int | None, str] = {
    errno.ENOENT: "does not exist",
    errno.EACCES: "may not be read or written by you; change its permissions, or choose another place",
    errno.EPERM: "may not be changed by you; change its permissions, or choose another place",
    errno.EISDIR: "is a folder, where a file is needed",
    errno.ENOTDIR: "is not a folder, or lies below a file; name a folder",
    errno.EEXIST: "is there already; move it away, or choose another name",
    errno.ENOTEMPTY: "is a folder that is not empty; move it away, or choose another name",
    errno.ENOSPC: "could not be written, for the disk is full; make room",
    errno.EROFS: "lies on a disk that is read only; choose another place",
    errno.ENAMETOOLONG: "is too long a name for this disk; choose a shorter one",
    errno.ELOOP: "is a link that leads back to itself; remove it",
}
_KINDS: dict[type | None, str] = {
    dict: "an object {...}",
    list: "a list [...]",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    None: "null",
}


# ------------------------------------------------------------------------------------------------ writing


_marks: dict[int, str] = {}
_numbers = itertools.count()


def process_mark() -> str:
    """This process, in the names of its temporary files. Processes of two machines may have the same number."""
    pid = os.getpid()
    return _marks.get(pid) or _marks.setdefault(pid, f"{pid}.{secrets.token_hex(4)}")


@contextlib.contextmanager
def written_whole(file: Path, *, ending: str = "", flush: bool = False) -> Iterator[Path]:
    """A temporary name beside `file`. It becomes `file` when the block ends without an error.

    Killed at any moment, `file` is what it was before or what it should be. Nothing happens if the block writes nothing.
    The next owner of the folder finds and removes what a killed run left (see `folder_lock`).

    Args:
        file: What is written in the end.
        ending: End of the file's name, for writers that choose the format by it.
        flush: Whether it must be on the disk before it gets the name. Only then it survives a power cut.
    """
    stem = file.name.removesuffix(ending) if ending else file.name
    temporary = file.with_name(f".{stem}.{process_mark()}.{next(_numbers)}{ending or '.tmp'}")
    try:
        yield temporary
        if not temporary.is_file():
            return
        if flush:
            _flush(temporary)
        os.replace(temporary, file)
        if flush and os.name != "nt":  # Windows can't open folders, and has no need to
            _flush(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(text: str, file: Path) -> None:
    """Write UTF-8 text whole or not at all."""
    with written_whole(Path(file)) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(content: object, file: Path, *, indent: int = 2, ensure_ascii: bool = True, flush: bool = False) -> None:
    """Write JSON whole or not at all.

    Args:
        content: Mappings, lists, texts and numbers.
        file: Where to.
        indent: Spaces per level.
        ensure_ascii: Whether other letters are written as `\\u....`. nnU-Net reads its files in the system's encoding.
        flush: As in `written_whole`.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=ensure_ascii)
    with written_whole(Path(file), flush=flush) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8", newline="\n")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------ reading


def read_text(path: Path, *, called: str = "", remedy: str = "") -> str:
    """Text of a file, UTF-8 with or without a byte order mark or UTF-16, with line ends as `\\n`.

    Args:
        path: The file.
        called: What messages call it; its path if empty.
        remedy: What the user can do, at the end of messages.

    Raises:
        OSError: If it is not there, is a folder or a broken link, or may not be read.
        ValueError: If it is empty, no such text, or a pipe.
    """
    path = Path(path)
    called, remedy = called or str(path), f"; {remedy}" if remedy else ""
    refuse_pipe(path, called)
    try:
        content = path.read_bytes()
    except OSError as error:
        cause = f"is a link to {os.readlink(path)}, which does not exist" if _is_broken_link(path) else _cause(error)
        raise type(error)(f"{called} {cause}{remedy}") from error
    if not content.strip():
        raise ValueError(f"{called} is empty ({len(content)} bytes){remedy}")
    if content.startswith(b"version https://git-lfs"):
        raise ValueError(f"{called} is a git-LFS pointer; fetch its content with `git lfs pull`")
    try:
        text = content.decode(json.detect_encoding(content))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{called} is not UTF-8 text (line {content[: error.start].count(10) + 1}: {error.reason}): open it in an "
            f"editor and save it as UTF-8{remedy}"
        ) from error
    return text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def refuse_pipe(path: Path, called: str = "") -> None:
    """Refuse a named pipe, socket or device, which would be waited for without end.

    A shell's `<(command)` stands below `/dev` and is read.

    Raises:
        ValueError: Naming it.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()) and path.parts[:2] != ("/", "dev"):
        raise ValueError(f"{called or path} is no regular file, but a pipe or a device; put the file itself there")


def read_json(path: Path, shape: Shape = None, *, called: str = "", remedy: str = "") -> Any:
    """Content of a JSON file; see `read_text`.

    Args:
        path, called, remedy: As for `read_text`.
        shape: What the content must be like; anything if None.

    Raises:
        OSError: As `read_text`.
        ValueError: If it is no such file; the message names it, the place in it and the value.
    """
    text = read_text(path, called=called, remedy=remedy)
    called, remedy = called or str(path), f"; {remedy}" if remedy else ""
    try:
        content = json.loads(text, object_pairs_hook=_without_contradiction)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        place = f"line {error.lineno}, column {error.colno}"
        cause = (
            f"is damaged: it is cut off in {place}" if cut else f"is damaged: it is not JSON in {place} ({error.msg})"
        )
        raise ValueError(f"{called} {cause}{remedy}") from error
    except RecursionError as error:
        raise ValueError(f"{called} is nested too deeply{remedy}") from error
    except ValueError as error:  # a name twice, or a number of thousands of digits
        raise ValueError(f"{called} is not usable JSON ({error}){remedy}") from error
    if shape is not None and (wrong := misfit(content, shape)):
        raise ValueError(f"{called} is not what it should be: {wrong}{remedy}")
    return content


def read_toml(path: Path, *, called: str, remedy: str = "") -> dict[str, Any]:
    """Content of a TOML file; see `read_text`.

    Raises:
        OSError: As `read_text`.
        ValueError: If it is not TOML.
    """
    text = read_text(path, called=called, remedy=remedy)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError; a number of thousands of digits
        raise ValueError(f"{called} is not TOML: {first_line(error)}{remedy and f'; {remedy}'}") from error


def misfit(content: object, shape: Shape, place: str = "") -> str:
    """The first place at which content has not the given shape, with its value, in words; empty if it fits."""
    if isinstance(shape, tuple):
        fitting = [one for one in shape if _fits_kind(content, one)]
        if not fitting:
            return _is(content, place, " or ".join(map(_kind, shape)))
        misfits = [misfit(content, one, place) for one in fitting]
        return misfits[0] if all(misfits) else ""
    if not _fits_kind(content, shape):
        return _is(content, place, _kind(shape))
    if isinstance(shape, list) and isinstance(content, list):
        if len(shape) > 1 and len(content) != len(shape):
            return _is(content, place, f"a list of {len(shape)}")
        items = shape if len(shape) > 1 else shape * len(content)
        below = ((value, item, f"{place}[{at}]") for at, (value, item) in enumerate(zip(content, items, strict=True)))
    elif isinstance(shape, Mapping) and isinstance(content, dict):
        if lacking := [key for key in shape if key is not str and not key.endswith("?") and key not in content]:
            return f"{place or 'it'} has no '{lacking[0]}'"
        known = {key.removesuffix("?"): item for key, item in shape.items() if key is not str}
        below = (
            (value, known.get(key, shape.get(str)), f"{place}.{key}" if place else key)
            for key, value in content.items()
            if key in known or str in shape
        )
    else:
        return ""
    return next((wrong for value, item, where in below if (wrong := misfit(value, item, where))), "")


def _fits_kind(content: object, shape: Shape) -> bool:
    kind = _type(shape)
    if content is None or kind is None:
        return content is kind
    if isinstance(content, bool):  # is an int to Python
        return kind is bool
    return isinstance(content, (int, float) if kind is float else kind)


def _type(shape: Shape) -> type | None:
    return shape if shape is None or isinstance(shape, type) else list if isinstance(shape, list) else dict


def _kind(shape: Shape) -> str:
    return _KINDS[_type(shape)]


def _is(content: object, place: str, needed: str) -> str:
    return f"{place or 'it'} is {shown(content)}, where {needed} is needed"


def shown(content: object, most: int = 60) -> str:
    """JSON content as it is written, shortened."""
    text = json.dumps(content, ensure_ascii=False, default=str)
    return text if len(text) <= most else text[: most - 3] + "..."


def _without_contradiction(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found and found[name] != value:
            raise ValueError(f"'{name}' is in it twice, as {shown(found[name])} and as {shown(value)}: keep one")
        found[name] = value
    return found


def _is_broken_link(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


# ------------------------------------------------------------------------------------------------ places


def check_folder(path: Path, called: str = "folder") -> Path:
    """A folder that is to be read.

    Raises:
        OSError: If it is not there, or a file.
    """
    path = Path(path)
    if path.is_dir():
        return path
    if _is_broken_link(path):
        raise FileNotFoundError(f"{called} {path} is a link to {os.readlink(path)}, which does not exist")
    if path.exists():
        raise NotADirectoryError(f"{called} {path} is a file; name the folder it lies in")
    raise FileNotFoundError(f"{called} {path} does not exist; check the name")


def check_output_folder(path: Path) -> Path:
    """A folder that is to be written to; it need not exist.

    Raises:
        OSError: If it, or a folder above it, is a file.
    """
    path = Path(path)
    for place in (path, *path.parents):
        # Existence first. Another process may make the folder between the two questions.
        if (place.exists() or place.is_symlink()) and not place.is_dir():
            raise NotADirectoryError(f"output {place} is a file, where a folder is needed; choose another name")
        if place.is_dir():
            return path
    return path


def check_output_file(path: Path, example: str) -> Path:
    """A file that is to be written; it need not exist.

    Args:
        path: The file.
        example: A file name to show where a folder was given.

    Raises:
        OSError: If it is a folder, or lies below a file.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"output {path} is a folder; name the file to write in it, e.g. {path / example}")
    check_output_folder(path.parent)
    return path


# ------------------------------------------------------------------------------------------------ errors


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def in_one_line(error: BaseException) -> str:
    """Why something failed, in one line for the user: in our words, or as a fault of ours with a file to report."""
    return " ".join((in_words(error) or unforeseen(error)).split())


def in_words(error: BaseException) -> str | None:
    """An error that was foreseen, in words; None for any other.

    Foreseen are errors whose text was written for the user, what the operating system says about a file, and too little
    memory. A ValueError or RuntimeError that a library raised is not: its text does not say what to do, and may quote data.
    """
    text = str(error)
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text or "Failed to allocate memory" in text:
        return "the memory is too small for it; end other programs, use one process (-np 1), or a larger machine"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
        return (
            "the memory of the GPU is too small for it; end other programs on the GPU (nvidia-smi lists them), or use "
            "-device cpu"
        )
    if isinstance(error, RuntimeError) and text.startswith(("CUDA error", "CUDA driver", "cuDNN error")):
        return f"the GPU failed ({first_line(error)}); use -device cpu, and see nnunet_ext doctor"
    if isinstance(error, OSError) and error.errno is not None:
        place = f"{error.filename} " if error.filename is not None else ""
        return f"{place}{_cause(error)}"
    written = isinstance(error, (ValueError, OSError, RuntimeError, ImportError)) and not isinstance(
        error, (UnicodeError, RecursionError, NotImplementedError)
    )
    return (text or type(error).__name__) if written and _was_raised_for_the_user(error) else None


def unforeseen(error: BaseException) -> str:
    """Write an error's traceback to a file that only its owner can read; a line that calls it our fault and names the file.

    The line leaves the error's own text out, and the file lies in the folder for temporary files, not in one that is
    handed on: both may name files and patients.
    """
    found = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in found if _is_ours(frame.filename)] or found
    place = f" in {Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else ""
    start = f"this is a fault of nnunet_ext {__version__}, not of your data: {type(error).__name__}{place}. Please report it"
    text = "\n".join([*_circumstances(), "", "".join(traceback.format_exception(error))])
    try:
        handle, name = tempfile.mkstemp(prefix=f"nnunet_ext-error-{datetime.now():%Y%m%d-%H%M%S}-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:  # mkstemp: the owner's alone
            file.write(text)
    except OSError as problem:
        return f"{start}; its traceback could not be kept ({first_line(problem)}): repeat with --debug to see it"
    return f"{start} with its traceback in {name}, which only you can read: it may name files and patients"


def _circumstances() -> list[str]:
    lines = [f"command: {' '.join(sys.argv)}", f"python {platform.python_version()} on {platform.platform()}"]
    for package in ("nnunet_ext", "nnunetv2", "torch", "SimpleITK", "pydicom", "nibabel", "numpy"):
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            lines.append(f"{package} is not installed")
    return lines


def _was_raised_for_the_user(error: BaseException) -> bool:
    """Whether a `raise` outside of the libraries made it; else a library, or the interpreter (`int("x")`) did."""
    step = error.__traceback__
    if step is None:  # made, or brought here from another process, and not raised
        return True
    while step.tb_next is not None:
        step = step.tb_next
    code = step.tb_frame.f_code
    by_raise = code.co_code[step.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    libraries = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    in_library = any(code.co_filename.startswith(f"{folder}{os.sep}") for folder in libraries)
    return by_raise and (_is_ours(code.co_filename) or not in_library)


def _is_ours(file: str) -> bool:
    return file.startswith(f"{Path(__file__).parent}{os.sep}")


def _cause(error: OSError) -> str:
    return _OS_ERRORS.get(error.errno, error.strerror or re.sub(r"^\[Errno \d+\] ", "", str(error)))


def check_whole(file: Path) -> None:
    """Compare what is in a file of `torch.save` with the checksums in it, which `torch.load` does not look at.

    Raises:
        zipfile.BadZipFile: If they differ.
    """
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of '{damaged}' is wrong")
