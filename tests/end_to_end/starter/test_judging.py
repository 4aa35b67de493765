"""What a starter is judged by: sides of turned heads, and mirrored ones."""

from __future__ import annotations

import json

import numpy as np
import SimpleITK as sitk

from nnunet_ext.end_to_end.starter.judging import LABELS, means, mirror, wrong_side
from nnunet_ext.phantom.pose import rotation_matrix

SPACING_MM = (2.0, 1.5, 3.0)


def label_map(*, turned_deg: float = 0.0, swap: int = 0) -> sitk.Image:
    """Balls for the eyes at +-30 mm, on a turned head. So many voxels of the left eye are labelled as the right one."""
    size = (60, 60, 20)
    image = sitk.Image(size, sitk.sitkUInt8)
    image.SetSpacing(SPACING_MM)
    image.SetOrigin((-59.0, -44.0, -28.0))
    x, y, z = (np.arange(n) * s + o for n, s, o in zip(size, SPACING_MM, image.GetOrigin(), strict=True))
    points = np.stack(np.meshgrid(z, y, x, indexing="ij"), axis=-1)[..., ::-1]
    turn = rotation_matrix((0.0, 0.0, turned_deg))
    labels = np.zeros(points.shape[:3], np.uint8)
    for name, centre in (("Eye_L", (30.0, 0.0, 0.0)), ("Eye_R", (-30.0, 0.0, 0.0))):
        labels[np.linalg.norm(points - turn @ np.array(centre), axis=-1) < 12] = LABELS[name]
    left = np.flatnonzero(labels == LABELS["Eye_L"])
    labels.ravel()[left[:swap]] = LABELS["Eye_R"]
    made = sitk.GetImageFromArray(labels)
    made.CopyInformation(image)
    return made


def test_voxels_on_the_other_side_of_the_midline_are_counted_also_of_a_turned_head():
    for turned_deg in (0.0, 25.0, -25.0):
        truth = label_map(turned_deg=turned_deg)
        assert wrong_side(truth, truth) == 0
        assert wrong_side(label_map(turned_deg=turned_deg, swap=7), truth) == 7


def test_voxels_are_not_counted_where_the_reference_itself_lies_across():
    truth = label_map(swap=7)  # a right eye that reaches as far as a left one
    assert wrong_side(truth, truth) == 0


def test_a_mirrored_case_has_its_left_on_the_right_and_the_labels_exchanged(tmp_path):
    case = tmp_path / "phantom_000"
    case.mkdir()
    (case / "phantom.json").write_text(json.dumps({"person": "a"}))
    label = label_map(swap=7)
    ct = sitk.Cast(label, sitk.sitkInt16) * 100
    for name, image in {"label": label, "CT": ct, "T1": ct, "T2": ct}.items():
        sitk.WriteImage(image, str(case / f"{name}.nii.gz"))
    folder = mirror(case, tmp_path / "mirrored")
    found = sitk.ReadImage(str(folder / "label.nii.gz"))
    before, after = sitk.GetArrayFromImage(label), sitk.GetArrayFromImage(found)
    np.testing.assert_array_equal(after == LABELS["Eye_R"], (before == LABELS["Eye_L"])[..., ::-1])
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "CT.nii.gz"))), sitk.GetArrayFromImage(ct)[..., ::-1]
    )
    assert found.GetOrigin() == label.GetOrigin()
    assert json.loads((folder / "phantom.json").read_text()) == {"person": "a"}


def test_means_leave_out_organs_that_a_person_lacks():
    rows = [{"organs": {"Eye_L": {"dsc_percent": 90.0}}}, {"organs": {"Eye_L": {"dsc_percent": None}}}]
    assert means(rows, ["Eye_L"]) == {"Eye_L": 90.0}
