"""Thick slices made of thin ones, and the table of what is lost on the way back."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.end_to_end.resampling_benchmark import table, thinned, thinned_labels


def image(slices: list[int]) -> sitk.Image:
    """Slices of one value each, of 1.25 mm and 3 x 2 pixels."""
    made = sitk.GetImageFromArray(np.tile(np.array(slices, np.int16)[:, None, None], (1, 3, 2)))
    made.SetSpacing((0.8, 0.7, 1.25))
    made.SetOrigin((10.0, 20.0, 30.0))
    return made


def values(of: sitk.Image) -> list[int]:
    return sitk.GetArrayFromImage(of)[:, 0, 0].tolist()


def test_a_thick_slice_is_the_mean_of_thin_ones_and_lies_in_their_middle():
    thick = thinned(image([10, 20, 30, 40]), 2)
    assert values(thick) == [15, 35]
    assert thick.GetSpacing() == (0.8, 0.7, 2.5)
    assert thick.GetOrigin() == pytest.approx((10.0, 20.0, 30.625))
    assert thick.GetPixelID() == sitk.sitkInt16


def test_a_thick_slice_has_the_label_of_most_thin_ones():
    thick = thinned_labels(image([0, 5, 5, 5, 0, 0, 0, 3]), 4)
    assert values(thick) == [5, 0]
    assert thick.GetSpacing() == (0.8, 0.7, 5.0)


def test_the_table_has_the_mean_over_cases():
    rows = [
        {"case": case, "slice_mm": 2.5, "channel": channel, "how": how, "body": body, "near": 2 * body}
        for case in (0, 2)
        for channel in ("CT", "T1", "T2")
        for how, body in (("spline", 10.0 + case), ("nearest slice", 20.0 + case))
    ]
    assert table(rows).splitlines()[2] == "| 2.5 mm | CT, HU | 21.0 | 11.0 | 42.0 | 22.0 |"
