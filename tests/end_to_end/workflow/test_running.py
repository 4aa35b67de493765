"""Runs of cheap steps: their order, failures, and SIGKILL at three of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from nnunet_ext.end_to_end.workflow.flags import Flags
from nnunet_ext.end_to_end.workflow.running import last_line, run_steps
from nnunet_ext.end_to_end.workflow.step import Resources, Step

#: A step says that it begins, writes half of its output, waits if it is told to, and writes the whole of it.
WORK = """
import os, sys, time
from pathlib import Path
name, out, *inputs = sys.argv[1:]
with open("begun.txt", "a") as file:
    print(name, os.getpid(), file=file)
Path(out).write_text("half of it")
while Path(f"hold_{name}").exists():
    time.sleep(0.02)
Path(out).write_text(f"{name}({','.join(Path(i).read_text() for i in inputs)})")
"""
#: In a process of its own, to be killed.
RUNNER = """
import json, os, signal, sys
from pathlib import Path
from nnunet_ext.end_to_end.workflow.running import run_steps
from nnunet_ext.end_to_end.workflow.step import Step
steps = [Step(*(tuple(v) if isinstance(v, list) else v for v in words)) for words in json.loads(sys.argv[1])]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
run_steps(steps, Path(sys.argv[2]), environment=dict(os.environ))
"""
OUTCOMES = {"convert": (), "train": ("convert",), "predict": ("train",), "tables": ("predict", "convert")}


def work(name: str, *before: str, **more: object) -> Step:
    inputs = tuple(f"{step}.txt" for step in before)
    return Step(name, name, ("python", "-c", WORK, name, f"{name}.txt", *inputs), (f"{name}.txt",), inputs, **more)


def fails(name: str, *before: str) -> Step:
    script = "print('reading'); raise SystemExit('no such patient')"
    return Step(name, name, ("python", "-c", script), (f"{name}.txt",), tuple(f"{step}.txt" for step in before))


def begun(folder: Path) -> list[str]:
    file = folder / "begun.txt"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.is_file() else []


def run(steps: list[Step], folder: Path, **options: object):
    return run_steps(steps, folder, environment=dict(os.environ), say=lambda line: None, **options)


def until(met: Callable[[], bool]) -> None:
    for _ in range(3000):
        if met():
            return
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing ends the commands of a killed process")
def test_killed_at_three_steps_and_repeated_the_table_is_the_same_and_nothing_is_done_twice(tmp_path):
    steps = [work(name, *before) for name, before in OUTCOMES.items()]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert run(steps, whole).done == list(OUTCOMES)
    words = json.dumps([list(asdict(step).values())[:5] for step in steps])
    for name in ("convert", "train", "predict"):
        (killed / f"hold_{name}").touch()
        runner = subprocess.Popen([sys.executable, "-c", RUNNER, words, str(killed)], stdout=subprocess.DEVNULL)
        until(lambda name=name: (killed / f"{name}.txt").is_file())
        assert (killed / f"{name}.txt").read_text() in ("", "half of it")
        runner.send_signal(signal.SIGKILL)
        runner.wait()
        pid = int((killed / "begun.txt").read_text().split()[-1])
        until(lambda pid=pid: not alive(pid))
        (killed / f"hold_{name}").unlink()
    outcome = run(steps, killed)
    assert outcome.before == ["convert", "train"]
    assert outcome.done == ["predict", "tables"]
    assert begun(killed) == ["convert", "convert", "train", "train", "predict", "predict", "tables"]
    assert (killed / "tables.txt").read_text() == (whole / "tables.txt").read_text()
    assert (whole / "tables.txt").read_text() == "tables(predict(train(convert())),convert())"


def test_a_failed_step_is_named_with_its_log_and_last_line_and_the_others_are_finished(tmp_path):
    steps = [work("a"), fails("b", "a"), work("c", "b"), work("d", "c"), work("e", "a")]
    outcome = run(steps, tmp_path)
    assert outcome.done == ["a", "e"]
    assert outcome.failed == {"b": f"exit code 1, log {tmp_path / 'logs' / 'b.log'}: no such patient"}
    assert outcome.waiting == {"c": "b", "d": "b"}
    mended = [work("b", "a") if step.name == "b" else step for step in steps]
    outcome = run(mended, tmp_path)
    assert outcome.before == ["a", "e"]
    assert outcome.done == ["b", "c", "d"]


def test_a_step_that_ends_well_without_its_output_has_failed(tmp_path):
    step = Step("a", "a", ("python", "-c", "print('nothing to do')"), ("a.txt",))
    assert "it ended well, but there is no a.txt" in run([step], tmp_path).failed["a"]
    missing = Step("b", "b", ("no_such_command",), ("b.txt",))
    assert "the command no_such_command is not there" in run([missing], tmp_path).failed["b"]


def test_what_needs_a_step_that_is_made_again_is_made_again(tmp_path):
    steps = [work("a"), work("b", "a"), work("c")]
    run(steps, tmp_path)
    (tmp_path / "a.txt").unlink()
    assert run(steps, tmp_path).done == ["a", "b"]


def test_steps_run_at_a_time_but_each_gpu_has_one(tmp_path):
    script = "import os, sys; open(sys.argv[1], 'w').write(os.environ.get('CUDA_VISIBLE_DEVICES', ''))"
    training = Resources(gpus=1)
    hold = "import time; from pathlib import Path\nwhile len(list(Path().glob('gpu_*'))) < 2: time.sleep(0.02)"
    both = [Step(n, n, ("python", "-c", f"{script}\n{hold}", n), (n,), resources=training) for n in ("gpu_0", "gpu_1")]
    outcome = run(both, tmp_path, at_a_time=3, gpus=["4", "7"])  # each waits for the other
    assert sorted(outcome.done) == ["gpu_0", "gpu_1"]
    assert {(tmp_path / n).read_text() for n in ("gpu_0", "gpu_1")} == {"4", "7"}

    lines: list[str] = []
    (tmp_path / "one").mkdir()
    steps = [work("a", resources=training), work("b", resources=training)]
    run_steps(steps, tmp_path / "one", environment=dict(os.environ), at_a_time=2, say=lines.append)
    assert [line[:4] for line in lines] == ["[1/2", "    ", "[2/2", "    "]  # the second begins when the first is done


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells the commands of a killed process to end")
def test_a_command_that_takes_its_time_to_end_is_waited_for(tmp_path):
    script = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        + WORK
        + "\nprint('ended', file=open('begun.txt', 'a'))"
    )
    step = Step("a", "a", ("python", "-c", script, "a", "a.txt"), ("a.txt",))
    (tmp_path / "hold_a").touch()
    words = json.dumps([list(asdict(step).values())[:5]])
    killed = subprocess.Popen([sys.executable, "-c", RUNNER, words, str(tmp_path)], stdout=subprocess.DEVNULL)
    until(lambda: (tmp_path / "steps" / "a.started.json").is_file() and bool(begun(tmp_path)))
    until(lambda: "process" in json.loads((tmp_path / "steps" / "a.started.json").read_text()))
    killed.kill()
    killed.wait()

    def say(line: str) -> None:
        if "still ending" in line:
            (tmp_path / "hold_a").unlink()

    assert run_steps([step], tmp_path, environment=dict(os.environ), say=say).done == ["a"]
    assert begun(tmp_path) == ["a", "ended", "a", "ended"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells the commands of a killed process to end")
def test_loaders_that_outlive_a_killed_command_are_ended_by_the_next_run(tmp_path):
    loader = (
        "import subprocess; pid = subprocess.Popen(['sleep', '600']).pid; print(pid, file=open('loaders.txt', 'a'))\n"
    )
    step = Step("a", "a", ("python", "-c", loader + WORK, "a", "a.txt"), ("a.txt",))
    (tmp_path / "hold_a").touch()
    words = json.dumps([list(asdict(step).values())[:5]])
    killed = subprocess.Popen([sys.executable, "-c", RUNNER, words, str(tmp_path)], stdout=subprocess.DEVNULL)
    until(
        lambda: bool(begun(tmp_path)) and "process" in json.loads((tmp_path / "steps" / "a.started.json").read_text())
    )
    killed.kill()
    killed.wait()
    until(lambda: not alive(int((tmp_path / "begun.txt").read_text().split()[1])))
    (first,) = map(int, (tmp_path / "loaders.txt").read_text().split())
    assert alive(first)
    (tmp_path / "hold_a").unlink()
    assert run([step], tmp_path).done == ["a"]
    pids = [int(pid) for pid in (tmp_path / "loaders.txt").read_text().split()]
    assert len(pids) == 2
    until(lambda: not any(map(alive, pids)))


def test_two_runs_of_one_folder_make_each_step_once(tmp_path):
    steps = [work("a"), work("b", "a"), work("c", "b")]
    words = json.dumps([list(asdict(step).values())[:5] for step in steps])
    (tmp_path / "hold_a").touch()
    first = subprocess.Popen([sys.executable, "-c", RUNNER, words, str(tmp_path)], stdout=subprocess.DEVNULL)
    until(lambda: bool(begun(tmp_path)))
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if "another run makes it" in line:
            (tmp_path / "hold_a").unlink(missing_ok=True)

    outcome = run_steps(steps, tmp_path, environment=dict(os.environ), say=say)
    assert first.wait(60) == 0
    assert any(f"    a: another run makes it (process {first.pid} on host" in line for line in lines)
    assert (outcome.done, outcome.failed) == (["a", "b", "c"], {})  # by whomever
    assert sorted(begun(tmp_path)) == ["a", "b", "c"]


def test_an_interrupted_run_ends_its_commands(tmp_path):
    (tmp_path / "hold_a").touch()
    words = json.dumps([list(asdict(work("a")).values())[:5]])
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, words, str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until(lambda: bool(begun(tmp_path)))
    runner.send_signal(signal.SIGINT)
    assert runner.wait(30) != 0
    pid = int((tmp_path / "begun.txt").read_text().split()[1])
    until(lambda: not alive(pid))
    assert not Flags(tmp_path, [work("a")]).is_done(work("a"))


def test_the_last_line_of_a_progress_bar_is_its_last_state(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"begin\ncases: 10%\rcases: 60%\r\n\n")
    assert last_line(log) == "cases: 60%"
    log.write_bytes(b"")
    assert last_line(log) == "it is empty"
