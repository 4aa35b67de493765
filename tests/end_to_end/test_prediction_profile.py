"""The profile of a prediction: the form of its tables, and a whole run of the smallest size."""

from __future__ import annotations

import json

import pytest
from reference_tables import check_file
from tiny_starter import write_starter

from nnunet_ext.end_to_end.prediction_profile import mean_steps, profile_prediction, profile_table
from nnunet_ext.starter.shipped import SEGMENTER


def seconds(wall_s: float) -> dict[str, float]:
    return {"wall_s": wall_s, "cpu_s": 2 * wall_s}


def case(scale: float) -> dict:
    steps = {"reading": 0.1, "body": 0.2, "localizer": 0.5, "box": 0.1, "windows": 2.0, "export": 0.3, "writing": 0.1}
    return {
        "name": "a",
        "steps": {name: seconds(scale * wall_s) for name, wall_s in steps.items()},
        "regrown": False,
        "operations": {
            "localizer": {"n_windows": 1, "multiply_adds": 10**10},
            "windows": {"n_windows": 8, "multiply_adds": 2 * 10**11},
        },
    }


PEAK = {"network": "segmenter", "layer": "decoder.0", "shape": [1, 8, 4, 5, 6], "multiply_adds_per_s": 4e11}
ALONE = {
    "once": {"import": seconds(4.0), "weights": seconds(1.0)},
    "cases": [case(2.0), case(1.0), case(1.0)],
    "peak": PEAK,
    "precision": "bfloat16",
}
RECORD = {"model": "M", "cases": ["a", "b", "c"], "device": "cpu", "processor": "p", "cores": 2, "alone": ALONE}


def test_the_first_case_stands_beside_the_mean_of_the_later_ones_and_the_networks_are_told_apart():
    lines = profile_table({**RECORD, "together": None}).splitlines()
    assert "| import | 4.00 | 8.00 |  |  |" in lines
    assert "| windows | 4.00 | 8.00 | 2.00 | 4.00 |" in lines
    assert "| checks |  |  |  |  |" in lines
    assert "| all | 11.60 | 23.20 | 3.30 | 6.60 |" in lines
    assert "| all but the networks | 6.60 | 13.20 | 0.80 | 1.60 |" in lines


def test_the_share_of_the_peak_is_the_networks_pace_divided_by_that_of_the_layer_alone():
    text = profile_table({**RECORD, "together": None})
    # 10 x 10^9 in 0.5 s are 20 x 10^9 in a second, of 400.
    assert "| localizer | 1 | 10.00 | 20.0 | 5 |" in text
    assert "| windows | 8 | 200.00 | 100.0 | 25 |" in text
    assert "| both | 9 | 210.00 | 84.0 | 21 |" in text
    assert "400.0 x 10^9 in a second" in text
    assert "(decoder.0 of the segmenter, input 1x8x4x5x6)" in text
    assert "As `nnunet_ext predict` does it" not in text


def test_a_run_over_many_cases_says_how_busy_the_cores_were_and_how_the_memory_grew():
    memory = [600.0, 650.0, 660.0]
    together = {"wall_s": 10.0, "cpu_s": 18.0, "first_s": 4.0, "peak_memory_mb": memory}
    text = profile_table({**RECORD, "together": together})
    assert "3.00 s for each case after the first, 90 % of 2 cores busy" in text
    assert "600 MB after the first case, 650 MB after 2, 660 MB after all 3" in text


def test_a_step_that_a_case_had_not_counts_as_nothing():
    assert mean_steps([{"steps": {"box": seconds(1.0)}}, {"steps": {}}]) == {"box": seconds(0.5)}


@pytest.mark.long
def test_a_whole_profile_measures_every_step_of_each_case(tmp_path, cascade_plans):
    starter = write_starter(tmp_path / "starter", cascade_plans)
    out = tmp_path / "profile"
    text = profile_prediction(starter / "model" / SEGMENTER, size="tiny", n_cases=2, full_precision=True, out=out)
    assert (out / "profile.md").read_text() == text + "\n"
    record = json.loads((out / "profile.json").read_text())
    check_file(record, "profile.json")
    assert list(record["alone"]["once"]) == ["import", "weights"]
    needed = {"reading", "checks", "body", "localizer", "box", "windows", "export", "writing"}
    for one in record["alone"]["cases"]:
        assert needed <= set(one["steps"])
        assert all(step["cpu_s"] >= 0 and step["wall_s"] > 0 for step in one["steps"].values())
        assert one["operations"]["windows"]["multiply_adds"] > one["operations"]["localizer"]["n_windows"] >= 1
    assert len(record["together"]["peak_memory_mb"]) == 2
    assert record["alone"]["peak"]["multiply_adds_per_s"] > 0
