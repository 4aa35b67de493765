"""Where a transform puts organs, on an oblique grid."""

import numpy as np
import SimpleITK as sitk

from nnunet_ext.atlas.placing import part_of, place, shares_on
from nnunet_ext.images.displacements import looked_up

ORGANS = {"Eye_L": 1, "Eye_R": 2}
SPACING_MM = (3.0, 2.0, 4.0)


def labels() -> sitk.Image:
    """Two blocks on an oblique grid of 30 x 40 x 20 voxels."""
    array = np.zeros((20, 40, 30), np.uint8)
    array[8:11, 10:15, 20:24] = 1
    array[8:11, 10:15, 6:10] = 2
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM)
    image.SetOrigin((-40.0, 12.0, 5.0))
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.1, -0.08, 0.12).GetMatrix())
    return image


def along_x(mm: float) -> sitk.AffineTransform:
    """Moves organs by so much along the grid's first axis. It maps the other way, from case to atlas."""
    direction = np.reshape(labels().GetDirection(), (3, 3))[:, 0]
    transform = sitk.AffineTransform(3)
    transform.SetTranslation((-mm * direction).tolist())
    return transform


def test_organs_that_stay_are_boxed_where_they_lie():
    placed = place(labels(), ORGANS, labels(), along_x(9.0))
    assert placed.outside == ()
    low, high = np.array([9, 10, 8]), np.array([27, 15, 11])  # three voxels further
    assert (np.abs(placed.first - low) <= 1).all()
    assert (np.abs(placed.stop - high) <= 1).all()


def test_an_organ_that_leaves_the_field_of_view_is_named():
    assert place(labels(), ORGANS, labels(), along_x(27.0)).outside == ("Eye_L",)  # half of it
    assert place(labels(), ORGANS, labels(), along_x(300.0)).outside == ("Eye_L", "Eye_R")  # and further than one looks


def test_shares_on_a_part_are_those_of_the_whole():
    image = labels()
    placed = place(image, ORGANS, image, along_x(4.0))
    part, first = part_of(image, [placed])
    shares = shares_on(image, ORGANS, part, along_x(4.0))
    whole = sitk.Resample(sitk.Cast(image == 1, sitk.sitkFloat32), image, looked_up(along_x(4.0), image))
    where = tuple(slice(a, a + n) for a, n in zip(first[::-1], part.GetSize()[::-1], strict=True))
    np.testing.assert_allclose(shares["Eye_L"], sitk.GetArrayFromImage(whole)[where], atol=1e-5)
    assert shares["Eye_L"].sum() * np.prod(SPACING_MM) == sitk.GetArrayFromImage(whole).sum() * np.prod(SPACING_MM)


def test_boxes_beyond_the_image_have_no_part():
    assert part_of(labels(), [place(labels(), ORGANS, labels(), along_x(-300.0))]) is None
