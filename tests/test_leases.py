"""Who works on something, also where no lock keeps anybody out and files are seen late."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from late_files import late_files
from reference_tables import check_file
from worker_functions import until

from nnunet_ext.leases import STALE_S, Lease, LeaseTaken

#: Takes a lease, holds it, and says when.
WORK = """
import os, sys, time
from pathlib import Path
from nnunet_ext.leases import Lease, LeaseTaken
together = Path(sys.argv[2])
(together / str(os.getpid())).touch()
while len(os.listdir(together)) < int(sys.argv[4]):
    time.sleep(0.01)
try:
    lease = Lease(Path(sys.argv[1]))
except LeaseTaken as error:
    print("refused", error)
    sys.exit()
print("from", time.time(), flush=True)
time.sleep(float(sys.argv[3]))
print("to", time.time())
lease.release()
"""
OTHER = {"host": "node7", "pid": 7, "started": "2026-01-02 03:04:05 +0000", "job": "99_3", "machine": "boot pid:[1]"}


def leased_by(file: Path, age_s: float, **record: object) -> None:
    file.write_text(json.dumps({**OTHER, **record}))
    os.utime(file, (time.time() - age_s,) * 2)


def mine(file: Path) -> dict:
    return json.loads(file.read_text())


@pytest.mark.parametrize("links", [True, False])
def test_of_several_that_start_together_one_works_though_locks_keep_nobody_out_and_files_are_late(tmp_path, links):
    folder = tmp_path / "shared"
    folder.mkdir()
    environment = {**late_files(folder, tmp_path), **({} if links else {"NO_LINKS": "1"})}
    (tmp_path / "together").mkdir()
    words = [str(folder / "lease"), str(tmp_path / "together"), "4.5", "4"]
    processes = [
        subprocess.Popen([sys.executable, "-c", WORK, *words], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [process.communicate(timeout=60)[0] for process in processes]
    works = sorted([float(line.split()[1]) for line in text.splitlines()] for text in said if text.startswith("from"))
    assert works
    assert len(works) + sum(text.startswith("refused process ") for text in said) == 4, said
    assert all(before[1] <= after[0] for before, after in pairwise(works)), works
    assert len(works) < 4  # they were seen, 3 s late
    assert list(folder.iterdir()) == []


def test_a_lease_of_a_killed_process_of_this_machine_is_taken_at_once(tmp_path):
    file = tmp_path / "shared" / "lease"
    file.parent.mkdir()
    first = subprocess.Popen(
        [sys.executable, "-c", WORK, str(file), str(tmp_path), "600", "1"], stdout=subprocess.DEVNULL
    )
    until(file.is_file)
    with pytest.raises(LeaseTaken, match=rf"^process {first.pid} on host \S+, started [\d: +-]+$"):
        Lease(file)
    mark = mine(file)["mark"]
    first.kill()
    until(lambda: Path(f"/proc/{first.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    lease = Lease(file)  # nobody has asked how it ended
    first.wait()
    assert lease.killed.mark == mark
    assert mine(file)["pid"] == os.getpid()
    lease.release()
    assert list(file.parent.iterdir()) == []


def test_of_another_machine_the_last_sign_of_life_counts(tmp_path):
    file = tmp_path / "lease"
    leased_by(file, STALE_S - 30)
    with pytest.raises(
        LeaseTaken, match=r"^process 7 on host node7, job 99_3, started 2026.*, last heard of (89|9\d) s ago$"
    ):
        Lease(file)
    leased_by(file, STALE_S + 5)
    lease = Lease(file)
    assert (lease.killed.job, mine(file)["pid"]) == ("99_3", os.getpid())
    lease.release()


def test_a_number_that_another_process_has_by_now_keeps_nobody_out_for_long(tmp_path):
    file = tmp_path / "lease"
    lease = Lease(file)
    record = mine(file)
    lease.release()
    for age_s, taken in ((STALE_S - 30, False), (STALE_S + 5, True)):
        leased_by(file, age_s, **{**record, "pid_started": record["pid_started"] - 3600})
        if taken:
            Lease(file).release()
        else:
            with pytest.raises(LeaseTaken):
                Lease(file)
    leased_by(file, STALE_S + 5, **record)  # this very process, which did not touch it for long
    with pytest.raises(LeaseTaken):
        Lease(file)


def test_a_lease_is_touched_and_says_if_somebody_else_took_it(tmp_path):
    file = tmp_path / "lease"
    lease = Lease(file)
    os.utime(file, (0, 0))
    lease.touch()
    assert time.time() - file.stat().st_mtime < 10
    file.unlink()
    leased_by(file, 0)
    with pytest.raises(OSError, match="somebody else took it"):
        lease.touch()
    lease.release()
    assert mine(file) == OTHER


def test_the_job_of_a_batch_system_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    lease = Lease(tmp_path / "lease")
    assert mine(lease.file)["job"] == "41"
    check_file(mine(lease.file), ".nnunet_ext.lock")
    lease.release()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "40")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    lease = Lease(tmp_path / "lease")
    assert mine(lease.file)["job"] == "40_3"
    lease.release()
