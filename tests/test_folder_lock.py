"""One run per folder: who is refused, who is not, and what is left behind."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from worker_functions import until

from nnunet_ext.folder_lock import LOCK, FolderInUse, holding, owned_file, owned_folder, owned_part
from nnunet_ext.leases import STALE_S

ME = rf"process {os.getpid()} on host {re.escape(socket.gethostname())}, started \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
HOLD = """
import sys, time
from nnunet_ext.folder_lock import owned_folder
with owned_folder(sys.argv[1]):
    time.sleep(600)
"""


def test_a_second_owner_is_refused_with_host_process_start_and_remedy(tmp_path: Path):
    with owned_folder(tmp_path / "out"), pytest.raises(FolderInUse, match=f"another run works in .*out: {ME}.*; wait"), \
         owned_folder(tmp_path / "out"):  # fmt: skip
        pytest.fail("two owners")
    with owned_folder(tmp_path / "out"):
        pass


def test_a_thread_of_the_same_process_is_refused(tmp_path: Path):
    refused = []

    def second() -> None:
        try:
            with owned_folder(tmp_path):
                pass
        except FolderInUse as error:
            refused.append(str(error))

    with owned_folder(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(refused) == 1


def test_a_folder_by_another_name_is_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out", target_is_directory=True)
    monkeypatch.chdir(tmp_path / "out")
    for other in (tmp_path / "link", Path("."), tmp_path / "out" / ".." / "out"):
        with owned_folder(tmp_path / "out"), pytest.raises(FolderInUse), owned_folder(other):
            pytest.fail("two owners")


def test_what_the_run_wrote_is_all_that_stays(tmp_path: Path):
    with owned_folder(tmp_path / "new" / "out"):
        (tmp_path / "new" / "out" / "result").touch()
    assert [file.name for file in (tmp_path / "new" / "out").iterdir()] == ["result"]


def test_a_run_that_fails_leaves_no_folder_and_takes_none_away(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    for folder in (tmp_path / "new" / "out", tmp_path / "mine"):
        with pytest.raises(ValueError, match="bad"), owned_folder(folder):
            raise ValueError("bad")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert list((tmp_path / "mine").iterdir()) == []


def test_the_record_of_a_killed_run_is_not_believed_and_its_temporary_files_go(tmp_path: Path):
    out = tmp_path / "out"
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(out)])
    until(lambda: (out / LOCK).is_file() and (out / LOCK).stat().st_size > 1)
    with pytest.raises(FolderInUse, match=f"process {first.pid} on host"), owned_folder(out):
        pytest.fail("two owners")
    first.kill()
    first.wait()
    (out / "figures").mkdir()
    mark = json.loads((out / LOCK).read_bytes())["mark"]
    assert mark.startswith(f"{first.pid}.")
    left_behind = [f".case.{mark}.3.nii.gz", f".a.json.{mark}.0.tmp", f"figures/.box.{mark}.1.png"]
    # A process of another machine may have the same number.
    others = [f".case.{first.pid}.0a1b2c3d.3.nii.gz", f"case.{mark}.nii.gz", "result.csv", "figures/box.png"]
    for name in (*left_behind, *others):
        (out / name).touch()
    with owned_folder(out):
        assert json.loads((out / LOCK).read_bytes())["pid"] == os.getpid()
        there = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
        assert there == {LOCK, *others}


@pytest.mark.parametrize("content", [b"", b" {", b" []", b' {"pid": 7}', b"\xff\xfe"])
def test_an_owner_whose_record_cannot_be_read_is_unknown(tmp_path: Path, content: bytes):
    with owned_folder(tmp_path):
        (tmp_path / LOCK).write_bytes(content)
        with pytest.raises(FolderInUse, match="its host, process and start are unknown"), owned_folder(tmp_path):
            pytest.fail("two owners")


def test_removing_the_lock_file_never_lets_two_owners_in(tmp_path: Path):
    inside, most, rounds = [], [], [0] * 4

    def work(number: int) -> None:
        while rounds[number] < 40:
            try:
                with owned_folder(tmp_path / "out"):
                    inside.append(number)
                    most.append(len(inside))
                    inside.remove(number)
                    rounds[number] += 1
            except FolderInUse:
                continue

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert max(most) == 1
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_files_of_one_folder_have_owners_of_their_own(tmp_path: Path):
    again = owned_file(tmp_path / "a.html")
    with owned_file(tmp_path / "a.html"), owned_file(tmp_path / "b.html"), \
         pytest.raises(FolderInUse, match=r"another run works in .*a\.html"), again:  # fmt: skip
        pytest.fail("two owners")
    assert list(tmp_path.iterdir()) == []


def killed(lock: Path) -> None:
    """The lease of a run on another machine that nobody has touched for minutes."""
    lock.write_text(json.dumps({"host": "a", "pid": 7, "started": "yesterday", "mark": "7.0a1b2c3d"}))
    os.utime(lock, (time.time() - STALE_S - 5,) * 2)


def test_the_half_file_of_a_killed_run_goes_and_other_files_stay(tmp_path: Path):
    killed(tmp_path / ".a.html.nnunet_ext.lock")
    for name in (".a.html.7.0a1b2c3d.0.tmp", ".b.html.7.0a1b2c3d.1.tmp", "a.html"):
        (tmp_path / name).touch()
    with owned_file(tmp_path / "a.html"):
        pass
    assert sorted(file.name for file in tmp_path.iterdir()) == [".b.html.7.0a1b2c3d.1.tmp", "a.html"]


def test_parts_of_one_division_share_a_folder_and_nobody_else(tmp_path: Path):
    with owned_part(tmp_path, 3, 0), owned_part(tmp_path, 3, 1):
        for others in ((3, 1), (1, 0), (2, 1)):
            with pytest.raises(FolderInUse, match=ME), owned_part(tmp_path, *others):
                pytest.fail("two owners")
        with owned_part(tmp_path, 3, 2):
            pass
    with owned_part(tmp_path, 1, 0), pytest.raises(FolderInUse, match=ME), owned_part(tmp_path, 3, 0):
        pytest.fail("two owners")
    assert list(tmp_path.iterdir()) == []


def test_parts_that_start_together_all_start(tmp_path: Path):
    all_there, refused = threading.Barrier(6), []

    def work(part: int) -> None:
        try:
            with owned_part(tmp_path, 6, part):
                all_there.wait(60)
        except FolderInUse as error:
            refused.append(error)
            all_there.abort()

    threads = [threading.Thread(target=work, args=(part,)) for part in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert refused == []
    assert not all_there.broken


def test_what_a_killed_part_left_stops_nobody(tmp_path: Path):
    killed(tmp_path / ".nnunet_ext.part-0-of-2.lock")
    (tmp_path / ".case.7.0a1b2c3d.2.nii.gz").touch()
    with owned_part(tmp_path, 1, 0):
        assert [file.name for file in tmp_path.iterdir()] == [LOCK]


def test_the_lock_file_of_another_user_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / LOCK).touch()

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match="is another user's; if no run of theirs works there, delete that file"), \
         owned_folder(tmp_path):  # fmt: skip
        pytest.fail("owned")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match=r"output .*file is a file, where a folder is needed; choose another name"),
        owned_folder(tmp_path / "file/out"),
    ):
        pytest.fail("owned")


def test_a_function_owns_its_argument_by_any_way_of_passing_it(tmp_path: Path):
    @holding(owned_folder, "out")
    def work(a: int, out: Path = tmp_path / "default", *, b: int = 0) -> bool:
        return (Path(out) / LOCK).is_file()

    assert work(1)
    assert work(1, tmp_path / "out")
    assert work(a=1, out=tmp_path / "out", b=2)
