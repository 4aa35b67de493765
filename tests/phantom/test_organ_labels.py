"""Labels from shares of voxels."""

from __future__ import annotations

import numpy as np

from nnunet_ext.phantom.grids import Grid
from nnunet_ext.phantom.organ_labels import Organs, label_map


def test_label_map_keeps_the_volume_of_a_nerve_between_two_slices():
    # Rows of 0.4 and 0.45: the majority rule would label nothing.
    coverage = np.zeros((7, 2, 1, 10), np.float32)
    coverage[4, 0], coverage[4, 1] = 0.4, 0.45
    grid = Grid((10, 1, 2), (1.0, 1.0, 5.0), (0.0, 0.0, 0.0))
    label = label_map(Organs(coverage, (0, 0, 0)), grid, {})
    assert (label == 5).sum() == 8  # round(10 * 0.85)
    assert not label[0].any()
    # A centreline on the other slice comes first.
    line = np.stack([np.arange(10.0), np.zeros(10), np.zeros(10)], axis=1)
    assert (label_map(Organs(coverage, (0, 0, 0)), grid, {5: line})[0] == 5).sum() == 8


def test_label_map_exchanges_stray_voxels_for_touching_ones():
    coverage = np.zeros((7, 1, 1, 9), np.float32)
    coverage[6, 0, 0] = [0.9, 0.9, 0.3, 0.2, 0, 0, 0, 0.7, 0]
    grid = Grid((9, 1, 1), (1.0, 1.0, 5.0), (0.0, 0.0, 0.0))
    label = label_map(Organs(coverage, (0, 0, 0)), grid, {})
    np.testing.assert_array_equal(label[0, 0], [7, 7, 7, 0, 0, 0, 0, 0, 0])  # 3 voxels; the one apart is given up
