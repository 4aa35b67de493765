"""One step as a job: leases, GPUs, time limits, signals, and what is left of one that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from small_workflows import begun, job, small_workflow, until

from nnunet_ext.end_to_end.workflow.one_step import MOST_WITHOUT_PROGRESS, TAKEN, leased_gpus, main, run_step
from nnunet_ext.end_to_end.workflow.slurm import seconds_of
from nnunet_ext.end_to_end.workflow.standing import DONE, ENDED, FAILED, PAUSED, RUNNING, TO_DO, standings

ONE_STEP = "nnunet_ext.end_to_end.workflow.one_step"


@pytest.fixture
def made(tmp_path):
    workflow = small_workflow(tmp_path)
    workflow.write()
    return workflow


def states(workflow) -> dict[str, str]:
    return {one.step.name: one.state for one in standings(workflow)}


def test_a_step_is_made_once_and_its_mark_has_the_time_of_its_flag(made, tmp_path):
    assert run_step(made.folder, "plan") == 0
    assert run_step(made.folder, "plan") == 0
    assert begun(tmp_path) == [("plan", os.environ.get("CUDA_VISIBLE_DEVICES", "-"))]
    plan = made.step("plan")
    assert made.mark(plan).stat().st_mtime_ns == made.flags(plan).done_file(plan).stat().st_mtime_ns
    assert states(made)["plan"] == DONE


def test_what_needs_something_newer_is_made_again(made, tmp_path):
    for name in ("plan", "train_ours_fold_0", "train_ours_fold_1", "report"):
        assert run_step(made.folder, name) == 0
    flag = made.flags(made.step("train_ours_fold_1")).done_file(made.step("train_ours_fold_1"))
    later_ns = flag.stat().st_mtime_ns + 10**9
    os.utime(flag, ns=(later_ns, later_ns))
    assert states(made)["report"] != DONE
    assert made.write_marks() == {"plan", "train_ours_fold_0", "train_ours_fold_1"}
    assert not made.mark(made.step("report")).exists()


def test_a_step_that_another_run_makes_is_left_or_waited_for(made, tmp_path):
    (hold := tmp_path / "data" / "hold_plan").touch()
    first = job(made, "plan")
    until(lambda: begun(tmp_path))
    assert states(made)["plan"] == RUNNING
    assert run_step(made.folder, "plan") == TAKEN
    waits, attached = job(made, "plan", "--wait"), job(made, "plan", "--attach")
    hold.unlink()
    assert [one.wait() for one in (first, waits, attached)] == [0, 0, 0]
    assert len(begun(tmp_path)) == 1


def test_nobody_attaches_to_a_step_that_nobody_makes(made, tmp_path):
    assert run_step(made.folder, "plan", attach=True) == TAKEN
    assert begun(tmp_path) == []


def test_two_folds_have_a_gpu_each(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with leased_gpus(("4", "7"), 1) as first, leased_gpus(("4", "7"), 1) as second:
        assert [first, second] == [["4"], ["7"]]
    with leased_gpus(("4",), 2) as all_there_are:
        assert all_there_are == ["4"]


def test_a_real_error_names_the_case_and_is_final(made, tmp_path, capsys):
    (tmp_path / "data" / "fail_plan").touch()
    assert main([str(made.folder), "plan", "--cluster"]) == 1
    (plan, *others) = standings(made)
    assert (plan.state, plan.says) == (FAILED, "exit code 1: case 'head_7': no such patient")
    assert {one.state for one in others} == {TO_DO}
    assert others[-1].says == "waits for train_ours_fold_0 and 1 more"
    assert "no such patient" in capsys.readouterr().out


def test_a_time_limit_is_no_error_unless_several_jobs_come_no_further(made, tmp_path):
    for _ in range(MOST_WITHOUT_PROGRESS - 1):
        (tmp_path / "data" / "late_plan").touch()
        assert run_step(made.folder, "plan") == 75
        assert states(made)["plan"] == PAUSED
    (tmp_path / "data" / "late_plan").touch()
    assert run_step(made.folder, "plan") == 1
    assert "ran out of time without progress; raise --time-limit" in standings(made)[0].says
    assert run_step(made.folder, "plan") == 0


def test_a_command_that_knows_no_deadline_is_ended_before_its_job_is(tmp_path):
    workflow = small_workflow(tmp_path, limit_minutes=2 / 60)
    workflow.write()
    (tmp_path / "data" / "hold_plan").touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    ended = job(workflow, "plan", "--cluster", environment=environment)
    assert ended.wait() == 75
    assert states(workflow)["plan"] == PAUSED


def test_a_cancelled_job_ends_its_command_and_says_so(made, tmp_path):
    (tmp_path / "data" / "hold_plan").touch()
    cancelled = job(made, "plan")
    until(lambda: begun(tmp_path))
    until(lambda: made.flags(made.step("plan")).started(made.step("plan")).get("process"))
    cancelled.send_signal(signal.SIGTERM)
    assert cancelled.wait() == 128 + signal.SIGTERM
    assert standings(made)[0].says == "ended by SIGTERM: cancelled, preempted, or out of time"


def test_of_a_killed_job_the_process_and_the_last_line_are_named(made, tmp_path):
    (tmp_path / "data" / "hold_plan").touch()
    killed = job(made, "plan")
    until(lambda: made.flags(made.step("plan")).started(made.step("plan")).get("process"))
    killed.kill()
    killed.wait()
    until(lambda: states(made)["plan"] == ENDED)
    assert "has ended without a word, as if it was killed; the log's last line: " in standings(made)[0].says
    (tmp_path / "data" / "hold_plan").unlink()
    assert run_step(made.folder, "plan") == 0


def test_a_full_disk_is_said_with_the_step_that_met_it(made, tmp_path):
    limited = [
        "bash",
        "-c",
        'ulimit -f 100; exec "$@"',
        "bash",
        sys.executable,
        "-m",
        ONE_STEP,
        str(made.folder),
        "plan",
    ]
    (tmp_path / "data" / "fill_plan").touch()
    assert subprocess.run(limited, check=False, capture_output=True).returncode == 1
    plan = standings(made)[0]
    assert (plan.state, plan.says) == (FAILED, "exit code 1: OSError: [Errno 27] File too large")
    (tmp_path / "data" / "fill_plan").unlink()
    assert run_step(made.folder, "plan") == 0


def test_times_of_slurm_are_read():
    times = {"59:30": 3570, "1:00:00": 3600, "2-03:04:05": 2 * 86400 + 3 * 3600 + 245, "INVALID": None}
    assert {text: seconds_of(text) for text in times} == times
