"""A person's cases are in one fold."""

from __future__ import annotations

import pytest

from nnunet_ext.training.person_splits import divided_persons, person_splits, persons_among

#: Seven people, of whom three have several cases.
CASES = [f"case_{k:02d}" for k in range(14)]
GROUPS = [CASES[0:5], CASES[5:8], [CASES[8], CASES[10]]]


def test_every_case_is_validated_once_and_no_person_is_in_two_folds():
    splits = person_splits(CASES, GROUPS)
    assert len(splits) == 5
    assert sorted(case for split in splits for case in split["val"]) == CASES
    for split in splits:
        assert sorted(split["train"] + split["val"]) == CASES
        for group in GROUPS:
            assert len({case in split["val"] for case in group}) == 1
    assert divided_persons(splits, GROUPS) == []


def test_folds_are_about_equal_and_the_same_each_time():
    splits = person_splits(CASES, GROUPS)
    assert sorted(len(split["val"]) for split in splits) == [2, 2, 2, 3, 5]
    assert person_splits(list(reversed(CASES)), GROUPS) == splits


def test_few_people_make_few_folds():
    assert len(person_splits(CASES[:8], GROUPS)) == 2
    with pytest.raises(ValueError, match="all training cases are of one person"):
        person_splits(CASES[:5], GROUPS)


def test_lists_that_share_a_case_are_of_one_person_and_unknown_cases_count_for_nothing():
    assert persons_among(["a", "b", "c", "d"], [["a", "b"], ["b", "d"], ["c", "elsewhere"]]) == [["a", "b", "d"], ["c"]]


def test_a_divided_person_is_named_with_its_fold():
    splits = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["c", "b"], "val": ["a"]}]
    assert divided_persons(splits, [["a", "b"]]) == [(1, "b", "a")]
