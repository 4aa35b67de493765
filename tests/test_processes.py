"""Worker processes: results, and that none outlives the run it works for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from worker_functions import done_or_for_ever, is_running, square, until

from nnunet_ext.processes import KILLED, ended, run_command, run_in_processes

HELPERS = Path(__file__).parent / "helpers"
linux = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks for processes in /proc")

#: A run with two workers that never finish; its first argument is a folder.
RUN = """
import sys
from pathlib import Path
from worker_functions import wait_for_ever
from nnunet_ext.processes import run_in_processes
if __name__ == "__main__":
    try:
        list(run_in_processes(wait_for_ever, [Path(sys.argv[1])] * 2, 2))
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def run(tmp_path: Path):
    """A process that waits for its two workers, in a group of its own, and the workers' numbers."""
    (tmp_path / "run.py").write_text(RUN)
    (tmp_path / "started").mkdir()
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "started")],
        env={**os.environ, "PYTHONPATH": str(HELPERS)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    until(lambda: process.poll() is not None or len(list((tmp_path / "started").iterdir())) == 2)
    assert process.poll() is None, process.stderr.read()
    workers = [int(file.name) for file in (tmp_path / "started").iterdir()]
    assert all(map(is_running, workers))
    yield process, workers
    for pid in (process.pid, *workers):
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def test_each_job_comes_with_its_result():
    assert sorted(run_in_processes(square, [3, 1, 2], 2)) == [(1, 1), (2, 4), (3, 9)]


def test_a_job_whose_process_was_killed_is_told_apart():
    assert dict(run_in_processes(square, [-1], 1)) == {-1: KILLED}


@linux
def test_workers_end_when_nobody_wants_their_results_any_more(tmp_path: Path):
    results = run_in_processes(done_or_for_ever, [tmp_path, None], 2)
    assert next(results) == (None, "done")
    until(lambda: any(tmp_path.iterdir()))
    (worker,) = [int(file.name) for file in tmp_path.iterdir()]
    assert is_running(worker)
    results.close()
    assert not is_running(worker)


@linux
def test_workers_end_when_their_parent_is_killed(run):
    process, workers = run
    process.kill()
    process.wait()
    until(lambda: not any(map(is_running, workers)))


@linux
def test_ctrl_c_which_a_terminal_sends_to_all_ends_all_without_a_traceback(run):
    process, workers = run
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not any(map(is_running, workers))


def test_a_command_ends_where_its_run_fails():
    command = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with pytest.raises(KeyboardInterrupt), ended(command):
        raise KeyboardInterrupt
    assert command.returncode is not None


@linux
def test_a_command_ends_when_its_run_is_killed(tmp_path: Path):
    code = f"""
import subprocess, sys, time
from nnunet_ext.processes import KILL_WITH_PARENT
command = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], preexec_fn=KILL_WITH_PARENT)
open({str(tmp_path / "pid")!r}, "w").write(str(command.pid) + "\\n")
time.sleep(600)
"""
    run = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text().endswith("\n"))
    command = int((tmp_path / "pid").read_text())
    assert is_running(command)
    run.kill()
    run.wait()
    until(lambda: not is_running(command))


def test_a_command_that_fails_is_named_with_the_last_lines_of_its_output(tmp_path):
    script = "import os, sys; print(os.getcwd()); [print(i) for i in range(9)]; sys.exit(int(os.environ['CODE']))"
    run = [sys.executable, "-c", script]
    run_command(run, environment={**os.environ, "CODE": "0"}, folder=tmp_path, failed="counting failed")
    with pytest.raises(RuntimeError, match=r"^counting failed: 4\n5\n6\n7\n8$"):
        run_command(run, environment={**os.environ, "CODE": "3"}, folder=tmp_path, failed="counting failed")
