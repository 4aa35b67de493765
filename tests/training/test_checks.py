"""A training that could not end well is refused before it begins, with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_ext.training.checks import check_split, missing_files, odd_split, preprocessed_cases

CASES = [f"head_{i}" for i in range(4)]
FILE = Path("splits_final.json")


def check(*splits: dict, fold: int = 0) -> None:
    check_split(splits, fold, CASES, file=FILE, preprocess="nnUNetv2_preprocess -d 501")


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"train": [], "val": CASES[3:]}, "fold 0 has no case in 'train'"),
        ({"train": CASES[:3], "val": []}, "fold 0 has no case in 'val'"),
        ({"train": CASES, "val": CASES[3:]}, "fold 0 has 'head_3' both in 'train' and in 'val'.*pass fold all"),
        ({"train": CASES[:3], "val": ["head_3", "head_3"]}, "fold 0 names 'head_3' twice in 'val'"),
        (
            {"train": ["a", "b", "c"], "val": CASES[3:]},
            "fold 0 names 'a' and 'b' and 1 more in 'train', not among the 4.*: nnUNetv2_preprocess -d 501$",
        ),
    ],
)
def test_a_split_that_cannot_be_trained_and_validated_is_refused(split, said):
    with pytest.raises(ValueError, match=rf"^splits_final\.json: {said}"):
        check(split)


def test_a_fold_below_0_or_of_no_splits_is_refused_and_one_above_is_left_to_nnunet():
    good = {"train": CASES[:3], "val": CASES[3:]}
    check(good)
    check(good, fold=3)
    with pytest.raises(ValueError, match=r"fold -1 is not there: it holds 1 splits, counted from 0"):
        check(good, fold=-1)
    with pytest.raises(ValueError, match=r"fold 0 is not there: it holds 0 splits"):
        check()


def test_a_drawn_split_and_cases_in_no_list_are_warned_of():
    assert odd_split(5, 0, CASES, CASES[:3], CASES[3:]) == []
    (drawn,) = odd_split(1, 3, CASES, CASES[:3], CASES[3:])
    assert drawn.startswith("splits_final.json has the folds 0 to 0. Fold 3 is none of them: nnU-Net draws 80 % of")
    (unused,) = odd_split(5, 0, CASES, CASES[:2], CASES[3:])
    assert unused == (
        "'head_2' of 4 cases are in no list of fold 0 in splits_final.json: neither trained on nor validated."
    )


@pytest.mark.parametrize("endings", [(".b2nd", "_seg.b2nd", ".pkl"), (".npz", ".pkl")])
def test_files_that_preprocessed_cases_lack_are_named(tmp_path, endings):
    assert preprocessed_cases(tmp_path / "not_there") == preprocessed_cases(tmp_path) == []
    for case in ("head_1", "head_0"):
        for ending in endings:
            (tmp_path / f"{case}{ending}").touch()
    assert preprocessed_cases(tmp_path) == ["head_0", "head_1"]
    assert missing_files(tmp_path, ["head_0", "head_1"]) == []
    (tmp_path / "head_0.pkl").unlink()
    (tmp_path / f"head_1{endings[-2]}").unlink()
    assert missing_files(tmp_path, ["head_1", "head_0"]) == ["head_0.pkl", f"head_1{endings[-2]}"]
