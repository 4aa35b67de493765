import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.images.displacements import looked_up, slabs_that_see
from nnunet_ext.images.geometry import resample_to

OBLIQUE = (0.96, -0.28, 0.0, 0.28, 0.96, 0.0, 0.0, 0.0, 1.0)


def grid(size=(9, 14, 6), spacing=(2.1, 1.3, 4.0), direction=OBLIQUE, origin=(-11.0, 7.0, 30.0)):
    image = sitk.Image(size, sitk.sitkUInt8)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    image.SetOrigin(origin)
    return image


def spline(domain, mesh=(2, 3, 1), seed=3):
    transform = sitk.BSplineTransformInitializer(domain, mesh, 3)
    values = np.random.default_rng(seed).normal(0, 2.0, transform.GetNumberOfParameters())
    transform.SetParameters(values.tolist())
    return transform


def rigid():
    transform = sitk.Euler3DTransform()
    transform.SetCenter((4.0, -3.0, 9.0))
    transform.SetRotation(0.1, -0.07, 0.2)
    transform.SetTranslation((3.0, -5.0, 2.0))
    return transform


def chain(*parts):
    return sitk.CompositeTransform(list(parts))


def voxels_moved(transform, image):
    index = np.ndindex(*image.GetSize())
    return np.array([transform.TransformPoint(image.TransformIndexToPhysicalPoint(i)) for i in index])


@pytest.mark.parametrize("parts", [(), (rigid(),), (rigid(), sitk.TranslationTransform(3, (1.0, 2.0, -3.0)))])
def test_a_spline_looked_up_moves_every_voxel_as_itk_does(parts):
    image = grid()
    # The domain ends inside the grid: beyond it a B-spline moves nothing.
    domain = sitk.RegionOfInterest(image, (6, 11, 5), (2, 1, 1))
    transform = chain(*parts, spline(domain))

    found = looked_up(transform, image)

    assert found.GetTransformEnum() == sitk.sitkDisplacementField
    np.testing.assert_allclose(voxels_moved(found, image), voxels_moved(transform, image), atol=1e-6)


@pytest.mark.parametrize("code", ["RAS", "PIR", "LPI"])
def test_the_grids_axes_may_run_along_the_splines_in_another_order(code):
    domain = grid()
    transform = chain(rigid(), spline(domain))
    image = sitk.DICOMOrient(domain, code)

    found = looked_up(transform, image)

    np.testing.assert_allclose(voxels_moved(found, image), voxels_moved(transform, image), atol=1e-6)


@pytest.mark.parametrize(
    "transform",
    [
        spline(grid(direction=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))),
        chain(spline(grid()), rigid()),
        chain(spline(grid(), seed=5), rigid(), spline(grid())),
        sitk.BSplineTransformInitializer(grid(), (2, 2, 2), 2),
    ],
    ids=["turned", "rigid first", "two splines", "quadratic"],
)
def test_other_transforms_are_looked_up_point_by_point(transform):
    image = grid()
    if isinstance(transform, sitk.BSplineTransform):
        transform.SetParameters(np.linspace(-2, 2, transform.GetNumberOfParameters()).tolist())

    found = looked_up(transform, image)

    np.testing.assert_allclose(voxels_moved(found, image), voxels_moved(transform, image), atol=1e-6)


def test_a_linear_transform_stays_what_it_is():
    transform = chain(rigid(), sitk.TranslationTransform(3, (1.0, 0.0, 0.0)))

    assert looked_up(transform, grid()) is transform


@pytest.mark.parametrize("slab_voxels", [1, 4_000_000])
@pytest.mark.parametrize("interpolation", ["nearest", "linear", "bspline"])
def test_an_image_resampled_by_parts_is_the_one_resampled_at_once(monkeypatch, interpolation, slab_voxels):
    monkeypatch.setattr("nnunet_ext.images.displacements.SLAB_VOXELS", slab_voxels)
    reference = grid(size=(70, 40, 31), spacing=(1.9, 2.3, 4.1), origin=(-60.0, -50.0, -70.0))
    rng = np.random.default_rng(1)
    moving = sitk.GetImageFromArray(rng.integers(1, 200, (9, 13, 17)).astype(np.int16))
    moving.SetSpacing((2.0, 1.5, 3.5))
    moving.SetOrigin((-20.0, -30.0, -10.0))
    moving.SetDirection((0.0, 0.6, 0.8, 1.0, 0.0, 0.0, 0.0, 0.8, -0.6))
    transform = chain(rigid(), spline(reference))
    kind = {"nearest": sitk.sitkNearestNeighbor, "linear": sitk.sitkLinear, "bspline": sitk.sitkBSpline}[interpolation]
    image = moving if interpolation == "nearest" else sitk.Cast(moving, sitk.sitkFloat32)
    at_once = sitk.GetArrayFromImage(sitk.Resample(image, reference, transform, kind, -5.0))
    assert np.count_nonzero(at_once != -5.0) > 500
    if interpolation == "bspline":
        at_once = np.clip(at_once, -5.0, sitk.GetArrayViewFromImage(moving).max())

    by_parts = resample_to(moving, reference, interpolation=interpolation, outside_value=-5.0, transform=transform)

    np.testing.assert_allclose(sitk.GetArrayFromImage(by_parts), at_once, atol=1e-3)
    assert by_parts.GetOrigin() == reference.GetOrigin()
    assert by_parts.GetDirection() == reference.GetDirection()


def test_only_the_parts_that_can_see_an_image_are_looked_at():
    reference = grid(size=(200, 180, 60), spacing=(1.0, 1.0, 3.0))
    inner = reference.TransformIndexToPhysicalPoint((120, 90, 30))
    image = grid(size=(9, 14, 6), origin=inner)

    parts = list(slabs_that_see(image, reference, chain(rigid(), spline(reference))))

    assert 0 < sum(part.GetNumberOfPixels() for part, _ in parts) < 0.2 * reference.GetNumberOfPixels()


def test_an_image_elsewhere_leaves_only_the_outside_value():
    reference = grid(size=(20, 18, 6))
    image = sitk.Cast(grid(origin=(900.0, 0.0, 0.0)), sitk.sitkInt16) + 7

    result = resample_to(image, reference, outside_value=-3.0, transform=chain(rigid(), spline(reference)))

    assert (sitk.GetArrayViewFromImage(result) == -3.0).all()
