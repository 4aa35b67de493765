import numpy as np
import pytest
import SimpleITK as sitk
from blobs import blobs

from nnunet_ext.images.geometry import resample_to
from nnunet_ext.images.splines import along
from nnunet_ext.superresolution.network import SliceNetwork
from nnunet_ext.superresolution.slice_profiles import PROFILES, interpolating_matrix, thickening_matrix
from nnunet_ext.superresolution.thinning import slice_axis, thin_image, thin_slices
from nnunet_ext.superresolution.weights import LearnedResampling


def rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("axis", [0, 2])
def test_a_thick_volume_it_has_not_seen_comes_nearer_to_the_thin_one_than_by_cubic_interpolation(
    network, profile, axis
):
    thin = np.moveaxis(blobs(4), 0, axis)
    thick = along(thin, axis, thickening_matrix(60, 15, profile))
    spacing_mm = [4.0 if a == axis else 1.0 for a in range(3)]
    cubic = along(thick, axis, interpolating_matrix(15, 60))
    learned = thin_slices(thick, network, channel=0, spacing_mm=spacing_mm, new_n=60, axis=axis)
    assert learned.shape == thin.shape
    assert rms(learned, thin) < 0.95 * rms(cubic, thin)
    assert thick.min() <= learned.min()
    assert learned.max() <= thick.max()


def test_slices_of_a_grid_between_thick_and_pixel_come_nearer_too(network):
    thin = blobs(4)
    thick, wanted = (along(thin, 0, thickening_matrix(60, n)) for n in (12, 24))
    cubic = along(thick, 0, interpolating_matrix(12, 24))
    learned = thin_slices(thick, network, channel=0, spacing_mm=(5, 1, 1), new_n=24)
    assert rms(learned, wanted) < rms(cubic, wanted)


def oblique(values: np.ndarray, spacing_mm: tuple, edge: tuple) -> sitk.Image:
    """An image of tilted slices whose first voxel begins at a corner, in LPS."""
    image = sitk.GetImageFromArray(values.astype(np.float32))
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.3, -0.2, 0.1)
    image.SetDirection(turn.GetMatrix())
    image.SetSpacing(spacing_mm[::-1])
    image.SetOrigin(np.add(edge, np.reshape(turn.GetMatrix(), (3, 3)) @ np.divide(spacing_mm[::-1], 2)).tolist())
    return image


def test_an_oblique_image_stays_where_it_is_in_space(network):
    thin = blobs(5, (40, 30, 36), (1.0, 0.9, 0.8))
    truth = oblique(thin, (1.0, 0.9, 0.8), (-30, 12, 70))
    thick = oblique(along(thin, 0, thickening_matrix(40, 10)), (4.0, 0.9, 0.8), (-30, 12, 70))
    made = thin_image(thick, LearnedResampling(network, ("T1",)), "T1", thinnest_mm=0.5)
    assert made.GetSize() == (36, 30, 44)  # 40 mm in slices of 0.9 mm, the longer side of a pixel
    assert made.GetSpacing() == pytest.approx((0.8, 0.9, 40 / 44))
    cubic, learned = (sitk.GetArrayFromImage(resample_to(image, truth)) for image in (thick, made))
    inner = (slice(3, -3),) * 3
    assert rms(learned[inner], thin[inner]) < rms(cubic[inner], thin[inner])


def test_slices_that_are_thin_enough_are_left_alone(network):
    learned = LearnedResampling(network, ("T1",))
    image = oblique(blobs(0, (8, 9, 10)), (1.3, 0.9, 0.8), (0, 0, 0))
    assert thin_image(image, learned, "T1", thinnest_mm=0.5) is image
    thick = oblique(blobs(0, (8, 9, 10)), (4.0, 0.9, 0.8), (0, 0, 0))
    assert thin_image(thick, learned, "T1", thinnest_mm=3.0) is thick
    assert thin_image(thick, learned, "T1", thinnest_mm=2.0).GetSize() == (10, 9, 16)
    with pytest.raises(ValueError, match="knows the channels T1, and not PET"):
        thin_image(thick, learned, "PET", thinnest_mm=2.0)


def test_slices_lie_across_the_longest_voxels():
    assert slice_axis((2.5, 0.5, 0.6)) == 0
    assert slice_axis((0.5, 4.0, 0.6)) == 1


def test_a_network_that_has_learned_nothing_is_cubic_interpolation():
    volume = np.random.default_rng(0).normal(size=(5, 7, 11)).astype(np.float32)
    made = thin_slices(volume, SliceNetwork(1), channel=0, spacing_mm=(3, 0.8, 0.7), new_n=11)
    cubic = np.clip(along(volume, 0, interpolating_matrix(5, 11)), volume.min(), volume.max())
    np.testing.assert_array_equal(made, cubic)
    assert made.dtype == np.float32
