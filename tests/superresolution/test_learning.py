import numpy as np
import pytest
import torch
from blobs import blobs, slices_in

from nnunet_ext.superresolution.learning import held_out_errors, learn, thickness_range_mm


def test_on_slices_it_has_not_seen_the_error_is_below_that_of_cubic_interpolation(network):
    errors = held_out_errors(network, slices_in(blobs(2), 10))
    assert [(one.thickness_mm, one.n_slices) for one in errors] == [(3, 6), (5, 6), (7, 6)]
    assert all(one.learned < 0.97 * one.cubic for one in errors)
    assert [one.cubic for one in errors] == sorted(one.cubic for one in errors)


def test_the_error_of_cubic_interpolation_is_the_root_mean_square_in_the_channels_unit(network):
    slices = slices_in(blobs(2), 30)
    once, scaled = (
        held_out_errors(network, chosen)
        for chosen in (slices, [type(s)(10 * s.values + 7, s.spacing_mm, 0, s.spread) for s in slices])
    )
    for one, other in zip(once, scaled, strict=True):
        assert other.cubic == pytest.approx(10 * one.cubic, rel=1e-3)
        assert other.learned == pytest.approx(10 * one.learned, rel=1e-3)


def test_coarse_pixels_leave_out_thicknesses_that_lose_nothing(network):
    coarse = [type(s)(s.values, (2.4, 4.0), 0, s.spread) for s in slices_in(blobs(2), 30)]
    assert [one.thickness_mm for one in held_out_errors(network, coarse)] == [5, 7]
    assert thickness_range_mm(2.4) == pytest.approx((3.6, 7))
    assert thickness_range_mm(0.5) == (2.5, 7)
    assert thickness_range_mm(4.7) is None


def test_the_same_seed_gives_the_same_weights_and_another_one_does_not():
    slices = slices_in(blobs(3, (24, 40, 30)), 6)

    def weights(seed: int) -> np.ndarray:
        state = torch.get_rng_state()
        made = learn(slices, n_channels=1, iterations=3, seed=seed, batch_size=2)
        assert torch.equal(torch.get_rng_state(), state)  # the caller's draws go on as they would have
        return torch.cat([value.flatten() for value in made.state_dict().values()]).numpy()

    first = weights(0)
    np.testing.assert_array_equal(weights(0), first)
    assert not np.array_equal(weights(1), first)


def test_pixels_that_are_too_coarse_are_refused():
    coarse = [type(s)(s.values, (1.0, 5.0), 0, s.spread) for s in slices_in(blobs(0, (4, 20, 20)), 2)]
    with pytest.raises(ValueError, match=r"no slice has pixels below 4\.67 mm"):
        learn(coarse, n_channels=1, iterations=1)
