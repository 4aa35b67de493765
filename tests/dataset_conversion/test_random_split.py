"""Test cases drawn at random."""

from __future__ import annotations

import json

import pytest
from case_folders import run, write_case

from nnunet_ext.dataset_conversion.listing import list_cases
from nnunet_ext.dataset_conversion.random_split import DrawnShare, random_test_cases, with_test_cases
from nnunet_ext.dataset_conversion.sources import Gathered

NAMES = [f"case_{number:02d}" for number in range(60)]


def draw(names=NAMES, persons=(), *, share=0.25, seed=1):
    return random_test_cases(names, persons, share=share, seed=seed)


def test_a_quarter_of_60_cases_is_15_and_a_seed_gives_the_same_again():
    assert len(draw()) == 15
    assert draw() == draw(NAMES[::-1])
    assert draw() != draw(seed=2)


def test_every_case_is_drawn_about_as_often_over_many_seeds():
    counts = dict.fromkeys(NAMES, 0)
    for seed in range(400):
        for name in draw(seed=seed):
            counts[name] += 1
    assert all(60 <= n <= 140 for n in counts.values())  # 100 with an SD of 9


def test_cases_of_a_person_are_on_one_side_whoever_knows_it():
    pairs = {name: str(at // 2) for at, name in enumerate(NAMES)}
    patients = {NAMES[1]: "Jo", NAMES[2]: "Jo"}  # joins two pairs
    for seed in range(20):
        drawn = draw(persons=[pairs, patients], seed=seed)
        assert len(drawn) in (14, 15)
        assert all((NAMES[at] in drawn) == (NAMES[at + 1] in drawn) for at in range(0, 60, 2))
        assert (NAMES[0] in drawn) == (NAMES[3] in drawn)


def test_a_share_that_leaves_a_side_empty_is_refused():
    with pytest.raises(ValueError, match=r"a share of 0\.1 of 4 cases with labels is 0 test cases"):
        draw(NAMES[:4], share=0.1)
    with pytest.raises(ValueError, match="every person has more than 1 cases"):
        draw(NAMES[:4], [{name: str(at // 2) for at, name in enumerate(NAMES[:4])}], share=0.25)


def test_cases_that_failed_take_part_so_that_two_datasets_have_the_same_test_cases():
    names = {name: name for name in NAMES}
    lacking = Gathered(failed={NAMES[7]: "no T1"}, identifiers=names)
    assert with_test_cases(lacking, {}, DrawnShare(0.25, 1)).failed == lacking.failed  # and no error


def test_a_conversion_puts_the_drawn_cases_into_the_test_set_as_its_list_says(tmp_path):
    for seed, case in enumerate("abcd"):
        write_case(tmp_path / "src" / case, seed=seed)
    for case in "ab":
        (tmp_path / "src" / case / "phantom.json").write_text(json.dumps({"person": "head_01"}))
    summary = run(tmp_path / "src", test_share=0.5, seed=3)
    there = sorted(file.name[0] for file in (summary.dataset_folder / "labelsTs").iterdir())
    assert there in (["a", "b"], ["c", "d"])
    listed = list_cases(tmp_path / "src", test_share=0.5, seed=3, modalities=["CT", "T1", "T2"], show_progress=False)
    assert sorted(line[0] for line in listed.lines if "labelsTs" in line) == there
    with pytest.raises(ValueError, match="give one of both"):
        run(tmp_path / "src", test_share=0.5, test_cases=["a"])
    with pytest.raises(ValueError, match="is not between 0 and 1"):
        run(tmp_path / "src", test_share=1.5)
