"""Channels before and after resampling show one place."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from lenses_and_chiasm import SHAPE, lps_image

from nnunet_ext.pictures.resampling import SHOWN_MM, Resampled, draw_resampling


def test_a_row_per_channel_shows_the_same_place_on_both_grids_with_their_voxel_sizes():
    values = np.zeros(SHAPE, np.float32)
    values[4, 8:12, 44:50] = 1.0
    before = lps_image(values)
    after = sitk.Resample(before, [120, 40, 24], sitk.Transform(), sitk.sitkLinear, before.GetOrigin(),
                          [0.35, 0.8, 1.5], before.GetDirection())  # fmt: skip
    point_mm = before.TransformIndexToPhysicalPoint((47, 10, 4))
    figure = draw_resampling(
        "case_1", {"T1": Resampled(before, after, (0, 1)), "T2": Resampled(before, after, (0, 1))}, point_mm
    )
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["before, 0.70 x 0.80 x 3.00 mm", "after, 0.35 x 0.80 x 1.50 mm"] * 4
    assert [text.get_text() for text in figure.texts][:2] == ["T1", "T2"]
    for axes in figure.axes:
        left, right = axes.get_xlim()
        bottom, top = axes.get_ylim()
        assert (right - left, bottom - top) == pytest.approx(SHOWN_MM)
        (picture,) = axes.images
        assert picture.get_interpolation() == "nearest"  # voxels are to be seen
        # The bright organ is in the middle of every picture.
        array, (x_low, x_high, y_high, y_low) = picture.get_array(), picture.get_extent()
        rows, columns = np.nonzero(array > 0.5)
        x_mm = x_low + (columns.mean() + 0.5) * (x_high - x_low) / array.shape[1]
        y_mm = y_low + (rows.mean() + 0.5) * (y_high - y_low) / array.shape[0]
        assert (x_mm, y_mm) == pytest.approx(((left + right) / 2, (bottom + top) / 2), abs=1.5)
