"""Which figures are drawn, and that one that cannot be drawn costs no other."""

from __future__ import annotations

import json
import shutil

from matplotlib.image import imread
from small_experiments import LABELS, run

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
    kinds = [picture.kind for picture in found.pictures if picture.experiment == "good"]
    assert kinds == ["overlay", "pair", "surface", "surface"]
    assert sum("case_1.nii.gz is cut off" in str(remark) for remark in found.remarks) == 1


def test_overlay_that_cannot_be_drawn_is_named_and_the_others_are_finished(data, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(data / "Dataset501_Head" / "imagesTs", images)
    (images / "case_0_0000.nii.gz").write_bytes(b"damaged")
    found = run(data, tmp_path / "out", "good", images=images, cases=["case_0", "case_1"])
    assert [(remark.kind, remark.values["case"]) for remark in found.remarks] == [("case_not_drawn", "case_0")]
    kinds = {case: sorted(p.kind for p in found.pictures if p.case == case) for case in ("case_0", "case_1")}
    assert kinds == {"case_0": ["surface", "surface"], "case_1": ["overlay", "pair", "surface", "surface"]}


def test_crop_and_resampling_are_drawn_where_predict_recorded_the_box_and_the_model_is_there(
    data, tmp_path, monkeypatch
):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    shutil.copytree(data / "good", tmp_path / "good")
    box = [[2, 8], [3, 20], [4, 30]]
    content = {"models": ["T__P__3d_lowres", "T__P__3d_crop"], "cases": {"case_1": {"box": box}}}
    (tmp_path / "good" / "predictions.json").write_text(json.dumps(content))
    dataset = {"labels": LABELS, "channel_names": {"0": "CT", "1": "T1"}, "name": "Head", "file_ending": ".nii.gz"}
    (tmp_path / "good" / "dataset.json").write_text(json.dumps(dataset))
    model = tmp_path / "results" / "Dataset501_Head" / "T__P__3d_crop"
    (model / "fold_0").mkdir(parents=True)
    configuration = {
        "architecture": {},
        "spacing": [1.5, 0.8, 0.8],
        "resampling_fn_data_kwargs": {"force_separate_z": False},
        "normalization_schemes": ["ZScoreNormalization", "ZScoreNormalization"],
    }
    plans = {"transpose_forward": [0, 1, 2], "foreground_intensity_properties_per_channel": {}}
    (model / "plans.json").write_text(json.dumps({**plans, "configurations": {"3d_crop": configuration}}))
    options = {"references": data / "Dataset501_Head" / "labelsTs", "n_processes": 1, "show_progress": False}
    found = report([("good", tmp_path / "good")], tmp_path / "out", cases=["case_1", "case_2"], **options)
    assert found.remarks == ()
    names = {picture.name for picture in found.pictures if picture.kind == "preprocessing"}
    assert names == {"crop_case_1_good", "resampling_case_1", "resampling_case_2"}
    (tmp_path / "good" / "predictions.json").write_text(json.dumps({**content, "models": ["T__P__3d_crop"]}))
    alone = report(
        [("good", tmp_path / "good")], tmp_path / "alone", cases=["case_1"], **options
    )  # its box is the body
    assert {p.name for p in alone.pictures if p.kind == "preprocessing"} == {"resampling_case_1"}
    titles = [str(picture.title) for picture in found.pictures if picture.name == "crop_case_1_good"]
    assert titles == ["case_1: the crop that the segmenter sees, good"]
