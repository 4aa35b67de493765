"""The image that each contour belongs to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from drawn_contours import SQUARE, contours, grid, lens, polygon, series

from nnunet_ext.dicom.rasterising import rasterise
from nnunet_ext.dicom.structure_set import Contour
from nnunet_ext.messages import in_english


def shifted(drawn: list[Contour], image: sitk.Image, slices_off) -> list[Contour]:
    """Contours moved along the slices, by one share of a slice or by one for each."""
    normal = np.reshape(image.GetDirection(), (3, 3))[:, 2] * image.GetSpacing()[2]
    shares = np.broadcast_to(slices_off, len(drawn))
    return [Contour(c.points_mm + share * normal, c.kind, c.images) for c, share in zip(drawn, shares, strict=True)]


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("share", [-0.5, -0.4, -0.2, 0.2, 0.4, 0.5])
def test_contours_off_the_slices_move_to_the_nearest_all_to_the_same_side(flips, share: float):
    image, mask = grid(flips=flips), lens()
    notes: list[str] = []
    rng = np.random.default_rng(1)
    drawn = contours(mask, image)
    result = rasterise(shifted(drawn, image, share + rng.uniform(-0.01, 0.01, len(drawn))), image, notes)
    np.testing.assert_array_equal(result, np.roll(mask, -1 if share == -0.5 else 0, axis=0))  # half-way: to the lower
    (note,) = in_english(notes)
    assert note.startswith(f"contours lie up to {abs(share):.1g}")
    assert note.endswith("slices off the images: moved to the nearest")


def test_a_tenth_of_a_slice_is_rounding_and_not_said():
    image, notes = grid(), []
    drawn = shifted(contours(lens(), image), image, 0.08)
    np.testing.assert_array_equal(rasterise(drawn, image, notes), lens())
    assert notes == []


def test_of_contours_finer_than_the_slices_each_slice_takes_the_nearest():
    image = grid()
    notes: list[str] = []
    wide = [(1.5, 1.5), (9.5, 1.5), (9.5, 9.5), (1.5, 9.5)]
    drawn = [polygon(image, SQUARE if k == int(k) else wide, k) for k in (2, 2.25, 2.5, 2.75, 3, 3.25)]
    assert rasterise(drawn, image, notes).sum(axis=(1, 2)).tolist() == [0, 0, 36, 36, 0, 0, 0, 0, 0]
    assert str(notes[-1]) == "4 contours lie between the images, beside nearer ones: left out"


def test_a_contour_belongs_to_the_image_it_refers_to(tmp_path: Path):
    ct = series(tmp_path / "ct")
    image = grid()
    own = [((one.sop_uid, None),) for one in sorted(ct.slices, key=lambda one: one.path)]
    drawn = [Contour(polygon(image, SQUARE, k + 0.5).points_mm, images=own[k]) for k in (2, 3)]
    drawn += [Contour(polygon(image, SQUARE, 4.5).points_mm, images=own[5])]
    result = rasterise(drawn, image, slices=ct.slices)
    assert result.any(axis=(1, 2)).nonzero()[0].tolist() == [2, 3, 4, 5]  # 4 is interpolated
    off = [Contour(polygon(image, SQUARE, 2.4).points_mm, images=own[3])]
    with pytest.raises(ValueError, match=r"1 of 1 contours lie up to 0\.6 slices off the image they belong to"):
        rasterise(off, image, slices=ct.slices)
    elsewhere = [Contour(polygon(image, SQUARE, 2.4).points_mm, images=(("1.2.3", None), own[2][0]))]
    assert rasterise(elsewhere, image, slices=ct.slices)[2].sum() == 36


@pytest.mark.parametrize(("k", "accepted"), [(-0.5, True), (-0.6, False), (8.5, True), (8.6, False)])
def test_contours_beyond_the_first_and_last_slice_are_refused_from_half_a_slice_on(k: float, accepted: bool):
    image = grid()
    drawn = [polygon(image, SQUARE, j) for j in (k, 4)]
    if accepted:
        assert rasterise(drawn, image)[0 if k < 0 else -1].sum() == 36
    else:
        with pytest.raises(ValueError, match=r"1 of 2 contours lie up to 0\.6 slices off"):
            rasterise(drawn, image)
