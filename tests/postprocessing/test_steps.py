"""A label map whose organs went through their steps."""

from __future__ import annotations

import numpy as np

from nnunet_ext.postprocessing.steps import HOLES, LARGEST, SMALL_PIECES, Change, Step, ends_of, postprocessed

LABELS = {"background": 0, "Eye_L": 1, "Lens_L": 2, "OpticNrv_L": 3, "OpticChiasm": 4, "Eye_R": 5}
SPACING_MM = (2.0, 1.0, 0.5)  # a voxel is 1 mm^3


def test_a_nerve_runs_to_the_eye_of_its_side_and_to_the_chiasm():
    assert ends_of("OpticNrv_L", LABELS) == ["Eye_L", "OpticChiasm"]
    assert ends_of("Eye_L", LABELS) == []
    assert ends_of("right optic nerve", {"Globe_R": 1, "Globe_L": 2, "Chiasma": 3}) == ["Globe_R", "Chiasma"]
    assert ends_of("OpticNrv", LABELS) == []  # of which side?


def test_a_hole_is_filled_around_the_organ_in_it_and_no_organ_loses_a_voxel_to_another():
    label_map = np.zeros((7, 9, 11), np.uint8)
    label_map[1:6, 2:7, 2:8] = 1
    label_map[3, 4, 4:6] = (2, 0)  # a lens in the eye, and a hole beside it
    result, changes = postprocessed(label_map, {"Eye_L": [Step(HOLES)]}, LABELS, spacing_mm=SPACING_MM)
    assert result[3, 4, 4:6].tolist() == [2, 1]
    assert changes == {"Eye_L": Change(gained=1, lost=0, emptied=False)}
    assert label_map[3, 4, 5] == 0  # the caller's is left as it is


def test_an_organ_that_steps_empty_is_told_and_those_without_steps_stay():
    label_map = np.zeros((7, 9, 11), np.uint8)
    label_map[1, 1, 1:4], label_map[4, 4, 4:6], label_map[5, 7, 9] = 4, 3, 3
    steps = {"OpticChiasm": [Step(SMALL_PIECES, 0.004)], "Eye_R": [Step(LARGEST)]}
    result, changes = postprocessed(label_map, steps, LABELS, spacing_mm=SPACING_MM)
    assert changes == {"OpticChiasm": Change(gained=0, lost=3, emptied=True)}
    np.testing.assert_array_equal(result, np.where(label_map == 4, 0, label_map))


def test_a_region_of_the_labels_is_no_organ_that_a_step_changes():
    labels = {"background": 0, "Eye": (1, 2), "Eye_L": 1, "Lens_L": 2}
    label_map = np.zeros((7, 9, 11), np.uint8)
    label_map[1, 1, 1:4], label_map[5, 7, 9], label_map[3, 3, 3] = 1, 1, 2
    result, changes = postprocessed(label_map, {"Eye_L": [Step(LARGEST)]}, labels, spacing_mm=SPACING_MM)
    assert changes == {"Eye_L": Change(gained=0, lost=1, emptied=False)}
    assert result[5, 7, 9] == 0
