"""Values that are labels, and values that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from image_bytes import NAN

from nnunet_ext.images.label_maps import read_label_map, shown_values, whole_labels


def test_labels_within_a_thousandth_of_a_whole_number_are_that_number(tmp_path: Path):
    values = np.float32([[0, 0.9999999, 1.0000001], [1.9995, 6.0000005, -1e-7]])
    labels, odd = whole_labels(values)
    assert labels.tolist() == [[0, 1, 1], [2, 6, 0]]
    assert labels.dtype == np.int32
    assert odd == []
    image = sitk.GetImageFromArray(np.stack([values, values]))
    sitk.WriteImage(image, str(tmp_path / "x.nii.gz"))
    assert sitk.GetArrayFromImage(read_label_map(tmp_path / "x.nii.gz")).tolist() == [[[0, 1, 1], [2, 6, 0]]] * 2


def test_other_values_are_shown_with_the_digits_that_matter(tmp_path: Path):
    labels, odd = whole_labels(np.float32([0.998, 0.5, 1, NAN, 1e20]))
    assert labels.tolist() == [0, 0, 1, 0, 0]
    assert shown_values(odd) == "0.5, 0.998, 1e+20, nan"
    assert shown_values([1, 2.0, 0.9999, 1_000_000, 5, 6, 7]) == "1, 2, 0.9999, 1000000, 5 and 2 more"
    sitk.WriteImage(sitk.GetImageFromArray(np.full((2, 3, 4), 0.998, np.float32)), str(tmp_path / "x.nrrd"))
    with pytest.raises(ValueError, match=r"x\.nrrd holds 0\.998, which is no whole number; a label map is needed"):
        read_label_map(tmp_path / "x.nrrd")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64, np.float64])
def test_label_maps_of_any_type_are_read(tmp_path: Path, dtype):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "x.nrrd"))
    found = sitk.GetArrayFromImage(read_label_map(tmp_path / "x.nrrd"))
    assert found.dtype.kind in "iu"
    np.testing.assert_array_equal(found, values)
