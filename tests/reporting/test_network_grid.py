"""Images on the grid of a trained network, as its plan says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.reporting.network_grid import NetworkGrid, network_grid, on_network_grid

SPACING_MM = (3.0, 0.8, 0.7)  # along (Z, Y, X)


def image(values: np.ndarray) -> sitk.Image:
    out = sitk.GetImageFromArray(values)
    out.SetSpacing(SPACING_MM[::-1])
    out.SetOrigin((-20.0, 12.0, 5.0))
    out.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.20, -0.15, 0.10).GetMatrix())
    return out


def edge(of: sitk.Image, *, upper: bool) -> tuple[float, ...]:
    """World point of the first or last voxel's outer corner."""
    return of.TransformContinuousIndexToPhysicalPoint([n - 0.5 if upper else -0.5 for n in of.GetSize()])


def test_outer_edges_stay_in_place_and_voxels_are_those_of_the_plan():
    before = image(np.random.default_rng(0).normal(size=(6, 20, 30)).astype(np.float32))
    after = on_network_grid(before, NetworkGrid((1.5, 0.8, 1.0)))
    assert after.GetSize() == (21, 20, 12)
    assert after.GetSpacing() == pytest.approx((1.0, 0.8, 1.5))
    for upper in (False, True):
        assert edge(after, upper=upper) == pytest.approx(edge(before, upper=upper))


def test_a_structure_stays_where_it_is():
    values = np.zeros((6, 20, 30), np.float32)
    values[3, 8:12, 14:20] = 1.0
    before = image(values)
    after = on_network_grid(before, NetworkGrid((1.5, 0.5, 0.5)))
    middles = []
    for one in (before, after):
        array = sitk.GetArrayFromImage(one)
        index = (np.indices(array.shape) * array).sum(axis=(1, 2, 3)) / array.sum()
        middles.append(one.TransformContinuousIndexToPhysicalPoint([float(i) for i in index[::-1]]))
    assert middles[1] == pytest.approx(middles[0], abs=0.1)  # splines that overshoot are cut off


def test_values_are_clipped_to_the_channels_range_before():
    before = image(np.linspace(-1000, 1000, 6 * 20 * 30).reshape(6, 20, 30).astype(np.float32))
    grid = NetworkGrid((1.5, 0.8, 1.0), ranges=((-50.0, 100.0), None))
    clipped, whole = (sitk.GetArrayFromImage(on_network_grid(before, grid, channel=n)) for n in (0, 1))
    assert (clipped.min(), clipped.max()) == (-50.0, 100.0)
    assert whole.min() < -990
    assert grid.range_of(2) is None


def test_the_grid_is_that_of_the_configuration_turned_back_from_the_plans_axes(tmp_path: Path):
    model = tmp_path / "T__P__3d_crop"
    model.mkdir()
    parent = {
        "architecture": {},
        "spacing": [0.8, 1.25, 0.7],  # along (Y, Z, X)
        "resampling_fn_data_kwargs": {"force_separate_z": None},
        "normalization_schemes": ["CTNormalization", "ZScoreNormalization"],
    }
    ranges = {"percentile_00_5": -50, "percentile_99_5": 100}
    plans = {
        "transpose_forward": [1, 0, 2],
        "foreground_intensity_properties_per_channel": {"0": ranges, "1": ranges},
        "configurations": {"3d_fullres": parent, "3d_crop": {"inherits_from": "3d_fullres"}},
    }
    (model / "plans.json").write_text(json.dumps(plans))
    assert network_grid(model) == NetworkGrid((1.25, 0.8, 0.7), None, ((-50.0, 100.0), None))
    other = model.rename(tmp_path / "T__P__3d_other")
    with pytest.raises(ValueError, match="says not how the configuration 3d_other resamples"):
        network_grid(other)


def test_a_plan_of_slices_is_refused_in_words(tmp_path: Path):
    """nnU-Net's `2d` has two numbers where 3D has three."""
    model = tmp_path / "nnUNetTrainer__nnUNetPlans__2d"
    model.mkdir()
    configuration = {"spacing": [0.8, 0.7], "normalization_schemes": ["CTNormalization"]}
    plans = {"transpose_forward": [0, 1, 2], "configurations": {"2d": configuration}}
    (model / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ValueError, match="says not how the configuration 2d resamples"):
        network_grid(model)
