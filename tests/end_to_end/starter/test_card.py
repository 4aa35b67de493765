"""The card's tables say how many, how much they differ, and the worst."""

from __future__ import annotations

from nnunet_ext.end_to_end.starter.card import tables
from nnunet_ext.labels.organs import ORGANS


def row(kind: str, subset: list[str], dsc: float | None, *, wrong: int = 0, flag: str = "") -> dict:
    cell = {"dsc_percent": dsc, "hd95_mm": None if dsc is None else 100 - dsc, "flag": flag}
    return {
        "kind": kind,
        "subset": subset,
        "case": "phantom_001",
        "person": "a",
        "spacing_mm": [1.0, 1.0, 2.5],
        "wrong_side": wrong,
        "organs": {organ: dict(cell) for organ in ORGANS},
    }


def test_a_cell_is_mean_sd_and_the_worst_case():
    text = tables([row("own", ["T1"], 90.0), row("own", ["T1"], 80.0, wrong=3, flag="missed")])
    assert "| T1 | 1 x 1 x 2.5 | 2 | 85.0 ± 5.8 (80.0) |" in text
    assert "| T1 | 1 x 1 x 2.5 | 2 | 15.0 ± 5.8 (20.0) |" in text
    assert "| CT | 1 x 1 x 2.5 | 0 | - | - | - | - |" in text
    assert "- T1: 7 of 14 organs without a voxel" in text
    assert "- Heads own: in 1 of 2 predictions a voxel lies on the wrong side of the midline, 3 voxels in all" in text


def test_organs_that_nobody_has_do_not_count_and_turned_heads_are_no_row():
    text = tables([row("own", ["CT"], None), row("own", ["CT"], 70.0), row("turned", ["CT", "T1", "T2"], 10.0)])
    assert "| CT | 1 x 1 x 2.5 | 2 | 70.0 ± 0.0 (70.0) |" in text
    assert "10.0" not in text
    assert "- Heads turned: in 0 of 1 predictions" in text
