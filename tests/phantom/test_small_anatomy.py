import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.cleaning.ct_body import find_ct_body
from nnunet_ext.phantom.one_case import make_phantom


@pytest.fixture(scope="module")
def phantoms(shared_phantom):
    return shared_phantom(0, 1, size="tiny", with_truth=True), make_phantom(
        0, 1, size="tiny", with_truth=True, small_anatomy=True
    )


def test_only_the_skin_around_ears_and_nostrils_changes(phantoms):
    plain, detailed = phantoms
    changed = sitk.GetArrayFromImage(plain.ct) != sitk.GetArrayFromImage(detailed.ct)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(plain.label), sitk.GetArrayFromImage(detailed.label))
    cut = plain.truth.inside - detailed.truth.inside
    assert cut.min() > -1e-6
    ml = float(np.prod(plain.ct.GetSpacing())) / 1000
    assert 2 < cut.sum() * ml < 40
    pieces, count = ndimage.label(cut > 0.5)
    large = [n for n in range(1, count + 1) if np.count_nonzero(pieces == n) * ml > 0.5]
    assert len(large) >= 2  # one beside each ear
    near = ndimage.binary_dilation(cut > 1e-3, iterations=4)
    assert np.count_nonzero(changed & ~near & plain.truth.body) < 0.02 * changed.size


def test_hair_grows_outside_the_scalp_and_only_in_the_ct(phantoms):
    plain, detailed = phantoms
    before, after = (sitk.GetArrayFromImage(p.ct).astype(int) for p in phantoms)
    hair = (after > before + 50) & (detailed.truth.inside < 0.01)
    assert np.count_nonzero(hair) > 300
    away_mm = ndimage.distance_transform_edt(~detailed.truth.body, sampling=plain.ct.GetSpacing()[::-1])
    assert away_mm[hair].max() <= 9.0
    assert after[hair].max() < -300
    z = np.argwhere(hair)[:, 0]
    assert np.median(z) > np.median(np.argwhere(detailed.truth.body)[:, 0])  # on the head, not on the neck
    mr = np.abs(sitk.GetArrayFromImage(plain.t1).astype(int) - sitk.GetArrayFromImage(detailed.t1))
    assert np.count_nonzero(mr[hair] > 0.02 * mr.max()) < 0.1 * np.count_nonzero(hair)


def test_cleaning_loses_nothing_of_ears_with_a_gap(phantoms):
    phantom = phantoms[1]
    ct, truth = sitk.GetArrayFromImage(phantom.ct), phantom.truth.body
    found = find_ct_body(ct, spacing_mm=phantom.ct.GetSpacing()[::-1])
    inner = np.stack([ndimage.binary_erosion(one) for one in truth])
    assert np.count_nonzero(inner & (ct > -300) & ~found.kept) <= 50
