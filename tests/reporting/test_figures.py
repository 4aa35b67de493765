"""Which figures are drawn, and that one that cannot be drawn costs no other."""

from __future__ import annotations

import shutil

from matplotlib.image import imread
from small_experiments import run

from nnunet_ext.reporting.reporting import report


def test_worst_median_and_best_case_are_drawn_the_worst_first(compared):
    assert compared.shown_cases[0] == "case_4"  # its chiasm was missed
    assert len(compared.shown_cases) == 3
    overlays = [p for p in compared.pictures if p.kind == "overlay" and p.case == "case_4"]
    assert [p.experiment for p in overlays] == ["good", "poor", None]  # and both side by side
    side_by_side = imread(compared.out / overlays[-1].png)
    assert side_by_side[..., :3].std() > 0.1
    (copied,) = [p for p in compared.pictures if p.kind == "preprocessing"]
    assert (compared.out / copied.png).read_bytes() == b"picture"
    assert str(copied.title) == "case_4: couch and mask"


def test_a_damaged_prediction_costs_the_other_experiment_no_picture(data, tmp_path):
    references = data / "Dataset501_Head" / "labelsTs"
    shutil.copytree(data / "poor", tmp_path / "poor")
    file = tmp_path / "poor" / "case_1.nii.gz"
    file.write_bytes(file.read_bytes()[:-20])
    runs = [("poor", tmp_path / "poor"), ("good", data / "evaluation_good")]
    options = {"references": references, "cases": ["case_1"], "n_processes": 1, "show_progress": False}
    found = report(runs, tmp_path / "out", **options)
    assert list(found.failed) == ["case_1 (poor)"]
    assert {picture.experiment for picture in found.pictures if picture.case == "case_1"} == {"good"}
    assert [picture.kind for picture in found.pictures if picture.experiment == "good"] == ["overlay", "surface"]
    assert sum("case_1.nii.gz is cut off" in str(remark) for remark in found.remarks) == 1


def test_overlay_that_cannot_be_drawn_is_named_and_the_others_are_finished(data, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(data / "Dataset501_Head" / "imagesTs", images)
    (images / "case_0_0000.nii.gz").write_bytes(b"damaged")
    found = run(data, tmp_path / "out", "good", images=images, cases=["case_0", "case_1"])
    assert [(remark.kind, remark.values["case"]) for remark in found.remarks] == [("case_not_drawn", "case_0")]
    kinds = {case: sorted(p.kind for p in found.pictures if p.case == case) for case in ("case_0", "case_1")}
    assert kinds == {"case_0": ["surface"], "case_1": ["overlay", "surface"]}
