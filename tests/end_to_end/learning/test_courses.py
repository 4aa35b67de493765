import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_ext.end_to_end.learning.courses import Cost, Costs, Course, course, epoch_length
from nnunet_ext.end_to_end.learning.systems import LOCALIZERS, SYSTEMS

DEFAULT, STOCK = SYSTEMS["default"], SYSTEMS["stock"]


def test_a_mark_of_a_cascade_is_four_fifths_the_segmenters():
    # 10 min: 480 s for the segmenter, epochs of 25 * 0.5 + 4 * 0.25 = 13.5 s
    assert course(DEFAULT, Cost(0.5, 0.25, 25), 10) == Course(36, 29, 25, 4)
    # 120 s for the localizer
    assert course(LOCALIZERS["localizer"], Cost(0.5, 0.25, 25), 10) == Course(9, 7, 25, 4)


def test_stock_has_all_minutes_and_epochs_of_a_length_that_suits_the_mark():
    cost = Cost(6.0, 2.0, 1)
    # 600 s: about 95 iterations, 20 epochs of 4 with one validation iteration are 26 s each
    assert course(STOCK, cost, 10) == Course(23, 18, 4, 1)
    assert course(STOCK, cost, 120).epoch_iterations == 25


def test_the_epochs_of_a_trunk_are_as_long_for_all_marks():
    cost = Cost(3.0, 1.0, 7)
    assert {course(DEFAULT, cost, mark).epoch_iterations for mark in (10, 40, 120)} == {7}


@given(train_s=st.floats(0.01, 100), val_share=st.floats(0.1, 1), minutes=st.floats(0.1, 500))
def test_a_branch_leaves_the_trunk_before_it_ends(train_s, val_share, minutes):
    cost = Cost(train_s, train_s * val_share, epoch_length(train_s, train_s * val_share, 60 * minutes))
    found = course(DEFAULT, cost, minutes)
    assert 1 <= found.branch_epoch < found.num_epochs
    assert 1 <= found.epoch_iterations <= 25


@pytest.mark.parametrize(("seconds", "iterations"), [(1e6, 25), (232.0, 10), (1.0, 1)])
def test_the_shortest_mark_has_twenty_epochs_if_its_iterations_allow_that(seconds, iterations):
    assert epoch_length(1.0, 1.0, seconds) == iterations


def test_epochs_may_be_longer_on_a_gpu():
    entry = {"train_s": 0.1, "val_s": 0.1, "epoch_iterations": 250}
    lengths = {}
    for device in ({}, {"device": "cpu"}, {"device": "NVIDIA H200"}):
        costs = Costs({"systems": {"stock": entry}, "marks_min": [120.0], **device})
        lengths[device.get("device")] = course(STOCK, costs.of("stock"), 120).epoch_iterations
    assert lengths == {None: 25, "cpu": 25, "NVIDIA H200": 250}


def test_costs_are_read_and_what_is_not_there_is_said(tmp_path):
    file = tmp_path / "costs_heads.json"
    entries = {"default": {"train_s": 1.0, "val_s": 0.5, "epoch_iterations": 9}, "focal": {"not_built": "no such loss"}}
    file.write_text(json.dumps({"systems": entries, "marks_min": [40.0, 10.0], "stock_memory_gb": 0.5}))
    costs = Costs.read(file)
    assert costs.of("default") == Cost(1.0, 0.5, 9)
    assert costs.marks_min == [10.0, 40.0]
    assert costs.not_built == {"focal": "no such loss"}
    assert costs.stock_memory_gb == 0.5
    with pytest.raises(ValueError, match="'focal' is not built: no such loss"):
        costs.of("focal")
    with pytest.raises(ValueError, match="'stock' is not measured"):
        costs.of("stock")
