"""A label map becomes a head: sides, globes and nerves are found in files of any orientation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from map_heads import EYES_MM, RADIUS_MM, head_map

from nnunet_ext.images.writing import write_image
from nnunet_ext.phantom.from_maps.person import make_person, read_person
from nnunet_ext.phantom.from_maps.tissues import CODE


def changed(image: sitk.Image, change) -> sitk.Image:
    array = sitk.GetArrayFromImage(image)
    change(array)
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(image)
    return result


@pytest.mark.parametrize(
    "image",
    [
        head_map(),
        head_map((1.2, 1.5, 2.0), axes="LPS"),
        head_map(axes="RIA"),
        head_map((1.5, 1.2, 1.8), axes="PSR"),
        head_map(turned=True),
        head_map((1.2, 1.4, 1.6), axes="IRP", turned=True),
    ],
    ids=["LPS", "anisotropic", "RIA", "PSR", "oblique", "oblique IRP"],
)
def test_globes_and_nerves_are_found_in_any_grid(image, labels):
    person = make_person("any", image, labels)
    for side, eye in EYES_MM.items():
        assert person.globes[side].centre_mm == pytest.approx(eye, abs=1.0)
        assert person.globes[side].radius_mm == pytest.approx(RADIUS_MM, abs=0.25)
        course = person.nerves_mm[side]
        assert course[0] == pytest.approx(person.globes[side].centre_mm, abs=0.2)
        assert np.sign(course[-1, 0]) == np.sign(eye[0])
        assert np.abs(course[-1]).max() < 8  # ends in the chiasm
        straight = np.outer(1 - np.linspace(0.25, 0.55, 7), eye)
        away = np.linalg.norm(straight[:, None] - course[None], axis=2).min(axis=1)
        assert away.max() < 1.5  # through the pieces
    assert person.chiasm.volume_ml == pytest.approx(0.5, rel=0.25)


def test_left_is_where_the_left_half_of_the_brain_is(labels):
    wrong = replace(labels, left=labels.right, right=labels.left)
    with pytest.raises(ValueError, match="left half does not lie to the left"):
        make_person("swapped", head_map(), wrong)


def test_without_halves_the_axes_of_the_file_tell_the_sides(labels):
    person = make_person("no halves", head_map(), replace(labels, left=frozenset(), right=frozenset()))
    assert person.globes["left"].centre_mm == pytest.approx(EYES_MM["left"], abs=1.0)


def test_a_torn_globe_is_the_mirror_image_of_the_other(labels):
    def tear(array: np.ndarray) -> None:
        z, y, x = np.nonzero(array == 506)
        left = x > array.shape[2] / 2
        gone = left & (z > np.median(z[left]) - 2)
        array[z[gone], y[gone], x[gone]] = 507

    person = make_person("torn", changed(head_map(), tear), labels)
    assert person.globes["left"].radius_mm == person.globes["right"].radius_mm
    assert person.globes["left"].centre_mm == pytest.approx(EYES_MM["left"], abs=1.0)


def test_specks_islands_and_the_small_organs_are_replaced(labels):
    def spoil(array: np.ndarray) -> None:
        array[40, 70, 40] = 0  # a hole in the brain
        array[2, 2, 2:5] = 511  # something outside of the head

    image = changed(head_map(), spoil)
    person = make_person("spoiled", image, labels)
    clean = make_person("clean", head_map(), labels)
    assert person.tissues.shape == clean.tissues.shape
    np.testing.assert_array_equal(person.tissues, clean.tissues)
    small = [CODE[tissue] for tissue in ("eyes", "optic_nerve", "optic_chiasm")]
    assert not np.isin(person.tissues, small).any()


def test_orbits_hold_fat(person):
    for globe in person.globes.values():
        behind = globe.centre_mm * 0.72 + [0, 0, 8]  # beside the nerve
        at = np.rint(person.frame.to_index(behind)).astype(int)
        assert person.tissues[tuple(at)] == CODE["fat"]


def test_the_neck_goes_on_below_the_map(person):
    lowest = person.frame.to_index(np.array([0.0, 20.0, -200.0]))
    at = np.clip(np.rint(lowest).astype(int), 0, np.array(person.tissues.shape) - 1)
    assert person.tissues[tuple(at)] != CODE["air"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda image: changed(image, lambda a: np.copyto(a, 999, where=a == 24)), "the number 999 has no meaning"),
        (lambda image: changed(image, lambda a: np.copyto(a, 507, where=a == 506)), "nothing of it is eyes"),
        (lambda image: changed(image, lambda a: np.copyto(a, 24, where=a == 85)), "nothing of it is optic_chiasm"),
        (lambda image: sitk.JoinSeries([image, image]), "4D"),
        (lambda image: sitk.Cast(image, sitk.sitkFloat32) + 0.3, "no whole number"),
        (lambda image: _coarse(image), "its voxels measure 3 x 3 x 3 mm"),
        (lambda image: changed(image, lambda a: np.copyto(a, 3, where=np.isin(a, (41, 42)))), "brain's right half"),
    ],
)
def test_a_map_that_cannot_be_used_says_why(tmp_path, labels, spoil, words):
    path = tmp_path / "head.nii.gz"
    sitk.WriteImage(spoil(head_map()), str(path))
    with pytest.raises(ValueError, match=words):
        read_person(path, labels)


def _coarse(image: sitk.Image) -> sitk.Image:
    small = image[::2, ::2, ::2]
    small.SetSpacing((3, 3, 3))
    return small


def test_whole_numbers_stored_as_floats_are_read(tmp_path, labels, person):
    path = tmp_path / "head.nii.gz"
    write_image(sitk.Cast(head_map(), sitk.sitkFloat32), path)
    np.testing.assert_array_equal(read_person(path, labels).tissues, person.tissues)
