import json

import numpy as np
import pytest

from nnunet_ext.end_to_end.learning.curves import draw_curves
from nnunet_ext.end_to_end.learning.methods import benchmark_methods, methods_table
from nnunet_ext.end_to_end.learning.records import last_gain, read_records
from nnunet_ext.end_to_end.learning.table import has_learned, table

#: Case -> organ -> DSC in percent, None where the reference has no organ.
CASES = {"a": {"Eye_L": 90.0, "OpticChiasm": 50.0}, "b": {"Eye_L": 80.0, "OpticChiasm": None}}


def write(
    folder, system="default", mark=10, seed=0, gain=0.0, *, missed=False, boxes="localizer", sha="1", gpu=None, **more
):
    cases = {
        case: {
            organ: {
                "dsc_percent": None if dsc is None else dsc + gain,
                "hd95_mm": None if dsc is None else 2.0,
                "flag": "left_out" if dsc is None else "missed" if missed else "",
            }
            for organ, dsc in organs.items()
        }
        for case, organs in CASES.items()
    }
    content = {"system": system, "data": "heads", "data_sha256": sha, "seed": seed, "mark_min": mark, "boxes": boxes}
    content |= {
        "iterations": {"segmenter": 300, "localizer": 100},
        "clock_s" if gpu else "cpu_s": {"segmenter": 480.0, "localizer": 120.0},
    }
    content |= {"device": gpu} if gpu else {}
    name = f"heads_{system}_{mark}_seed{seed}{'_true_boxes' if boxes == 'true' else ''}.json"
    (folder / name).write_text(json.dumps({**content, "machine": "M", "cases": cases, **more}))


def rows(text: str) -> list[list[str]]:
    return [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def test_the_mean_is_over_the_organs_of_a_case_first(tmp_path):
    write(tmp_path, missed=True)
    (tmp_path / "costs_heads.json").write_text("{}")
    [record] = read_records(tmp_path, "heads")
    assert record.dsc == pytest.approx((70 + 80) / 2)
    assert record.dsc_sd == pytest.approx(np.sqrt(50))
    assert record.organ_dsc.tolist() == [85.0, 50.0]
    assert (record.hd95, record.missed, record.n_cases) == (2.0, 3, 2)
    assert read_records(tmp_path, "phantoms") == []


def test_runs_on_different_data_of_one_name_are_refused(tmp_path):
    write(tmp_path)
    write(tmp_path, mark=40, sha="2")
    with pytest.raises(ValueError, match="'heads' were made with 2 different data"):
        read_records(tmp_path)


def test_runs_on_two_devices_are_refused_and_those_on_a_gpu_are_minutes_of_the_clock(tmp_path):
    write(tmp_path, gpu="A GPU")
    text = table(read_records(tmp_path), systems=["default"])
    assert rows(text)[0][4] == "clock min"
    assert "Min: minutes of the mark, all stages together, on M, A GPU. " in text
    write(tmp_path, mark=40)
    with pytest.raises(ValueError, match="'heads' were made on A GPU and cpu"):
        read_records(tmp_path)


def test_the_gain_of_the_last_doubling_is_read_off_the_logarithm_of_time(tmp_path):
    for mark, gain in ((5, 0.0), (10, 3.0), (40, 7.0)):
        write(tmp_path, mark=mark, gain=gain)
    records = read_records(tmp_path)
    assert last_gain(records) == pytest.approx(2.0)  # 4 points in two doublings
    assert last_gain(records[:1]) is None


def test_a_row_per_system_mark_and_seed_says_whether_it_is_at_its_end(tmp_path):
    for mark, gain in ((10, 0.0), (40, 1.0)):
        write(tmp_path, mark=mark, gain=gain)
        write(tmp_path, "stock", mark=mark, gain=10 * gain)
    write(tmp_path, seed=1)
    write(tmp_path, boxes="true", gain=2.0)
    text = table(
        read_records(tmp_path), systems=["default", "stock", "focal", "merged"], not_built={"focal": "no loss"}
    )
    heads, _, *lines = rows(text)
    assert heads[:7] == ["system", "min", "seed", "iterations", "CPU min", "Eye_L", "Chiasm"]
    assert [(line[0], line[1], line[2], line[-1]) for line in lines] == [
        ("default", "10", "0", ""),
        ("default", "40", "0", "yes (+0.5)"),
        ("default", "10", "1", "one mark"),
        ("default, true boxes", "10", "0", "one mark"),
        ("stock", "10", "0", ""),
        ("stock", "40", "0", "not at its end (+5.0)"),
    ]
    assert lines[0][3:12] == ["100 + 300", "10.0", "85.0", "50.0", "75.0", "7.1", "2.00", "0", ""]
    assert "- focal: not built (no loss)\n- merged: at no mark" in text
    assert len({len(line) for line in rows(text)}) == 1


def test_a_system_that_has_learned_nothing_is_not_at_its_end(tmp_path):
    for mark in (10, 40):
        write(tmp_path, mark=mark, gain=-75.0)
    _, _, *lines = rows(table(read_records(tmp_path), systems=["default"]))
    assert [line[-1] for line in lines] == ["", "nothing learned yet"]


def test_marks_that_a_system_was_not_run_at_are_listed(tmp_path):
    write(tmp_path)
    text = table(read_records(tmp_path), systems=["default"], marks_min=[10.0, 40.0, 120.0])
    assert text.endswith("Not run:\n\n- default: 40, 120 min")
    assert table([], systems=["default"]) == "No run has been scored yet."


def test_curves_are_drawn(tmp_path):
    for mark in (10, 40):
        for seed in (0, 1):
            write(tmp_path, mark=mark, seed=seed)
    learned = read_records(tmp_path)
    write(tmp_path, mark=10, seed=2, gain=-75.0)
    draw_curves(read_records(tmp_path), tmp_path / "pictures" / "curves.png", systems=["default"])
    assert (tmp_path / "pictures" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [has_learned(record) for record in read_records(tmp_path)].count(False) == 1
    assert all(map(has_learned, learned))


def test_curves_of_runs_that_know_nothing_yet_say_so(tmp_path):
    write(tmp_path, mark=10, gain=-75.0)
    draw_curves(read_records(tmp_path), tmp_path / "curves.png", systems=["default"])
    assert (tmp_path / "curves.png").stat().st_size > 10_000


# Methods --------------------------------------------------------------------------------------------------------------


def test_methods_stand_side_by_side_with_their_weights_and_what_was_not_run(tmp_path):
    write(tmp_path, mark=10, weights={"segmenter": 2000, "localizer": 1000}, predict_cpu_s_per_case=1.25)
    write(tmp_path, mark=40, gain=5.0, weights={"segmenter": 2000, "localizer": 1000})
    write(tmp_path, mark=40, boxes="true")
    write(tmp_path, "atlas, voting", 0, gain=-30.0, boxes=None, iterations={}, cpu_s={}, predict_cpu_s_per_case=80.0)
    write(tmp_path, "16 features")  # a system, and no method
    text = benchmark_methods(runs=tmp_path, table_file=tmp_path / "table.md")
    assert (tmp_path / "table.md").read_text() == text + "\n"
    heads, _, *lines = rows(text)
    by_head = [dict(zip(heads, line, strict=True)) for line in lines]
    assert [(row["method"], row["trained min"], row["mean DSC %"]) for row in by_head] == [
        ("default", "10", "75.0"),
        ("default", "40", "80.0"),
        ("atlas, voting", "not trained", "45.0"),
    ]
    assert [row["weights"] for row in by_head] == ["1,000 + 2,000", "1,000 + 2,000", "none"]
    assert [row["CPU s per case"] for row in by_head] == ["1.2", "", "80.0"]
    assert [row["at its end"] for row in by_head] == ["", "not at its end (+2.5)", ""]
    assert "- AnatomyNet: not run" in text
    assert "- atlas, staple: not run" in text


def test_a_method_that_cannot_be_trained_here_is_named_with_the_reason(tmp_path):
    write(tmp_path)
    text = methods_table(read_records(tmp_path), not_built={"DeepLabv3+": "no library"})
    assert "- DeepLabv3+: not built (no library)" in text


def test_an_unknown_method_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"no method 'U-Net'; known: default, AnatomyNet, .*, atlas, staple, atlas, voting"
    ):
        benchmark_methods(runs=tmp_path, only=["U-Net"])
