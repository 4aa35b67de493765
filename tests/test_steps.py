"""Steps that are measured: what belongs to which, in CPU seconds and memory."""

import time
from pathlib import Path

import pytest

from nnunet_ext.steps import recorded_steps, step


def compute(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_step_leaves_out_the_steps_inside_it_and_repetitions_add_up():
    with recorded_steps() as steps:
        with step("all", case="a"):
            compute(0.1)
            for _ in range(2):
                with step("N4"):
                    compute(0.2)
            time.sleep(0.2)
        compute(0.1)  # in no step
        with step("all", case="b"):
            compute(0.1)
    assert [(s.case, s.name) for s in steps] == [("a", "all"), ("a", "N4"), ("b", "all")]
    assert [s.cpu_s for s in steps] == pytest.approx([0.1, 0.4, 0.1], abs=0.06)
    slept = steps[0]
    assert slept.wall_s >= slept.cpu_s + 0.1
    assert all(s.wall_s >= s.cpu_s - 0.06 for s in steps)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").is_file(), reason="peaks are read from Linux's /proc")
def test_the_peak_of_a_step_is_not_that_of_an_earlier_one():
    with recorded_steps() as steps:
        with step("large", case="a"):
            bytearray(200_000_000)
        with step("small", case="a"):
            pass
    large, small = steps
    assert large.peak_mb > small.peak_mb + 150


def test_a_step_that_fails_is_recorded_and_the_failure_passes():
    with recorded_steps() as steps, pytest.raises(ValueError, match="no head"), step("read", case="a"):
        raise ValueError("no head")
    assert [s.name for s in steps] == ["read"]


def test_steps_are_recorded_only_while_someone_measures():
    with recorded_steps() as steps:
        pass
    with step("read", case="a"):
        pass
    assert steps == []
