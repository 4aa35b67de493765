"""Which slices are shown, and which way up."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from lenses_and_chiasm import LABELS, SHAPE, SPACING_MM, TURN, label_map, lps_image, write

from nnunet_ext.images.geometry import to_canonical
from nnunet_ext.images.reading import read_image
from nnunet_ext.pictures.views import View, choose_views, picture_spacing_mm, slice_picture


@pytest.mark.parametrize("code", ["LPS", "RAS", "SAR", "PIL"])
@pytest.mark.parametrize(
    ("plane", "index", "top", "left"),
    [
        ("axial", 6, (0, -1, 0), (-1, 0, 0)),  # LPS: anterior is -y, the patient's right is -x
        ("coronal", 20, (0, 0, 1), (-1, 0, 0)),  # superior is +z
        ("sagittal", 30, (0, 0, 1), (0, -1, 0)),
    ],
)
def test_world_directions_on_the_picture(tmp_path, code, plane, index, top, left):
    """Each voxel stores where it lies, so the picture tells which way the patient faces, whatever the file's axes."""
    blank = lps_image(np.zeros(SHAPE, np.float32))
    centre = np.array(blank.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in blank.GetSize()]))
    for name, direction in {"top": top, "left": left}.items():
        turned = TURN.TransformVector([float(d) for d in direction], (0.0, 0.0, 0.0))  # follow the oblique axes
        z, y, x = np.indices(SHAPE)
        axes = np.reshape(blank.GetDirection(), (3, 3)) * np.asarray(blank.GetSpacing())
        world = np.asarray(blank.GetOrigin())[:, None] + axes @ np.stack([x.ravel(), y.ravel(), z.ravel()])
        how_far = (np.asarray(turned) @ (world - centre[:, None])).reshape(SHAPE).astype(np.float32)
        path = write(tmp_path, name, sitk.DICOMOrient(lps_image(how_far), code))

        picture = slice_picture(sitk.GetArrayFromImage(to_canonical(read_image(path))), plane, index)
        step = -np.diff(picture, axis=0 if name == "top" else 1)
        assert (step > 0).all(), f"{name} of the {plane} picture is not {direction}"


def test_picture_spacing_follows_the_plane():
    volume = np.zeros(SHAPE)
    for plane, shape, spacing_mm in [
        ("axial", (40, 60), (0.8, 0.7)),
        ("coronal", (12, 60), (3.0, 0.7)),
        ("sagittal", (12, 40), (3.0, 0.8)),
    ]:
        assert slice_picture(volume, plane, 0).shape == shape
        assert picture_spacing_mm(SPACING_MM, plane) == spacing_mm


def test_views_go_through_lenses_and_chiasm():
    reference = label_map()
    reference[5, 9, 45] = reference[5, 9, 12] = 1  # a smaller area one slice up
    reference[8, 30, 26:30] = 0
    reference[9, 30, 26:34] = 3
    assert choose_views(reference, None, LABELS) == [
        View("axial", 4, "Lens", ("Lens_L", "Lens_R")),
        View("axial", 9, "OpticChiasm", ("OpticChiasm",)),
        View("coronal", 28, "OpticChiasm", ("OpticChiasm",)),
    ]


@pytest.mark.parametrize(
    ("left", "right", "pairs", "shown"),
    [
        ("left_lens", "right_lens", None, "lens"),
        ("LensL", "LensR", None, "Lens"),
        ("lens 1", "lens 2", [("lens 1", "lens 2")], "lens 1, lens 2"),
    ],
)
def test_left_and_right_share_a_slice_however_they_are_called(left, right, pairs, shown):
    labels = {left: 1, right: 2, "OpticChiasm": 3}
    assert choose_views(label_map(), None, labels, pairs=pairs)[0] == View("axial", 4, shown, (left, right))


def test_tilted_head_gets_a_view_of_each_lens():
    reference = label_map()
    reference[4][reference[4] == 2] = 0
    reference[2, 8:12, 10:16] = 2
    assert choose_views(reference, None, LABELS)[:2] == [
        View("axial", 4, "Lens_L", ("Lens_L",)),
        View("axial", 2, "Lens_R", ("Lens_R",)),
    ]


def test_views_fall_back_to_the_prediction_and_to_the_smallest_organs():
    reference = np.zeros(SHAPE, np.uint8)
    prediction = label_map()
    labels = {"liver": 1, "spleen": 3, "kidney": 2}
    prediction[1:4, 20:30, 20:30] = 1
    reference[6, 5, 5] = 3  # the reference wins where it has the organ
    found = choose_views(reference, prediction, labels)
    assert [(view.plane, view.index, view.shows) for view in found] == [
        ("axial", 6, "spleen"),
        ("axial", 4, "kidney"),
        ("coronal", 8, "kidney"),
    ]


def test_views_without_any_organ_are_the_middle():
    empty = np.zeros(SHAPE, np.uint8)
    assert choose_views(empty, None, LABELS) == [View("axial", 6, "no organ"), View("coronal", 20, "no organ")]
