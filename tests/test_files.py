"""User files in every encoding and state, and what is said of errors."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nnunet_ext.files import (
    check_folder,
    check_output_file,
    check_output_folder,
    in_one_line,
    in_words,
    misfit,
    read_json,
    read_text,
    read_toml,
    refuse_pipe,
)

TEXT = '{"labels": {"Œil_L": 1, "左眼球": 2}}'
CONTENT = {"labels": {"Œil_L": 1, "左眼球": 2}}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_json_and_toml_are_read_in_any_unicode_encoding(tmp_path: Path, encoding, line_end):
    (tmp_path / "a.json").write_bytes(TEXT.replace(" ", line_end).encode(encoding))
    assert read_json(tmp_path / "a.json") == CONTENT
    toml = f"[labels]{line_end}Eye_L = ['左眼球']{line_end}Eye_R = []"
    (tmp_path / "a.toml").write_bytes(toml.encode(encoding))
    assert read_toml(tmp_path / "a.toml", called="table") == {"labels": {"Eye_L": ["左眼球"], "Eye_R": []}}


def test_utf_16_with_its_mark_in_either_order_is_read(tmp_path: Path):
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        (tmp_path / "a.json").write_bytes(mark + TEXT.encode(encoding))
        assert read_json(tmp_path / "a.json") == CONTENT


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty (0 bytes)"),
        (b" \n", "is empty (2 bytes)"),
        (TEXT.encode()[:20], "is damaged: it is cut off in line 1"),
        (b'{"labels": ', "is damaged: it is cut off in line 1, column 12"),
        (b'{\n"a": 1,\n}', "is damaged: it is not JSON in line 3"),
        (b"{'a': 1}", "is damaged: it is not JSON in line 1"),
        ('{\n"a": "é"}'.encode("latin-1"), "is not UTF-8 text (line 2"),
        ('{"a": "左"}'.encode("gb18030"), "is not UTF-8 text (line 1"),
        (b"\x1f\x8b\x08\x00\x00", "is not UTF-8 text"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "is not usable JSON"),
        (b'{"Eye_L": 1, "Eye_L": 2}', "'Eye_L' is in it twice, as 1 and as 2: keep one"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"[1]", "it is [1], where an object {...} is needed"),
        (b"null", "it is null, where an object {...} is needed"),
    ],
)
def test_a_file_that_is_no_json_is_named_with_cause_and_remedy(tmp_path: Path, content, said):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        read_json(path, dict, remedy="copy it again")
    assert str(path) in str(error.value)
    assert "copy it again" in str(error.value) or "git lfs" in str(error.value)


def test_a_name_that_is_twice_in_a_file_with_one_value_is_no_contradiction(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"license": "", "license": ""}')
    assert read_json(tmp_path / "a.json") == {"license": ""}


@pytest.mark.parametrize("read", [read_text, read_json, lambda path: read_toml(path, called=str(path))])
def test_a_folder_a_missing_file_and_a_broken_link_are_told_apart(tmp_path: Path, read):
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist"):
        read(tmp_path / "none.json")
    with pytest.raises(IsADirectoryError, match="is a folder, where a file is needed"):
        read(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "gone.json")
    with pytest.raises(FileNotFoundError, match=r"link is a link to .*gone\.json, which does not exist"):
        read(tmp_path / "link")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="loop"):
        read(tmp_path / "loop")


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch):
    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read everything
    with pytest.raises(PermissionError, match=r"a\.json may not be read or written by you; change its permissions"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["[labels", "labels = ", "a = 1\na = 2", "a = " + "[" * 5000, "a = " + "1" * 5000])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, text):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ValueError, match=r"label table a\.toml is not TOML"):
        read_toml(tmp_path / "a.toml", called="label table a.toml")


SHAPE = {"cases": {str: {"box?": (None, [[int, int]]), "score": (float, None)}}, "done?": bool, "names": [str]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"cases": {}, "names": []}, ""),
        ({"cases": {"a": {"box": [[0, 1]], "score": 1, "more": 3}}, "names": ["x"], "done": True, "other": 1}, ""),
        ({"cases": {"a": {"box": None, "score": None}}, "names": []}, ""),
        ([], "it is [], where an object {...} is needed"),
        ({"cases": {}}, "it has no 'names'"),
        ({"cases": [], "names": []}, "cases is [], where an object {...} is needed"),
        ({"cases": {"a": {}}, "names": []}, "cases.a has no 'score'"),
        ({"cases": {"a": {"score": "1"}}, "names": []}, 'cases.a.score is "1", where a number or null is needed'),
        ({"cases": {"a": {"score": True}}, "names": []}, "cases.a.score is true"),
        ({"cases": {"a": {"score": 1, "box": [[0]]}}, "names": []}, "cases.a.box[0] is [0], where a list of 2 is needed"),
        ({"cases": {"a": {"score": 1, "box": [[0, 0.5]]}}, "names": []}, "cases.a.box[0][1] is 0.5, where a whole number"),
        ({"cases": {}, "names": ["a", 1]}, "names[1] is 1, where a text is needed"),
        ({"cases": {}, "names": [], "done": 1}, "done is 1, where true or false is needed"),
    ],
)  # fmt: skip
def test_the_first_place_that_does_not_fit_is_named_with_its_value(content, said):
    found = misfit(content, SHAPE)
    assert found.startswith(said) if said else not found


# ------------------------------------------------------------------------------------------------ places


def test_places_that_are_something_else_are_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert check_folder(tmp_path) == tmp_path
    for name, said in (("file", "is a file; name the folder"), ("none", "does not exist"), ("link", "is a link to")):
        with pytest.raises(OSError, match=said):
            check_folder(tmp_path / name, "images folder")
    assert check_output_folder(tmp_path / "new" / "newer") == tmp_path / "new" / "newer"
    assert check_output_folder(Path("new")) == Path("new")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError, match="file is a file, where a folder is needed"):
            check_output_folder(path)
        with pytest.raises(OSError, match="is a file, where a folder is needed"):
            check_output_file(path / "x.dcm", "x.dcm")
    with pytest.raises(IsADirectoryError, match=r"is a folder; name the file to write in it, e.g. .*/case\.dcm"):
        check_output_file(tmp_path, "case.dcm")
    assert check_output_file(tmp_path / "file", "x.dcm") == tmp_path / "file"


# ------------------------------------------------------------------------------------------------ errors


def raised(make) -> BaseException:
    try:
        make()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def by_ours():
    raise ValueError("label 4 is not in the table; add it")


def by_ours_in_a_finally():
    try:
        by_ours()
    finally:
        Path("x").exists()


def test_an_error_written_for_the_user_is_told_as_it_is():
    for make in (by_ours, by_ours_in_a_finally):
        assert in_one_line(raised(make)) == "label 4 is not in the table; add it"


@pytest.mark.parametrize(
    "make",
    [
        lambda: int("x"),
        lambda: {}["Meier"],
        lambda: np.zeros(3) + np.zeros(4),
        lambda: np.frombuffer(b"123", dtype=np.int64),
        lambda: tempfile.TemporaryDirectory(dir="/", prefix=object()),
        lambda: b"\xff".decode(),
        lambda: re.compile("("),
        lambda: next(iter(())),
    ],
)
def test_what_a_library_or_the_interpreter_raises_is_called_ours(tmp_path: Path, monkeypatch, make):
    error = raised(make)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    line = in_one_line(error)
    assert f"this is a fault of nnunet_ext {__import__('nnunet_ext').__version__}, not of your data" in line
    assert type(error).__name__ in line
    assert "Meier" not in line
    (file,) = tmp_path.iterdir()
    assert str(file) in line
    assert "Traceback" in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


class OutOfMemoryError(RuntimeError):
    """As torch calls its own."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "use one process (-np 1)"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"), "(-np 1)"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "use -device cpu"),
        (RuntimeError("CUDA error: no kernel image is available\nmore"), "the GPU failed (CUDA error: no kernel"),
        (PermissionError(errno.EACCES, "Permission denied", "a.nii"), "a.nii may not be read or written by you"),
        (OSError(errno.ENOSPC, "No space left", "out/x"), "out/x could not be written, for the disk is full"),
        (FileExistsError(errno.EEXIST, "exists", "out"), "out is there already"),
        (OSError(errno.EIO, "Input/output error", "x"), "x Input/output error"),
    ],
)
def test_memory_gpu_and_disk_have_a_remedy(error, said):
    assert said in in_words(error)


def test_an_error_of_the_operating_system_needs_no_traceback(tmp_path: Path):
    assert in_one_line(raised(lambda: (tmp_path / "none").read_text())) == f"{tmp_path / 'none'} does not exist"
    assert "is a folder, where a file is needed" in in_one_line(raised(lambda: os.open(tmp_path, os.O_WRONLY)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("read", [read_json, partial(read_toml, called="label table"), read_text, refuse_pipe])
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path, read):
    os.mkfifo(tmp_path / "dataset.json")
    (tmp_path / "link.json").symlink_to(tmp_path / "dataset.json")
    for name in ("dataset.json", "link.json"):
        with pytest.raises(ValueError, match="is no regular file, but a pipe or a device"):
            read(tmp_path / name)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd here")
def test_what_a_shell_hands_over_as_a_pipe_is_read():
    there, here = os.pipe()
    os.write(here, b'{"a": 1}')
    os.close(here)
    try:
        assert read_json(Path(f"/dev/fd/{there}")) == {"a": 1}
    finally:
        os.close(there)


def test_one_of_several_shapes_of_a_kind_is_enough():
    shape = {"patch_size": ([int] * 3, [int] * 2)}
    assert misfit({"patch_size": [1, 2, 3]}, shape) == misfit({"patch_size": [1, 2]}, shape) == ""
    assert misfit({"patch_size": [1]}, shape) == "patch_size is [1], where a list of 3 is needed"
    assert "patch_size[1] is 2.5" in misfit({"patch_size": [1, 2.5]}, {"patch_size": ([int] * 2, None)})
