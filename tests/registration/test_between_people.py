"""Heads of two people: the affine fit finds how one was stretched."""

import numpy as np
from atlas_heads import PEOPLE, head

from nnunet_ext.atlas.atlases import make_target, small
from nnunet_ext.registration.between_people import fit_between_people, fit_linear
from nnunet_ext.registration.similarity import information_of
from nnunet_ext.registration.volumes import Source


def test_an_affine_fit_finds_sizes_and_place_and_a_b_spline_is_kept_only_if_it_finds_more():
    moving, _ = head(1, angles=(0.05, 0.0, -0.04), offset_mm=(20.0, 0.0, -15.0))
    fixed, _ = head(0, angles=(0.1, -0.08, 0.12), spacing_mm=(3.0, 4.4, 6.0))
    target, source = make_target(fixed, channel="CT"), Source.of("moving", small(moving), True, is_ct=True)
    linear = fit_linear(target, source)
    stretched = np.diag(np.reshape(linear.GetMatrix(), (3, 3)))
    np.testing.assert_allclose(stretched, PEOPLE[1], atol=0.02)
    np.testing.assert_allclose(linear.TransformPoint((0.0, 0.0, 0.0)), (20.0, 0.0, -15.0), atol=2.0)
    both = fit_between_people(target, source, linear)
    information = [information_of(target, source, one, target.head) for one in (linear, both)]
    assert information[1] >= information[0]
