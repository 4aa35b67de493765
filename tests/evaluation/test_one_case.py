"""One case: its two grids are compared, never assumed, and unknown labels fail it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, astuple

import numpy as np
import pytest
import SimpleITK as sitk
from scored_label_maps import CHIASM, LABELS, LENS, REFERENCE, SHAPE, image, label_map, score, write

from nnunet_ext.evaluation.one_case import on_grid_of


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
    # One crop per organ: that of the lens holds 6 of its voxels, and the chiasm in it does not count.
    organs = {value: organ for organ, value in LABELS.items()}
    record["cases"]["case_1"]["crops"] = {organs[1]: box, organs[2]: [[0, 1], [0, 1], [0, 1]]}
    (predictions / "predictions.json").write_text(json.dumps(record))
    assert score(folders).pass_rates == {"case_1": pytest.approx(6 / 12)}


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
