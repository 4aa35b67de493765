"""The numbers of the training benchmark; the measurement itself runs in `tests/test_end_to_end.py`."""

import os
import time
from types import SimpleNamespace

import pytest

from nnunet_ext.end_to_end.training_benchmark import (
    WARM_UP_ITERATIONS,
    benchmark_train,
    gpu_memory_mb,
    rate,
    set_up_torch,
    table,
    timed_steps,
)
from nnunet_ext.processes import memory_mb

RECORD = {
    "trainer": "CascadeOARTrainer",
    "configuration": "3d_lowres",
    "device": "cpu, ",
    "patch_size": [40, 48, 56],
    "batch_size": 2,
    "cores": 2,
    "threads": 1,
    "workers": 1,
    "cached_per_s": 2.0,
    "real_per_s": 1.9,
    "ratio": 0.95,
    "network_cpu_s": 0.5,
    "loader_cpu_s": 0.025,
    "memory_mb": 520.4,
    "gpu_reserved_mb": None,
    "gpu_allocated_mb": None,
}


def test_the_rate_counts_waits_and_drops_a_hiccup():
    assert rate([0.5] * 10) == 2.0
    assert (
        rate([0.25, 0.75] * 5) == 2.0
    )  # every second iteration waits for the loader: the median iteration would say 4
    assert rate([0.5] * 9 + [60.0]) == 2.0
    assert rate([4.0]) == 0.25


def test_a_phase_ends_after_its_iterations_or_its_time():
    assert len(timed_steps(lambda: None, 7)) == 7
    assert len(timed_steps(lambda: time.sleep(0.02), 50, longest_s=0.05)) < 5
    assert len(timed_steps(lambda: time.sleep(0.02), 50, longest_s=0.01)) == 1


class Clock:
    """Stands still but for the steps, which take the seconds given to it, the last one for ever."""

    def __init__(self, *steps_s: float) -> None:
        self.now_s, self.steps_s = 0.0, list(steps_s)

    def __call__(self) -> float:
        return self.now_s

    def step(self) -> None:
        self.now_s += self.steps_s.pop(0) if len(self.steps_s) > 1 else self.steps_s[0]


@pytest.mark.parametrize(
    ("steps_s", "seconds"), [([60.0, 0.5], [60.0, 0.5, 0.5]), ([200.0], [200.0] * 3), ([0.1], [0.1] * 3)]
)
def test_the_warm_up_has_three_steps_also_if_the_first_one_compiles(steps_s, seconds):
    clock = Clock(*steps_s)
    warm_up = timed_steps(clock.step, WARM_UP_ITERATIONS, at_least=WARM_UP_ITERATIONS, clock=clock)
    assert warm_up == pytest.approx(seconds)


def fake_torch(*, cuda: bool) -> SimpleNamespace:
    """What is set of torch, with the values that it has at its start."""
    made = SimpleNamespace(threads=None, interop_threads=None)
    made.set_num_threads = lambda n: setattr(made, "threads", n)
    made.set_num_interop_threads = lambda n: setattr(made, "interop_threads", n)
    made.cuda = SimpleNamespace(is_available=lambda: cuda)
    made.backends = SimpleNamespace(cudnn=SimpleNamespace(benchmark=False, deterministic=True))
    return made


@pytest.mark.parametrize(
    ("device", "cuda", "n_threads", "threads", "interop_threads"),
    [
        ("cuda", True, 4, 1, 1),
        ("cpu", False, None, os.cpu_count(), None),
        ("cpu", True, 3, 3, None),
        ("mps", False, None, None, None),
    ],
)
def test_torch_is_set_up_as_nnunet_does_for_a_training(device, cuda, n_threads, threads, interop_threads):
    torch = fake_torch(cuda=cuda)
    set_up_torch(device, n_threads, torch)
    assert (torch.threads, torch.interop_threads) == (threads, interop_threads)
    cudnn = torch.backends.cudnn
    assert (cudnn.benchmark, cudnn.deterministic) == ((True, False) if cuda else (False, True))


def test_gpu_memory_is_what_torch_took_and_what_tensors_filled():
    cuda = SimpleNamespace(
        max_memory_reserved=lambda chip: 9_100_600_000, max_memory_allocated=lambda chip: 7_312_000_000
    )
    assert gpu_memory_mb("cuda", cuda) == {"gpu_reserved_mb": 9100.6, "gpu_allocated_mb": 7312.0}


def test_memory_of_this_process_is_of_its_size_and_of_none_is_unknown():
    used_mb = memory_mb([os.getpid()])
    if used_mb is None:
        pytest.skip("no /proc/PID/smaps_rollup here")
    assert 5 < used_mb < 50_000
    assert memory_mb([os.getpid(), -1]) is None


def test_the_table_has_a_row_per_training_and_says_on_what():
    stock = {**RECORD, "trainer": "nnUNetTrainer", "configuration": "3d_fullres", "memory_mb": None}
    stock |= {"gpu_reserved_mb": 9100.6, "gpu_allocated_mb": 7312.4}
    lines = table([RECORD, stock]).splitlines()
    row = "| CascadeOARTrainer 3d_lowres | 40x48x56, 2 | 2.00 | 1.90 | 0.95 | 0.500 | 0.025 | 520 |  |"
    assert lines[2] == row
    assert lines[3].startswith("| nnUNetTrainer 3d_fullres |")
    assert lines[3].endswith("| 0.025 |  | 9101 (7312) |")
    assert {line.count("|") for line in lines[:4]} == {10}
    assert lines[5].startswith("cpu; 2 cores, 1 threads, 1 loader processes.")


def test_a_data_set_without_plans_is_refused_with_the_command_that_makes_them(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    with pytest.raises(ValueError, match=r"no CascadeOARPlans.json for data set 512 .* -d 512 -pl CascadeOARPlanner"):
        benchmark_train(512, out=tmp_path / "out")
