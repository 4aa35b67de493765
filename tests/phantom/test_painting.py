"""A small anatomy painted onto a grid of unequal axes."""

import numpy as np
import pytest

from nnunet_ext.phantom.anatomy import Anatomy
from nnunet_ext.phantom.grids import Grid
from nnunet_ext.phantom.painting import Painter, paint
from nnunet_ext.phantom.shapes import sphere
from nnunet_ext.phantom.tissues import CT, T2, TISSUES, Layer

GRID = Grid((40, 36, 14), (1.5, 1.5, 4.0), (-30.0, -27.0, -26.0))


@pytest.fixture(scope="module")
def painter():
    """A ball of fat with an eye in it, and beside it a ball of the mask's plastic."""
    skin, eye = sphere((0, 0, 0), 20), sphere((4, -3, 2), 8)
    anatomy = Anatomy(
        skin=skin,
        accessories=(Layer("mask", (sphere((0, -24, 0), 3),)),),
        coarse=(Layer("fat", (skin,)),),
        fine=(Layer("vitreous", (eye,), organ=1),),
        centrelines_mm={},
        nerve_lengths_mm=(0.0, 0.0),
        metal_mm=np.empty((0, 3)),
    )
    return Painter(anatomy, GRID, lambda p: p, channels=(CT, T2), accessories=True)


def test_painting_keeps_volumes_and_values(painter):
    air = np.array([TISSUES["air"][CT], TISSUES["air"][T2]], np.float32)[:, None, None]
    image, organs = painter.paint(air, with_organs=True)
    assert image.shape == (2, 14, 36, 40)
    voxel_mm3 = 1.5 * 1.5 * 4.0
    assert organs.coverage.shape[0] == 7
    assert organs.coverage[0].sum() * voxel_mm3 == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.02)
    assert not organs.coverage[1:].any()
    # T2 has no mask in it that could be told from air, so the rest of its brightness is fat and the eye.
    fat, vitreous, outside = (TISSUES[tissue][T2] for tissue in ("fat", "vitreous", "air"))
    ball_mm3, eye_mm3 = (4 / 3 * np.pi * mm**3 for mm in (20, 8))
    expected = (fat - outside) * (ball_mm3 - eye_mm3) + (vitreous - outside) * eye_mm3
    assert (image[1] - outside).sum() * voxel_mm3 == pytest.approx(expected, rel=0.02)
    at = [
        int((mm - origin) / step) for mm, origin, step in zip((4, -3, 2), GRID.origin_mm, GRID.spacing_mm, strict=True)
    ][::-1]
    assert image[0][tuple(at)] == pytest.approx(TISSUES["vitreous"][CT], abs=0.5)
    assert image[0, :, 2, 20].max() > -500  # the mask, in front of the ball


def test_organs_are_painted_only_if_asked_for(painter):
    image, organs = painter.paint(np.zeros((2, 1, 1)))
    assert organs is None
    assert image[0].max() == pytest.approx(TISSUES["vitreous"][CT], abs=1)


def test_the_edge_of_a_tissue_is_a_ramp_of_one_pixel():
    canvas = np.zeros((1, 5), np.float32)
    paint(canvas, np.array([-2.0, -0.5, 0.0, 0.25, 2.0]), np.array([100.0]), 1.0)
    np.testing.assert_allclose(canvas, [[100, 100, 50, 25, 0]])
