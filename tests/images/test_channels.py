"""Channels of a case by name."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.images.channels import ct_channels, image_like, is_ct, reference_channel, voxel_ml


def test_the_ct_is_the_reference_wherever_it_stands_else_the_first_channel():
    assert reference_channel(["T1", "ct", "T2"]) == "ct"
    assert reference_channel(["T2", "T1"]) == "T2"
    assert is_ct("Ct")
    assert not is_ct("CTA")


def test_channels_named_ct_are_those_that_nnunet_treats_so():
    assert ct_channels({"0": "T1", "1": "CT", "2": "cta", "3": "ct"}) == [1, 3]


def test_arrays_get_the_grid_of_an_image():
    image = sitk.Image([4, 3, 2], sitk.sitkInt16)
    image.SetSpacing((0.5, 2.0, 3.0))
    image.SetOrigin((1.0, -2.0, 30.0))
    assert voxel_ml(image) == pytest.approx(0.003)
    result = image_like(np.full((2, 3, 4), 7.5, np.float32), image)
    assert result.GetPixelID() == sitk.sitkFloat32
    assert (result.GetSpacing(), result.GetOrigin()) == (image.GetSpacing(), image.GetOrigin())
