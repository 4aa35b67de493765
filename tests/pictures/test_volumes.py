"""Images and label maps of a case on one grid, and their grey windows."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from lenses_and_chiasm import SHAPE, SPACING_MM, TURN, label_map, lps_image, write

from nnunet_ext.images.geometry import to_canonical
from nnunet_ext.images.reading import read_image
from nnunet_ext.pictures.views import View
from nnunet_ext.pictures.volumes import box_around, display_window, on_grid, position_of, read_case


def test_display_window_of_mr_ignores_outliers_and_of_ct_is_fixed():
    volume = np.linspace(100, 200, 10_000).reshape(10, 100, 10)
    volume[0, 0, 0] = 1e6
    everything = (slice(None),) * 3
    assert display_window("CT", volume, everything) == (-135.0, 215.0)
    low, high = display_window("T1", volume, everything)
    assert low == pytest.approx(101, abs=0.1)
    assert high == pytest.approx(199.5, abs=0.1)
    assert display_window("T2", np.full((2, 2, 2), 7.0), everything) == (7.0, 8.0)


def test_mask_on_another_grid_is_drawn_where_it_lies(tmp_path):
    fine = sitk.Resample(
        lps_image(label_map()), (90, 70, 30), sitk.Transform(), sitk.sitkNearestNeighbor, (-20.0, 12.0, 5.0),
        (0.5, 0.5, 1.5), TURN.GetMatrix(),
    )  # fmt: skip
    image = to_canonical(read_image(write(tmp_path, "fine", fine)))
    placed = on_grid(image, lps_image(label_map()), interpolation="nearest")
    drawn = sitk.GetArrayFromImage(placed)
    for value in (1, 2):
        truth = np.argwhere(label_map() == value).mean(axis=0)
        assert np.abs(np.argwhere(drawn == value).mean(axis=0) - truth).max() < 0.6


def test_a_case_is_read_onto_the_grid_of_its_first_image(tmp_path):
    image = lps_image(np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE))
    files = {"CT": write(tmp_path, "ct", sitk.DICOMOrient(image, "RAS")), "T1": write(tmp_path, "t1", image[5:, :, :])}
    labels = write(tmp_path, "labels", sitk.DICOMOrient(lps_image(label_map()), "SAR"))
    grid, volumes, (reference, prediction) = read_case(files, (labels, None))
    np.testing.assert_array_equal(volumes["CT"], sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(volumes["T1"][..., 5:], sitk.GetArrayFromImage(image)[..., 5:], atol=0.01)
    np.testing.assert_array_equal(reference, label_map())
    assert prediction is None
    assert grid.GetSize() == SHAPE[::-1]


def test_box_is_around_both_label_maps_and_ends_at_the_image():
    reference, prediction = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    reference[5, 20, 30], prediction[6, 22, 57] = 1, 2
    # 6 mm are 2, 8 and 9 voxels of 3, 0.8 and 0.7 mm.
    assert box_around(reference, prediction, SPACING_MM) == (slice(3, 9), slice(12, 31), slice(21, 67))
    assert box_around(None, prediction, SPACING_MM) == (slice(4, 9), slice(14, 31), slice(48, 67))
    assert box_around(np.zeros(SHAPE), None, SPACING_MM) == (slice(None),) * 3


def test_position_is_the_world_coordinate_of_the_slice_at_its_middle():
    grid = lps_image(np.zeros(SHAPE, np.uint8))
    x, _, _ = grid.TransformContinuousIndexToPhysicalPoint((7, 19.5, 5.5))
    assert position_of(grid, View("sagittal", 7, "Lens")) == f"x = {x:.1f} mm\nslice 8 of 60"
