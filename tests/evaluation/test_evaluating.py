"""Folders of label maps: what is counted, what is listed, and that grids are compared, never assumed."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from dataclasses import asdict, astuple
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.evaluation.evaluating import evaluate
from nnunet_ext.evaluation.one_case import on_grid_of
from nnunet_ext.evaluation.score_files import read_evaluation
from nnunet_ext.evaluation.statistics import Score
from nnunet_ext.labels.table import LEFT_OUT_KEY
from nnunet_ext.nnunet_folders import channel_files, find_label_maps

SHAPE = (5, 7, 11)
SPACING_MM = (3.0, 0.8, 0.7)
DIAGONAL_MM = math.sqrt(15.0**2 + 5.6**2 + 7.7**2)
LABELS = {"background": 0, "Lens_L": 1, "OpticChiasm": 2}

LENS = np.s_[2, 2:4, 2:6]  # 8 voxels
CHIASM = np.s_[1:3, 5, 7:9]  # 4 voxels


def label_map(*regions: tuple, shape: tuple[int, int, int] = SHAPE, dtype: type = np.uint8) -> np.ndarray:
    out = np.zeros(shape, dtype)
    for region, value in regions:
        out[region] = value
    return out


REFERENCE = label_map((LENS, 1), (CHIASM, 2))
HALF_LENS = label_map((np.s_[2, 2:4, 2:4], 1), (CHIASM, 2))  # DSC 2 * 4 / (4 + 8) = 66.7


def image(array: np.ndarray, *, oblique: bool = True) -> sitk.Image:
    out = sitk.GetImageFromArray(array)
    out.SetSpacing(SPACING_MM[::-1])
    out.SetOrigin((-12.5, 31.0, 7.25))
    if oblique:
        turn = sitk.Euler3DTransform((0, 0, 0), 0.20, -0.15, 0.10)
        out.SetDirection(turn.GetMatrix())
    return out


def write(folder: Path, case: str, content: np.ndarray | sitk.Image, ending: str = ".nii.gz") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(content if isinstance(content, sitk.Image) else image(content), str(folder / f"{case}{ending}"))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    for name in ("predictions", "references"):
        (tmp_path / name).mkdir()
    return tmp_path / "predictions", tmp_path / "references", tmp_path / "out"


def score(folders: tuple[Path, Path, Path], **options):
    fixed = {"labels": LABELS, "tolerance_mm": 1.0, "n_processes": 1, "show_progress": False}
    return evaluate(*folders, **(fixed | options))


def row_of(summary, case: str, organ: str) -> Score:
    return next(row for row in summary.rows if (row.case, row.organ) == (case, organ))


def test_scores_and_means_are_what_paper_says(folders):
    predictions, references, out = folders
    write(predictions, "case_1", REFERENCE)
    write(predictions, "case_2", HALF_LENS)
    write(references, "case_1", REFERENCE)
    write(references, "case_2", REFERENCE)
    summary = score(folders)
    assert summary.ok
    assert summary.cases == ("case_1", "case_2")
    assert summary.scores("case_1") == {"Lens_L": 100.0, "OpticChiasm": 100.0}
    assert summary.scores("case_2") == pytest.approx({"Lens_L": 200 / 3, "OpticChiasm": 100.0})
    # The lost half reaches from x = 4 to 6; its outer face is 2 voxels of 0.7 mm from the prediction.
    assert summary.scores("case_2", "hd95_mm") == pytest.approx({"Lens_L": 1.4, "OpticChiasm": 0.0})
    lens = summary.per_organ["Lens_L"]["dsc_percent"]
    assert astuple(lens) == pytest.approx((250 / 3, (100 - 200 / 3) / math.sqrt(2), 250 / 3, 2))
    # All organs: case means 100 and 83.33, then mean and SD of these two.
    assert summary.all_organs["dsc_percent"].value == pytest.approx((100 + 250 / 3) / 2)
    assert summary.all_organs["dsc_percent"].sd == pytest.approx((100 - 250 / 3) / math.sqrt(2))
    row = row_of(summary, "case_2", "Lens_L")
    assert row.volume_difference_ml == pytest.approx(-4 * 1.68 / 1000)
    assert row.reference_ml == pytest.approx(8 * 1.68 / 1000)
    assert sorted(p.name for p in out.iterdir()) == ["evaluation.csv", "evaluation.json", "evaluation.md"]


def test_missed_invented_and_left_out_organs_are_flagged_and_listed(folders):
    predictions, references, _ = folders
    only_lens, only_chiasm, nothing = label_map((LENS, 1)), label_map((CHIASM, 2)), label_map()
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", only_chiasm)  # lens missed
    write(references, "case_2", only_chiasm)
    write(predictions, "case_2", REFERENCE)  # lens invented
    write(references, "case_3", only_chiasm)
    write(predictions, "case_3", only_chiasm)  # lens left out
    write(references, "case_4", REFERENCE)
    write(predictions, "case_4", REFERENCE)
    summary = score(folders)
    assert summary.missed == [("case_1", "Lens_L")]
    assert summary.invented == [("case_2", "Lens_L")]
    assert summary.left_out == [("case_3", "Lens_L")]
    for case in ("case_1", "case_2"):
        assert row_of(summary, case, "Lens_L").dsc_percent == 0.0
        assert row_of(summary, case, "Lens_L").surface_dice == 0.0
        assert row_of(summary, case, "Lens_L").hd95_mm == pytest.approx(DIAGONAL_MM, rel=1e-6)
    lens = summary.per_organ["Lens_L"]
    assert lens["dsc_percent"].n == 3  # the left-out one is in no mean
    assert lens["dsc_percent"].value == pytest.approx(100 / 3)
    assert lens["hd95_mm"].value == pytest.approx(2 * DIAGONAL_MM / 3, rel=1e-6)
    # All organs of case_3 is its chiasm alone, not NaN.
    assert summary.all_organs["dsc_percent"].value == pytest.approx((50 + 50 + 100 + 100) / 4)

    write(references, "case_1", only_lens)
    write(predictions, "case_1", nothing)
    summary = score(folders)
    assert summary.missed == [("case_1", "Lens_L")]
    assert summary.left_out == [("case_1", "OpticChiasm"), ("case_3", "Lens_L")]


def test_an_organ_that_the_model_leaves_out_has_no_score_in_any_case(folders):
    predictions, references, out = folders
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", label_map((LENS, 1)))
    write(references, "case_2", REFERENCE)  # failed: no prediction
    note = {"labels": LABELS, LEFT_OUT_KEY: ["OpticChiasm"]}
    (predictions / "dataset.json").write_text(json.dumps(note))
    summary = score(folders, labels=None)
    assert summary.not_segmented == ("OpticChiasm",)
    assert summary.missed == []
    assert {row_of(summary, case, "OpticChiasm").flag for case in ("case_1", "case_2")} == {"not_segmented"}
    assert summary.per_organ["OpticChiasm"]["dsc_percent"].n == 0
    assert summary.all_organs["dsc_percent"].value == pytest.approx((100 + 0) / 2)  # the lens alone
    table = (out / "evaluation.md").read_text()
    assert "| OpticChiasm | - | - | - | - | - | 1 | 0 |" in table
    assert "Not segmented by this model (no score, not counted): OpticChiasm" in table
    content = json.loads((out / "evaluation.json").read_text())
    assert content["not_segmented"] == ["OpticChiasm"]
    assert content["per_case"]["case_1"]["OpticChiasm"]["dsc_percent"] is None


@pytest.mark.parametrize("place", [0, 1])
def test_left_and_right_are_those_of_the_dataset_json_beside_predictions_or_references_else_by_name(folders, place):
    labels = {"background": 0, "left_lens": 1, "right_lens": 2}
    for folder in folders[:2]:
        write(folder, "case_1", REFERENCE)
    assert score(folders, labels=labels).left_right_pairs == [("left_lens", "right_lens")]
    (folders[place] / "dataset.json").write_text(
        json.dumps({"labels": {"A": 1, "B": 2}, "left_right_pairs": [["B", "A"]]})
    )
    assert score(folders, labels=None).left_right_pairs == [("B", "A")]
    assert read_evaluation(folders[2]).left_right_pairs == [("B", "A")]
    assert score(folders, labels={"B": 1, "other": 2}).left_right_pairs == []


def test_case_without_prediction_fails_and_counts_as_worst(folders):
    predictions, references, _ = folders
    write(predictions, "case_1", REFERENCE)
    write(references, "case_1", REFERENCE)
    write(references, "case_2", label_map((LENS, 1)))
    summary = score(folders)
    assert not summary.ok
    assert summary.failed == {"case_2": "no prediction"}
    assert summary.missed == []
    assert summary.left_out == []
    lens, chiasm = summary.per_organ["Lens_L"], summary.per_organ["OpticChiasm"]
    assert lens["dsc_percent"].value == pytest.approx(50.0)
    assert lens["surface_dice"].value == pytest.approx(0.5)
    assert lens["hd95_mm"].value == pytest.approx(DIAGONAL_MM / 2, rel=1e-6)
    assert astuple(chiasm["dsc_percent"]) == pytest.approx((100.0, math.nan, 100.0, 1), nan_ok=True)
    assert [row.flag for row in summary.rows if row.case == "case_2"] == ["failed", "failed"]
    assert math.isnan(row_of(summary, "case_2", "Lens_L").prediction_ml)


def test_prediction_without_reference_is_ignored_and_listed(folders):
    predictions, references, _ = folders
    write(predictions, "case_1", REFERENCE)
    write(predictions, "case_9", HALF_LENS)
    write(references, "case_1", REFERENCE)
    summary = score(folders)
    assert summary.ignored == ("case_9",)
    assert summary.ok
    assert summary.per_organ["Lens_L"]["dsc_percent"].n == 1


def change_size(_: sitk.Image) -> sitk.Image:
    return image(label_map((LENS, 1), shape=(5, 7, 12)))


def change_spacing(out: sitk.Image) -> sitk.Image:
    out.SetSpacing((0.7, 0.85, 3.0))
    return out


def change_origin(out: sitk.Image) -> sitk.Image:
    out.SetOrigin((-12.5, 31.4, 7.25))
    return out


def change_direction(out: sitk.Image) -> sitk.Image:
    out.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.20, -0.15, 0.20).GetMatrix())
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_size, r"12x7x5 voxels .* against 11x7x5 voxels .* \(sizes differ\)"),
        (
            change_spacing,
            r"0.7x0.85x3 mm.* against .*0.7x0.8x3 mm.* \(spacing differs by \(0, 0.05, 0\) mm, corners up to 0.3",
        ),
        (change_origin, r"\(origin differs by \(0, 0.4, 0\) mm, corners up to 0.4 mm apart\)"),
        (change_direction, r"\(direction differs, corners up to"),
    ],
)
def test_another_grid_fails_the_case_and_the_others_are_finished(folders, change, message):
    predictions, references, _ = folders
    for case in ("case_1", "case_2"):
        write(references, case, REFERENCE, ".mha")
        write(predictions, case, REFERENCE, ".mha")
    write(predictions, "case_1", change(image(REFERENCE)), ".mha")
    summary = score(folders)
    assert list(summary.failed) == ["case_1"]
    with pytest.raises(ValueError, match=message):
        raise ValueError(summary.failed["case_1"])
    assert "\n" not in summary.failed["case_1"]
    assert summary.scores("case_1") == {"Lens_L": 0.0, "OpticChiasm": 0.0}
    assert summary.scores("case_2") == {"Lens_L": 100.0, "OpticChiasm": 100.0}
    assert summary.per_organ["Lens_L"]["dsc_percent"].value == 50.0


def test_a_prediction_within_header_rounding_gets_the_grid_of_its_reference():
    moved = image(REFERENCE)
    moved.SetOrigin([o + 0.1 for o in moved.GetOrigin()])  # 0.173 mm < 0.25 * 0.7 mm
    assert on_grid_of(moved, image(REFERENCE)).GetOrigin() == image(REFERENCE).GetOrigin()
    moved.SetOrigin([o + 0.01 for o in moved.GetOrigin()])
    with pytest.raises(ValueError, match=r"different grids: .*origin differs by \(0.11, 0.11, 0.11\) mm"):
        on_grid_of(moved, image(REFERENCE))


@pytest.mark.parametrize("code", ["RAS", "LPS", "SAR", "PIL"])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
@pytest.mark.parametrize("reference_code", ["LPS", "AIR"])
def test_prediction_with_other_axis_order_or_flips_scores_100(folders, code, ending, reference_code):
    predictions, references, _ = folders
    write(references, "case_1", sitk.DICOMOrient(image(REFERENCE), reference_code))
    write(predictions, "case_1", sitk.DICOMOrient(image(REFERENCE), code), ending)
    stored = sitk.ReadImage(str(predictions / f"case_1{ending}"))
    assert sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(stored.GetDirection()) == code
    summary = score(folders)
    assert summary.failed == {}
    assert summary.scores("case_1") == {"Lens_L": 100.0, "OpticChiasm": 100.0}
    assert summary.scores("case_1", "hd95_mm") == {"Lens_L": 0.0, "OpticChiasm": 0.0}


def test_flipped_voxels_without_a_flipped_header_are_not_forgiven(folders):
    predictions, references, _ = folders
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", np.ascontiguousarray(REFERENCE[:, :, ::-1]))
    assert score(folders).scores("case_1") != {"Lens_L": 100.0, "OpticChiasm": 100.0}


def test_reoriented_prediction_keeps_its_voxels_in_place():
    reference = image(REFERENCE)
    back = on_grid_of(sitk.DICOMOrient(reference, "SAR"), reference)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), REFERENCE)


@pytest.mark.parametrize(
    ("array", "shown"),
    [
        (label_map((LENS, 1), (CHIASM, 9)), "label 9,"),
        (label_map((LENS, 1), (CHIASM, -1), dtype=np.int16), "label -1,"),
        (label_map((LENS, 1), (CHIASM, 0.5), dtype=np.float32), r"label 0\.5,"),
    ],
)
@pytest.mark.parametrize("where", ["predictions", "references"])
def test_unknown_label_fails_the_case(folders, array, shown, where):
    other = "references" if where == "predictions" else "predictions"
    write(folders[0].parent / where, "case_1", array)
    write(folders[0].parent / other, "case_1", REFERENCE)
    summary = score(folders)
    with pytest.raises(ValueError, match=rf"case_1.nii.gz holds {shown} which is not in the mapping \[1, 2\]"):
        raise ValueError(summary.failed["case_1"])
    assert summary.scores("case_1")["Lens_L"] == 0.0


def test_label_between_known_ones_is_unknown_too(folders):
    predictions, references, _ = folders
    write(references, "case_1", label_map((LENS, 1)))
    write(predictions, "case_1", label_map((LENS, 1), (CHIASM, 2)))
    assert "holds label 2," in score(folders, labels={"Lens_L": 1, "OpticChiasm": 5}).failed["case_1"]


def test_whole_numbers_stored_as_float_are_labels(folders):
    predictions, references, _ = folders
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", REFERENCE.astype(np.float32))
    assert score(folders).scores("case_1") == {"Lens_L": 100.0, "OpticChiasm": 100.0}


def test_unreadable_files_fail_their_case_only(folders):
    predictions, references, _ = folders
    for case in ("case_1", "case_2", "case_3"):
        write(references, case, REFERENCE)
        write(predictions, case, REFERENCE)
    (predictions / "case_1.nii.gz").write_bytes(b"not an image")
    (references / "case_2.nii.gz").write_bytes(b"not an image")
    summary = score(folders)
    assert sorted(summary.failed) == ["case_1", "case_2"]
    assert "case_1.nii.gz is cut off: 12 bytes" in summary.failed["case_1"]
    # case_1 counts as missed; nobody knows which organs case_2 holds.
    lens = summary.per_organ["Lens_L"]
    assert astuple(lens["dsc_percent"]) == pytest.approx((50.0, 100 / math.sqrt(2), 50.0, 2))
    assert lens["hd95_mm"].n == 2


@pytest.mark.parametrize("broken", ["predictions", "references"])
def test_a_link_that_leads_nowhere_is_a_failed_case_and_no_missing_one(folders, broken):
    predictions, references, _ = folders
    for case in ("case_1", "case_2"):
        write(predictions, case, REFERENCE)
        write(references, case, REFERENCE)
    file = (predictions if broken == "predictions" else references) / "case_2.nii.gz"
    file.unlink()
    file.symlink_to(file.with_name("nowhere.nii.gz"))
    summary = score(folders)
    assert list(summary.failed) == ["case_2"]
    assert "case_2.nii.gz" in summary.failed["case_2"]


def test_stack_of_channels_is_not_a_label_map(folders):
    predictions, references, _ = folders
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", sitk.JoinSeries([image(REFERENCE)] * 2))
    assert "case_1.nii.gz is 4D, 11x7x5x2" in score(folders).failed["case_1"]


def test_one_and_two_processes_give_the_same(folders):
    predictions, references, out = folders
    rng = np.random.default_rng(0)
    for case in range(5):
        write(references, f"case_{case}", rng.integers(0, 3, SHAPE).astype(np.uint8))
        if case != 3:
            write(predictions, f"case_{case}", rng.integers(0, 3, SHAPE).astype(np.uint8))
    one = score(folders, n_processes=1)
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    two = score(folders, n_processes=2)
    assert two.rows[0].case == "case_0"
    np.testing.assert_equal(list(map(asdict, two.rows)), list(map(asdict, one.rows)))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files
    assert two.failed == {"case_3": "no prediction"}


def test_table_is_laid_out_as_papers_print_it(folders):
    predictions, references, out = folders
    for case in ("case_1", "case_2"):
        write(references, case, REFERENCE)
    write(predictions, "case_1", label_map((LENS, 1)))
    write(predictions, "case_2", HALF_LENS)
    write(predictions, "case_7", HALF_LENS)
    lines = score(folders, tolerance_mm=2.0).table_markdown.splitlines()
    # Of the lens only surface elements at 0.7 and 1.4 mm from the other surface count: 0.25 mm on average.
    assert lines[:5] == [
        "| organ | DSC % | HD95 mm | mean surface distance mm | surface dice | volume difference % | tolerance mm | n |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| Lens_L | 83.33 +- 23.57 (83.33) | 0.70 +- 0.99 (0.70) | 0.12 +- 0.18 (0.12) | 1.000 +- 0.000 (1.000) "
        "| -25.0 +- 35.4 (-25.0) | 2 | 2 |",
        "| OpticChiasm | 50.00 +- 70.71 (50.00) | 8.88 +- 12.56 (8.88) | 8.88 +- 12.56 (8.88) | 0.500 +- 0.707 (0.500) "
        "| -50.0 +- 70.7 (-50.0) | 2 | 2 |",
        "| all organs | 66.67 +- 23.57 (66.67) | 4.79 +- 5.79 (4.79) | 4.50 +- 6.19 (4.50) | 0.750 +- 0.354 (0.750) "
        "| -37.5 +- 17.7 (-37.5) | - | 2 |",
    ]
    text = "\n".join(lines)
    assert "counted): case_1: OpticChiasm\n" in text
    assert "(in neither mask, not counted): none" in text
    assert "(ignored): case_7" in text
    assert (out / "evaluation.md").read_text().splitlines() == lines


def test_table_of_one_case_shows_no_sd_and_each_tolerance(folders):
    predictions, references, _ = folders
    write(references, "case_1", label_map((LENS, 1)))
    write(predictions, "case_1", label_map((np.s_[2, 2:4, 2:4], 1)))
    table = score(folders, tolerance_mm={"Lens_L": 1.5, "OpticChiasm": 1.0}).table_markdown
    assert "| Lens_L | 66.67 +- - (66.67) | 1.40 +- - (1.40) |" in table
    assert "| 1.000 +- - (1.000) | -50.0 +- - (-50.0) | 1.5 | 1 |" in table
    assert "| OpticChiasm | - | - | - | - | - | 1 | 0 |" in table


def test_tolerance_is_looked_up_per_organ(folders):
    predictions, references, _ = folders
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", HALF_LENS)
    near = score(folders, tolerance_mm={"Lens_L": 0.1, "OpticChiasm": 2.0}).scores("case_1", "surface_dice")
    far = score(folders, tolerance_mm={"Lens_L": 2.0, "OpticChiasm": 0.1}).scores("case_1", "surface_dice")
    assert near["Lens_L"] < far["Lens_L"] == 1.0


def test_organs_not_named_get_the_tolerance_of_the_table(folders):
    predictions, references, _ = folders
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", HALF_LENS)
    assert score(folders, tolerance_mm={"Lens_L": 0.3}).tolerance_mm == {"Lens_L": 0.3, "OpticChiasm": 2.5}
    labels = {"Eye_R": 1, "Pituitary": 2}
    assert score(folders, labels=labels, tolerance_mm=None).tolerance_mm == {"Eye_R": 1.65, "Pituitary": 1.0}


@pytest.mark.parametrize(("reader", "axes"), [("NibabelIOWithReorient", "RAS"), ("SimpleITKIO", "LPS")])
def test_pass_rate_of_the_predicted_box_counts_voxels_as_the_reader_orders_them(folders, reader, axes):
    """The box holds the chiasm (4 voxels) and 6 of the lens's 8, on the axes of the arrays that the network saw."""
    predictions, references, out = folders
    write(references, "case_1", image(REFERENCE))
    write(references, "case_2", image(REFERENCE))
    write(predictions, "case_1", sitk.DICOMOrient(image(REFERENCE), "ASL"))  # another writer's axes
    write(predictions, "case_2", image(REFERENCE))
    seen = sitk.GetArrayFromImage(sitk.DICOMOrient(image(REFERENCE), axes))
    lens, chiasm = np.argwhere(seen == 1), np.argwhere(seen == 2)
    lower = np.minimum(lens.min(axis=0), chiasm.min(axis=0))
    upper = np.maximum(lens.max(axis=0), chiasm.max(axis=0)) + 1
    if axes == "RAS":  # flips x: the lens's first column is its last there
        upper[2] = lens[:, 2].max()
    else:
        lower[2] = lens[:, 2].min() + 1
    box = [[int(a), int(b)] for a, b in zip(lower, upper, strict=True)]
    record = {"cases": {"case_1": {"box": box}, "case_2": {"failed": "no"}}}
    (predictions / "predictions.json").write_text(json.dumps(record))
    (predictions / "dataset.json").write_text(json.dumps({"labels": LABELS, "overwrite_image_reader_writer": reader}))
    summary = score(folders)
    assert summary.pass_rates == {"case_1": pytest.approx(10 / 12)}
    assert "below 100 %: case_1: 83.33 %" in (out / "evaluation.md").read_text()


def test_evaluation_is_read_back_as_it_was_written(folders):
    predictions, references, out = folders
    write(references, "case_1", REFERENCE)
    write(references, "case_2", REFERENCE)
    write(predictions, "case_1", label_map((LENS, 1)))
    summary = score(folders, localizer=predictions)
    found = read_evaluation(out)
    np.testing.assert_equal(list(map(asdict, found.rows)), list(map(asdict, summary.rows)))  # equal NaN
    assert found.table_markdown == summary.table_markdown
    assert "| Lens_L | 50.00 +- 70.71 | 50.00 +- 70.71 |" in found.table_markdown  # the localizer, the segmenter
    assert found.files == {
        "case_1": (predictions / "case_1.nii.gz", references / "case_1.nii.gz"),
        "case_2": (None, references / "case_2.nii.gz"),
    }
    assert found.failed == {"case_2": "no prediction"}
    content = json.loads((out / "evaluation.json").read_text())
    del content["per_case"]["case_1"]["Lens_L"]["volume_difference_percent"]
    (out / "evaluation.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"older version .*volume_difference_percent.*again"):
        read_evaluation(out)
    with pytest.raises(FileNotFoundError, match=r"references holds no evaluation\.json"):
        read_evaluation(references)


# A trained model ------------------------------------------------------------------------------------------------------

CASES = {"0": ("case_1", "case_2"), "1": ("case_3",)}


def validated_model(folder: Path, predictions: dict[str, np.ndarray], rates: dict[str, float]) -> Path:
    """What nnU-Net and our trainer leave of the folds in `CASES`; cases without a prediction are lost."""
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "channel_names": {"0": "CT", "1": "T1"}}))
    configurations = {"3d_fullres": {}, "3d_lowres": {}}
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    configurations["3d_cascade_32x96x96"] = {"inherits_from": "3d_cascade_fullres"}
    (folder / "plans.json").write_text(json.dumps({"configurations": configurations}))
    for fold, cases in CASES.items():
        validation = folder / f"fold_{fold}" / "validation"
        there = [case for case in cases if case in predictions]
        for case in there:
            write(validation, case, predictions[case])
        summary = {"metric_per_case": [{"prediction_file": f"/elsewhere/{case}.nii.gz"} for case in there]}
        (validation / "summary.json").write_text(json.dumps(summary))
        boxes = {case: {"label_crop_pass_rate": rates[case]} for case in cases if case in rates}
        (validation / "label_crop_pass_rate.json").write_text(json.dumps({"cases": boxes}))
    return folder


@pytest.fixture
def trained(tmp_path: Path, monkeypatch) -> tuple[Path, Path, Path]:
    """Results, raw and preprocessed folder of a dataset of four cases, three of them validated by two folds."""
    results, raw, preprocessed = (tmp_path / name / "Dataset501_Head" for name in ("results", "raw", "preprocessed"))
    for case in ("case_1", "case_2", "case_3", "case_4"):
        write(raw / "labelsTr", case, REFERENCE)
        write(preprocessed / "gt_segmentations", case, REFERENCE)
    splits = [{"train": [], "val": list(cases)} for cases in CASES.values()] + [{"train": [], "val": ["case_4"]}]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed.parent))
    return results, raw, preprocessed


def test_cross_validation_of_a_model_is_scored_with_its_localizer(trained, tmp_path, caplog):
    results, raw, _ = trained
    only_lens = label_map((LENS, 1))
    maps = {"case_1": REFERENCE, "case_2": HALF_LENS, "case_3": REFERENCE}
    rates = {"case_1": 1.0, "case_2": 0.875, "case_3": None}
    model = validated_model(results / "CascadeOARTrainer__Plans__3d_cascade_32x96x96", maps, rates)
    validated_model(results / "CascadeOARTrainer__Plans__3d_lowres", dict.fromkeys(maps, only_lens), {})
    (model / "fold_2").mkdir()  # not validated yet
    (model / "fold_all" / "validation").mkdir(parents=True)
    out = tmp_path / "out"
    summary = evaluate(model, None, out, n_processes=1, show_progress=False)
    assert summary.cases == ("case_1", "case_2", "case_3")
    assert summary.folds == ("0", "1")
    assert summary.channels == ("CT", "T1")
    assert summary.ignored == ()
    assert "not validated yet, left out: fold 2" in caplog.text
    assert summary.scores("case_2")["Lens_L"] == pytest.approx(200 / 3)
    assert summary.files["case_3"] == (model / "fold_1/validation/case_3.nii.gz", raw / "labelsTr/case_3.nii.gz")
    assert summary.pass_rates == {"case_1": 1.0, "case_2": 0.875}
    assert summary.localizer.per_organ["OpticChiasm"]["dsc_percent"].value == 0.0
    text = (out / "evaluation.md").read_text()
    assert "Cross-validation, folds 0, 1." in text
    assert "| Lens_L | 100.00 +- 0.00 | 88.89 +- 19.25 |" in text  # localizer, segmenter
    assert "Missed by the localizer: case_1: OpticChiasm; case_2: OpticChiasm; case_3: OpticChiasm" in text
    assert read_evaluation(out / "localizer").missed == summary.localizer.missed


def test_case_that_the_validation_lost_counts_as_failed(trained, tmp_path):
    results, _, _ = trained
    model = validated_model(results / "T__P__3d_fullres", {"case_1": REFERENCE, "case_3": REFERENCE}, {})
    summary = evaluate(model, None, tmp_path / "out", n_processes=1, show_progress=False)
    assert summary.failed == {"case_2": "no prediction"}
    assert summary.per_organ["Lens_L"]["dsc_percent"].value == pytest.approx(200 / 3)
    assert summary.localizer is None


def test_what_is_no_cross_validation_is_named(trained, tmp_path, monkeypatch):
    results, raw, preprocessed = trained
    model = validated_model(results / "T__P__3d_fullres", {c: REFERENCE for f in CASES.values() for c in f}, {})

    def score_model(references: Path | None = None):
        return evaluate(model, references, tmp_path / "out", n_processes=1, show_progress=False)

    shutil.rmtree(raw)
    assert score_model().files["case_1"][1].parent == preprocessed / "gt_segmentations"
    write(tmp_path / "others", "head_7", REFERENCE)
    with pytest.raises(FileNotFoundError, match=r"No reference for 3 of the 3 validated cases, e\.g\. 'case_1'"):
        score_model(tmp_path / "others")
    monkeypatch.delenv("nnUNet_raw")
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(FileNotFoundError, match="neither nnUNet_raw nor nnUNet_preprocessed is set"):
        score_model()
    references = preprocessed / "gt_segmentations"
    summary_file = model / "fold_1" / "validation" / "summary.json"
    summary_file.write_text(json.dumps({"metric_per_case": [{"prediction_file": "a/case_1.nii.gz"}]}))
    with pytest.raises(ValueError, match="'case_1' was validated by fold 0 and fold 1"):
        score_model(references)
    summary_file.write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json is damaged"):
        score_model(references)
    for fold in CASES:
        (model / f"fold_{fold}").rename(model / f"old_{fold}")
    (model / "fold_all" / "validation").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="Fold all validates on its training cases"):
        score_model(references)
    with pytest.raises(FileNotFoundError, match=r"is no trained model .* name the folder of the references"):
        evaluate(references, None, tmp_path / "out")


def test_csv_and_json_hold_the_same_numbers(folders):
    predictions, references, out = folders
    write(references, "case_1", label_map((LENS, 1)))
    write(references, "case_2", REFERENCE)
    write(predictions, "case_1", HALF_LENS * (HALF_LENS == 1))
    summary = score(folders)
    with (out / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["organ"], row["flag"]) for row in rows] == [
        ("case_1", "Lens_L", ""),
        ("case_1", "OpticChiasm", "left_out"),
        ("case_2", "Lens_L", "failed"),
        ("case_2", "OpticChiasm", "failed"),
    ]
    assert float(rows[0]["dsc_percent"]) == pytest.approx(200 / 3)
    assert rows[1]["dsc_percent"] == ""

    content = json.loads((out / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert content["per_case"]["case_1"]["Lens_L"]["dsc_percent"] == float(rows[0]["dsc_percent"])
    assert content["per_case"]["case_1"]["OpticChiasm"]["dsc_percent"] is None
    lens = summary.per_organ["Lens_L"]["dsc_percent"]
    written = {"mean": lens.value, "sd": lens.sd, "median": lens.median, "n": 2}
    assert content["per_organ"]["Lens_L"]["dsc_percent"] == written
    assert content["per_organ"]["OpticChiasm"]["dsc_percent"]["sd"] is None
    assert content["failed"] == {"case_2": "no prediction"}
    assert content["left_out"] == [{"case": "case_1", "organ": "OpticChiasm"}]
    assert content["tolerance_mm"] == {"Lens_L": 1.0, "OpticChiasm": 1.0}
    assert "95th percentiles" in content["definitions"]["hd95_mm"]
    assert content["versions"]["surface-distance"]


@pytest.mark.parametrize("where", ["predictions", "references", "."])
def test_labels_come_from_the_dataset_json_nearby(folders, where):
    predictions, references, _ = folders
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", REFERENCE)
    with pytest.raises(FileNotFoundError, match=r"No dataset\.json says which label is which organ"):
        score(folders, labels=None)
    (references.parent / where / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    assert score(folders, labels=None).scores("case_1") == {"Lens_L": 100.0, "OpticChiasm": 100.0}


def test_regions_and_the_ignore_label_follow_nnunet(folders):
    predictions, references, _ = folders
    write(references, "case_1", label_map((LENS, 1), (CHIASM, 2), (np.s_[4], 3)))
    write(predictions, "case_1", label_map((LENS, 2), (CHIASM, 1), (np.s_[4], 1)))
    summary = score(folders, labels={"background": 0, "both": [1, 2], "second": 2, "ignore": 3})
    assert summary.scores("case_1") == {"both": 100.0, "second": 0.0}


def test_bad_folders_and_settings_are_named(folders, tmp_path):
    _, references, out = folders
    with pytest.raises(FileNotFoundError, match="No label map"):
        score(folders)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        score((tmp_path / "nowhere", references, out))
    write(references, "case_1", REFERENCE)
    with pytest.raises(ValueError, match="tolerance_mm names Lens; the organs are Lens_L, OpticChiasm"):
        score(folders, tolerance_mm={"Lens": 1.0})
    with pytest.raises(ValueError, match="tolerance_mm of 'Lens_L' is -1"):
        score(folders, tolerance_mm=-1)
    with pytest.raises(ValueError, match="name no organ"):
        score(folders, labels={"background": 0})
    with pytest.raises(ValueError, match="organ 'Lens_L' has label -4"):
        score(folders, labels={"Lens_L": -4})
    with pytest.raises(ValueError, match="n_processes is 0"):
        score(folders, n_processes=0)
    write(references, "case_1", REFERENCE, ".nrrd")
    with pytest.raises(ValueError, match=r"case 'case_1' is there twice .*case_1.nii.gz and case_1.nrrd"):
        score(folders)
    assert not out.exists()


def test_label_maps_are_found_by_their_ending(tmp_path):
    for name in ("a.nii.gz", "b.b.nrrd", "c.nii", "d.mha", "._a.nii.gz", "dataset.json", "a.npz", "plans.json"):
        (tmp_path / name).touch()
    (tmp_path / "fold.nii").mkdir()
    assert list(find_label_maps(tmp_path)) == ["a", "b.b", "c", "d"]


@pytest.mark.parametrize(
    ("of_prediction", "of_reference"),
    [
        (".mhd", ".nii.gz"),
        (".NII.GZ", ".mha"),
        (".Nii.gz", ".nrrd"),
        (".nii", ".mhd"),
        (".NRRD", ".MHA"),
        (".MHD", ".nii"),
    ],
)
def test_a_case_is_scored_whatever_the_two_formats_are(folders, of_prediction, of_reference):
    for folder, ending in zip(folders, (of_prediction, of_reference), strict=False):
        write(folder, "case_1", REFERENCE, ending.lower())
        (folder / f"case_1{ending.lower()}").rename(folder / f"case_1{ending}")
    summary = score(folders)
    assert summary.scores("case_1") == {"Lens_L": 100.0, "OpticChiasm": 100.0}
    assert summary.not_compared == ()  # the data file of a .mhd is a part of it


@pytest.mark.parametrize("twin", ["case_1.nii", "case_1.NII.GZ", "case_1.mhd", "case_1.MHA", "case_1.nrrd"])
def test_two_files_of_one_case_are_refused_whatever_their_endings(folders, twin):
    write(folders[1], "case_1", REFERENCE)
    (folders[1] / twin).touch()
    with pytest.raises(ValueError, match=r"case 'case_1' is there twice"):
        score(folders)


def test_whatever_is_not_compared_is_named(folders, tmp_path):
    predictions, references, out = folders
    for folder in (predictions, references):
        write(folder, "case_1", REFERENCE)
    write(references, "case_2", REFERENCE)
    write(predictions, "case_3", REFERENCE)
    (predictions / "case_2.nii.gz").mkdir()
    (references / "case_4.hdr").touch()
    for ignored in ("dataset.json", "case_1.npz", "case_1.PKL", "._case_1.nii.gz"):
        (predictions / ignored).write_text("{}")
    summary = score(folders)
    assert summary.failed == {"case_2": "no prediction"}
    assert summary.ignored == ("case_3",)
    assert summary.not_compared == ("predictions/case_2.nii.gz (a folder)", "references/case_4.hdr")
    assert json.loads((out / "evaluation.json").read_text())["not_compared"] == list(summary.not_compared)
    assert "(not compared): predictions/case_2.nii.gz (a folder), references/case_4.hdr\n" in summary.table_markdown
    assert read_evaluation(out).not_compared == summary.not_compared


def test_predictions_of_other_cases_are_an_error(folders):
    predictions, references, out = folders
    write(references, "case_1", REFERENCE)
    with pytest.raises(
        FileNotFoundError, match=r"None of the 0 predictions .*no label map there, case_1\.nii\.gz here"
    ):
        score(folders)
    write(predictions, "Case_1", REFERENCE)
    write(predictions, "Case_2", REFERENCE)
    with pytest.raises(FileNotFoundError, match=r"None of the 2 predictions .*: Case_1\.nii\.gz, \.\.\. there, case_1"):
        score(folders)
    assert not out.exists()


def test_nearly_whole_numbers_are_labels_and_others_are_shown_as_they_are(folders):
    predictions, references, _ = folders
    for case, factor in (("case_1", 0.9999999), ("case_2", 0.998)):
        write(references, case, REFERENCE)
        write(predictions, case, (REFERENCE * np.float32(factor)).astype(np.float32))
    summary = score(folders)
    assert summary.scores("case_1") == {"Lens_L": 100.0, "OpticChiasm": 100.0}
    assert list(summary.failed) == ["case_2"]
    assert "holds label 0.998, 1.996, which is not in the mapping [1, 2]" in summary.failed["case_2"]


def test_a_label_of_ten_digits_is_named_at_once(folders):
    """A box for every value up to it would not fit into memory."""
    predictions, references, _ = folders
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", label_map((LENS, 1), (CHIASM, 4_000_000_000), dtype=np.int64), ".nrrd")
    assert "holds label 4000000000," in score(folders).failed["case_1"]


def test_channels_are_found_in_any_format(tmp_path):
    for name in ("case_1_0000.NII.GZ", "case_1_0001.mhd", "case_10_0000.nii", "case_1_0000.txt", "[1]_0000.nrrd"):
        (tmp_path / name).touch()
    found = channel_files(tmp_path, "case_1", {"1": "T1", "0": "CT"})
    assert {channel: path.name for channel, path in found.items()} == {
        "CT": "case_1_0000.NII.GZ",
        "T1": "case_1_0001.mhd",
    }
    assert channel_files(tmp_path, "[1]", {"0": "CT"})["CT"].name == "[1]_0000.nrrd"
    with pytest.raises(FileNotFoundError, match=r"no image case_1_0002\.nii\.gz \(channel T2\)"):
        channel_files(tmp_path, "case_1", {"2": "T2"})


def test_stopped_write_leaves_the_old_file(folders, monkeypatch):
    predictions, references, out = folders
    write(references, "case_1", REFERENCE)
    write(predictions, "case_1", REFERENCE)
    score(folders)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write(predictions, "case_1", HALF_LENS)
    monkeypatch.setattr("nnunet_ext.files.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        score(folders)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_import_stays_light():
    """`nnunet_ext evaluate --help` must not wait for torch."""
    code = (
        "import sys, nnunet_ext.evaluation.evaluating, nnunet_ext.evaluation.metrics\n"
        "print(sorted({'torch', 'nnunetv2'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
