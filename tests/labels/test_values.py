"""Label values of organs, regions and pairs."""

from __future__ import annotations

import pytest

from nnunet_ext.labels.values import organ_values, pair_values, values_of


def test_organs_are_all_labels_but_background_and_ignore():
    labels = {"background": 0, "Eye_L": 1, "whole": [1, 2], "Lens_L": 2, "ignore": 3}
    assert organ_values(labels) == {"Eye_L": (1,), "whole": (1, 2), "Lens_L": (2,)}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "ignore": 1}, "name no organ"),
        ({"air": 0}, "name no organ"),
        ({"Eye_L": -1}, "'Eye_L' has label -1"),
        ({"Eye_L": 1, "whole": [0, 1]}, r"'whole' has label \[0, 1\]"),
        ({"Eye_L": []}, r"'Eye_L' has label \[\]"),
    ],
)
def test_labels_that_name_no_organ_are_refused(labels: dict, message: str):
    with pytest.raises(ValueError, match=message):
        organ_values(labels)


def test_a_label_is_one_value_or_several():
    assert values_of(3) == (3,)
    assert values_of([2, 5]) == values_of((2, 5)) == (2, 5)


def test_pairs_of_names_are_sorted_pairs_of_values():
    labels = {"Lens_R": 4, "Lens_L": 3, "Eye_L": 1, "Eye_R": 2}
    assert pair_values([("Lens_L", "Lens_R"), ("Eye_L", "Eye_R")], labels) == [(1, 2), (3, 4)]
