"""Learning rate and end of a training, at points worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.training.schedule import (
    TrainingSchedule,
    elapsed_h,
    learning_rate_factor,
    poly,
    progress,
    wind_down_epochs,
    wind_down_start,
)


def factor(schedule: TrainingSchedule, **at) -> float:
    return learning_rate_factor(
        schedule, **({"elapsed_h": 0.0, "scores": (), "iteration": 1000, "warmup_iterations": 30} | at)
    )


# ------------------------------------------------------------------------------------------------ the plan's entry


@pytest.mark.parametrize("entry", [None, {}])
def test_a_missing_entry_takes_the_defaults(entry):
    assert TrainingSchedule.from_plan(entry) == TrainingSchedule(1000, 250, 50, None, None, None)


def test_the_entry_is_read_and_its_missing_keys_take_the_defaults():
    schedule = TrainingSchedule.from_plan({"num_epochs": 24, "time_budget_h": 0.25, "patience_epochs": None})
    assert schedule == TrainingSchedule(num_epochs=24, time_budget_h=0.25)


def test_an_unknown_key_raises_naming_it_and_the_place():
    with pytest.raises(ValueError, match=r"configuration '3d_lowres': .*\['patience'\].*patience_epochs"):
        TrainingSchedule.from_plan({"patience": 50}, where="configuration '3d_lowres'")


@pytest.mark.parametrize("name", ["num_epochs", "iterations_per_epoch", "val_iterations_per_epoch"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "10", True, None])
def test_counts_must_be_whole_numbers_from_one(name, value):
    with pytest.raises(ValueError, match=f"training.{name} is {value!r}"):
        TrainingSchedule.from_plan({name: value})


@pytest.mark.parametrize("name", ["patience_epochs", "time_budget_h", "initial_lr"])
@pytest.mark.parametrize("value", [0, -0.5, float("nan"), "10", True])
def test_limits_must_be_positive_numbers_or_null(name, value):
    with pytest.raises(ValueError, match=f"training.{name} is {value!r}"):
        TrainingSchedule.from_plan({name: value})


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "0.5", True, None])
def test_the_constant_share_must_be_a_number_from_0_to_1(value):
    with pytest.raises(ValueError, match=f"training.constant_share is {value!r}"):
        TrainingSchedule.from_plan({"constant_share": value})


# ------------------------------------------------------------------------------------------------ decay


def test_poly_is_nnunets_decay():
    assert poly(0.0) == 1.0
    assert poly(0.5) == pytest.approx(0.5358867)  # 0.5 ** 0.9
    assert poly(1.0) == 0.0
    assert poly(1.7) == 0.0
    assert poly(-0.3) == 1.0


def test_the_rate_decays_over_the_epochs():
    schedule = TrainingSchedule(num_epochs=10)
    assert factor(schedule, epoch=0) == 1.0
    assert factor(schedule, epoch=2.5) == pytest.approx(0.75**0.9)
    assert factor(schedule, epoch=10) == 0.0


def test_the_rate_decays_over_the_time_budget_where_that_ends_first():
    schedule = TrainingSchedule(num_epochs=1000, time_budget_h=2.0)
    assert progress(schedule, epoch=100, elapsed_h=0.1) == 0.1
    assert progress(schedule, epoch=100, elapsed_h=1.5) == 0.75
    assert factor(schedule, epoch=100, elapsed_h=1.5) == pytest.approx(0.25**0.9)
    assert factor(schedule, epoch=100, elapsed_h=2.0) == 0.0
    assert factor(schedule, epoch=100, elapsed_h=2.1) == 0.0


def test_the_rate_stays_for_the_constant_share_and_then_decays_to_zero():
    schedule = TrainingSchedule(num_epochs=10, constant_share=0.8)
    assert factor(schedule, epoch=0) == factor(schedule, epoch=7.9) == factor(schedule, epoch=8) == 1.0
    assert factor(schedule, epoch=9) == pytest.approx(0.5**0.9)
    assert factor(schedule, epoch=10) == 0.0
    assert factor(schedule, epoch=4, iteration=14) == 0.5  # warmed up by half


def test_with_a_constant_share_of_one_the_rate_never_falls():
    schedule = TrainingSchedule(num_epochs=10, constant_share=1.0)
    assert factor(schedule, epoch=9.9) == factor(schedule, epoch=10) == 1.0


def test_the_wind_down_falls_from_the_constant_rate():
    schedule = TrainingSchedule(num_epochs=100, patience_epochs=5, constant_share=0.5)  # winds down over 10 epochs
    assert factor(schedule, epoch=11, scores=[0.5] + [0.4] * 5) == 0.5


def test_the_rate_warms_up_linearly():
    schedule = TrainingSchedule(num_epochs=10**9)
    rates = [factor(schedule, epoch=0, iteration=i, warmup_iterations=4) for i in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert factor(schedule, epoch=0, iteration=0, warmup_iterations=0) == 1.0


# ------------------------------------------------------------------------------------------------ wind-down


@pytest.mark.parametrize(("num_epochs", "expected"), [(1, 1), (9, 1), (40, 4), (500, 50), (1000, 50)])
def test_the_wind_down_is_a_tenth_of_the_epochs_within_limits(num_epochs, expected):
    assert wind_down_epochs(TrainingSchedule(num_epochs=num_epochs)) == expected


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([], None),
        ([0.5, 0.6, 0.7, 0.7, 0.7], None),  # best in epoch 2; 2 epochs without a better one
        ([0.5, 0.6, 0.7, 0.7, 0.7, 0.6], 6),  # 3 epochs: the wind-down starts with the next
        ([0.5, 0.6, 0.7, 0.7, 0.7, 0.8], None),  # just in time
        ([0.5, 0.6, 0.7, 0.7, 0.7, 0.6, 0.9], 6),  # a later best does not undo it
        ([0.0, 0.0, 0.0, 0.0], 4),
    ],
)
def test_the_wind_down_starts_when_patience_of_three_epochs_runs_out(scores, expected):
    assert wind_down_start(scores, 3) == expected


def test_without_patience_there_is_no_wind_down():
    assert wind_down_start([0.5] * 1000, None) is None


def test_the_wind_down_falls_linearly_from_where_the_rate_stood_to_zero():
    schedule = TrainingSchedule(num_epochs=100, patience_epochs=5)  # winds down over 10 epochs
    scores = [0.5] + [0.4] * 5  # patience runs out in epoch 5
    assert factor(schedule, epoch=6, scores=scores) == pytest.approx(0.94**0.9)
    assert factor(schedule, epoch=11, scores=scores) == pytest.approx(0.94**0.9 / 2)
    assert factor(schedule, epoch=16, scores=scores) == 0.0
    assert factor(schedule, epoch=17, scores=scores) == 0.0


def test_the_rate_does_not_jump_when_the_wind_down_starts_late_in_a_time_budget():
    schedule = TrainingSchedule(num_epochs=1000, patience_epochs=5, time_budget_h=1.0)
    before = factor(schedule, epoch=6, elapsed_h=0.5, scores=[0.5] * 5)
    after = factor(schedule, epoch=6, elapsed_h=0.5, scores=[0.5] * 6)
    assert before == after == pytest.approx(0.5**0.9)


def test_a_wind_down_that_the_last_epoch_cuts_short_ends_at_zero():
    schedule = TrainingSchedule(num_epochs=20, patience_epochs=18)
    assert factor(schedule, epoch=20, scores=[0.5] * 20) == 0.0


def test_a_time_budget_that_ends_in_the_wind_down_ends_at_zero():
    schedule = TrainingSchedule(num_epochs=1000, patience_epochs=2, time_budget_h=1.0)
    assert factor(schedule, epoch=4, elapsed_h=1.0, scores=[0.5] * 3) == 0.0


@settings(max_examples=200, deadline=None)
@given(
    scores=st.lists(st.floats(0, 1), min_size=1, max_size=60),
    patience=st.none() | st.integers(1, 20),
    budget_h=st.none() | st.floats(0.1, 3),
)
def test_after_the_warm_up_the_rate_never_rises(scores, patience, budget_h):
    schedule = TrainingSchedule(num_epochs=50, patience_epochs=patience, time_budget_h=budget_h)
    rates = [
        factor(schedule, epoch=e + share, elapsed_h=(e + share) / 30, scores=scores[:e])
        for e in range(len(scores))
        for share in (0.0, 0.5)
    ]
    assert all(0.0 <= b <= a <= 1.0 for a, b in pairwise(rates))


@settings(max_examples=100, deadline=None)
@given(scores=st.lists(st.floats(0, 1), max_size=40), later=st.lists(st.floats(0, 1), max_size=10))
def test_the_start_of_the_wind_down_is_found_again_after_resuming(scores, later):
    start = wind_down_start(scores, 5)
    if start is not None:
        assert wind_down_start(scores + later, 5) == start


# ------------------------------------------------------------------------------------------------ time


def test_the_time_between_two_runs_does_not_count_and_the_epoch_that_runs_does():
    assert elapsed_h([0.0, 5000.0], [1800.0, 6800.0], now_s=1e9) == 1.0
    assert elapsed_h([0.0, 5000.0], [1800.0], now_s=6800.0) == 1.0
    assert elapsed_h([], [], now_s=1e9) == 0.0
