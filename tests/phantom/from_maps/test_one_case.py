"""One case: the same for the same seed, with its person on record."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.phantom.from_maps.one_case import draw_scene, make_head
from nnunet_ext.phantom.one_case import Phantom

COARSE_MM = (3.0, 3.0, 4.0)


def digest(case: Phantom) -> str:
    images = (case.ct, case.t1, case.t2, case.label)
    parts = [
        sitk.GetArrayFromImage(image).tobytes() + repr((image.GetOrigin(), image.GetSpacing())).encode()
        for image in images
    ]
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.fixture(scope="module")
def case(person) -> Phantom:
    return make_head(person, 3, 1, spacing_mm=COARSE_MM)


def test_the_same_seed_gives_the_same_case(person, case):
    assert digest(make_head(person, 3, 1, spacing_mm=COARSE_MM)) == digest(case)


def test_another_seed_or_case_gives_another(person, case):
    assert (
        len({digest(case), *(digest(make_head(person, *which, spacing_mm=COARSE_MM)) for which in ((4, 1), (3, 2)))})
        == 3
    )


def test_images_share_the_grid_asked_for_and_the_record_names_the_person(case):
    assert case.record["person"] == "small"
    for image in (case.ct, case.t1, case.t2, case.label):
        assert image.GetSpacing() == COARSE_MM
        assert image.GetSize() == case.ct.GetSize()
        assert image.GetOrigin() == case.ct.GetOrigin()
    assert [image.GetPixelID() for image in (case.ct, case.t1, case.t2)] == [sitk.sitkInt16] * 3
    assert case.label.GetPixelID() == sitk.sitkUInt8


def test_random_contrast_leaves_ct_and_labels_as_they_are(person, case):
    other = make_head(person, 3, 1, spacing_mm=COARSE_MM, contrast="random")
    for name in ("ct", "label"):
        same, changed = (sitk.GetArrayFromImage(getattr(one, name)) for one in (case, other))
        np.testing.assert_array_equal(same, changed)
    assert other.record["T1"]["contrast"] == "random"
    assert not np.array_equal(sitk.GetArrayFromImage(other.t1), sitk.GetArrayFromImage(case.t1))


def test_volumes_on_record_are_those_of_the_labels(case):
    counts = np.bincount(sitk.GetArrayFromImage(case.label).ravel(), minlength=8)[1:]
    assert list(case.record["organs_ml"].values()) == pytest.approx(counts * np.prod(COARSE_MM) / 1000, abs=1e-3)


def test_an_undeformed_head_is_the_persons_own_with_all_organs(person):
    for case in range(3):
        made = make_head(person, 5, case, spacing_mm=COARSE_MM, deformed=False)
        head = made.record["head"]
        assert head["rotation_deg"] == (0.0, 0.0, 0.0)
        assert (head["missing_eye"], head["prosthesis"], made.record["bend"]) == (None, None, 0.0)
        assert min(made.record["organs_ml"].values()) > 0


def test_the_warp_of_an_undeformed_head_only_moves_it(person):
    scene, _ = draw_scene(person, 5, 0, deformed=False)
    points = np.random.default_rng(0).uniform(-90, 90, (50, 3))
    moved = scene.warp.to_world_mm(points) - points
    np.testing.assert_allclose(moved, np.broadcast_to(scene.warp.translation_mm, moved.shape), atol=1e-4)


def test_without_misalignment_each_mr_lies_where_the_labels_lie(person):
    made = make_head(person, 5, 0, spacing_mm=COARSE_MM, misalignment_mm=0.0)
    assert [made.record[channel]["misalignment_mm"] for channel in ("T1", "T2")] == [0.0, 0.0]
