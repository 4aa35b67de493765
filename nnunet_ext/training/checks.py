"""Checks before a training: its split, its preprocessed files and the references of its validation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class


def preprocessed_cases(folder: Path) -> list[str]:
    """The preprocessed cases in a folder, sorted. It need not exist."""
    if not any(next(folder.glob(f"*{ending}"), None) for ending in (".b2nd", ".npz")):
        return []
    return sorted(infer_dataset_class(str(folder)).get_identifiers(str(folder)))


def check_split(
    splits: Sequence[Mapping[str, Sequence[str]]], fold: int, cases: Collection[str], *, file: Path, preprocess: str
) -> None:
    """Refuse a split of a fold that can't be trained and validated with the preprocessed cases.

    Args:
        splits: Content of nnU-Net's `splits_final.json`.
        fold: May lie above the splits, because nnU-Net then draws one.
        cases: That are preprocessed.
        file, preprocess: The file of the splits, and the command that preprocesses a case, for messages.

    Raises:
        ValueError: Naming file, fold, case and remedy.
    """
    where = f"{file}: fold {fold}"
    if fold < 0 or not splits:
        raise ValueError(f"{where} is not there: it holds {len(splits)} splits, counted from 0")
    if fold >= len(splits):  # nnU-Net draws a split, as its documentation says
        return
    train, val = (splits[fold][part] for part in ("train", "val"))
    for part, names in (("train", train), ("val", val)):
        if not names:
            raise ValueError(
                f"{where} has no case in '{part}'; list at least one, or pass fold all to train on all cases"
            )
        if unknown := sorted(set(names) - set(cases)):
            raise ValueError(
                f"{where} names {listed(unknown)} in '{part}', not among the {len(cases)} preprocessed cases; take it "
                f"out of the file, or preprocess it: {preprocess}"
            )
    if both := sorted(set(train) & set(val)):
        raise ValueError(
            f"{where} has {listed(both)} both in 'train' and in 'val', so its scores would say nothing about new ones; "
            "keep each case once, or pass fold all to train on all cases"
        )
    if twice := sorted({case for case in val if val.count(case) > 1}):
        raise ValueError(f"{where} names {listed(twice)} twice in 'val'; keep it once")


def odd_split(n_splits: int, fold: int, cases: Collection[str], train: Sequence[str], val: Sequence[str]) -> list[str]:
    """Warnings about a fold for which nnU-Net draws a split, and about cases in neither list.

    Args:
        n_splits: In `splits_final.json`.
        fold: That is trained.
        cases: That are preprocessed.
        train, val: Cases of the fold.
    """
    warnings = []
    if fold >= n_splits:
        warnings.append(
            f"splits_final.json has the folds 0 to {n_splits - 1}. Fold {fold} is none of them: nnU-Net "
            "draws 80 % of the cases at random for it, so its scores do not belong to the cross-validation."
        )
    if unused := sorted(set(cases) - {*train, *val}):
        warnings.append(
            f"{listed(unused)} of {len(train) + len(val) + len(unused)} cases are in no list of fold "
            f"{fold} in splits_final.json: neither trained on nor validated."
        )
    return warnings


def missing_files(folder: Path, cases: Collection[str]) -> list[str]:
    """Names of files that the preprocessed cases lack, sorted."""
    endings = (".b2nd", "_seg.b2nd", ".pkl") if any(folder.glob("*.b2nd")) else (".npz", ".pkl")
    names = (f"{case}{ending}" for case in cases for ending in endings)
    return sorted(name for name in names if not (folder / name).is_file())


def listed(names: Sequence[str]) -> str:
    """Names for a message, the first of many."""
    return " and ".join(f"'{name}'" for name in names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
