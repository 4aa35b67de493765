"""Meaning of the numbers in label maps."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_ext.phantom.from_maps.map_labels import load_map_labels
from nnunet_ext.phantom.from_maps.tissues import CODE


def test_the_default_file_knows_eyes_nerve_chiasm_and_halves():
    labels = load_map_labels()
    assert [labels.tissue_of[number] for number in (0, 85, 506, 530)] == ["air", "optic_chiasm", "eyes", "optic_nerve"]
    assert 2 in labels.left
    assert 41 in labels.right


def test_numbers_become_codes_of_any_shape_and_type():
    numbers = np.array([[0, 506], [85, 2]])
    expected = [[CODE["air"], CODE["eyes"]], [CODE["optic_chiasm"], CODE["white_matter"]]]
    for dtype in (np.uint16, np.int32, np.int64):
        codes = load_map_labels().codes(numbers.astype(dtype))
        assert codes.dtype == np.uint8
        assert codes.tolist() == expected


@pytest.mark.parametrize(
    ("numbers", "words"),
    [([0, 9], "the number 9 has no meaning"), ([0, -3, 2_000_000_000], "the numbers -3, 2000000000 have no meaning")],
)
def test_unknown_numbers_are_named(numbers, words):
    with pytest.raises(ValueError, match=words):
        load_map_labels().codes(np.array(numbers))


GOOD = "[tissues]\nair = [0]\neyes = [1]\noptic_chiasm = [2]\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tissue]\nair = [0]\n", "has no .tissues. section"),
        (GOOD + "liver = [9]\n", "'liver' is no tissue. Use: air, skin"),
        (GOOD + "bone = [2]\n", "2 is both optic_chiasm and bone"),
        (GOOD + "bone = [2.5]\n", "bone = .2.5. is not a list of whole numbers"),
        (GOOD + "bone = 3\n", "bone = 3 is not a list"),
        ("[tissues]\nair = [0]\n", "has no number for eyes, optic_chiasm"),
        (GOOD + "[halves]\nleft = [3]\n", "needs two lines"),
        (GOOD + "[halves]\nleft = [3]\nright = [3]\n", "need numbers of their own"),
        ("[tissues\n", "is not TOML"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path, text, words):
    file = tmp_path / "site.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=words):
        load_map_labels(file)


def test_halves_may_be_left_out(tmp_path):
    file = tmp_path / "site.toml"
    file.write_text(GOOD)
    assert load_map_labels(file).left == frozenset()
