"""Test cases drawn at random, all cases of a person on one side."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnunet_ext.dataset_conversion.sources import Gathered
from nnunet_ext.training.person_splits import persons_among

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DrawnShare:
    """A share of the labelled cases to draw for the test set, and the seed of the draw."""

    share: float
    seed: int = 0


def checked_test_share(share: float, seed: int) -> DrawnShare:
    """ValueError if the share leaves no training cases or no test cases, or the seed is negative."""
    if isinstance(share, bool) or not 0 < share < 1:
        raise ValueError(f"a share of {share!r} for the test set is not between 0 and 1; give e.g. --test 0.25")
    if seed < 0:
        raise ValueError(f"seed {seed} is negative; give 0 or more")
    return DrawnShare(float(share), seed)


def with_test_cases(gathered: Gathered, persons: Mapping[str, str], wanted: DrawnShare) -> Gathered:
    """The same cases, those that are drawn for the test set marked. Cases without labels are test cases anyway.

    Cases that cannot be read take part in the draw. So two conversions of a source draw the same cases, also if one of
    them needs a channel that a case lacks.

    Args:
        gathered: All cases of a source.
        persons: Case -> person, where that is known. DICOM cases are known by their patient.
        wanted: How many, and the seed.
    """
    unlabelled = {case.name for case in gathered.cases if not case.has_labels}
    patients = {row["case"]: row["patient_key"] for row in gathered.key_rows if "patient_key" in row}
    names = sorted(set(gathered.identifiers) - unlabelled)
    drawn = random_test_cases(names, [patients, persons], share=wanted.share, seed=wanted.seed)
    log.info("test cases drawn with seed %d: %s", wanted.seed, ", ".join(sorted(drawn)))
    cases: list[Any] = [*gathered.cases]  # frozen dataclasses, which the protocol of a case does not say
    return replace(gathered, cases=[replace(case, test=case.name in drawn) for case in cases])


def random_test_cases(
    cases: Collection[str], persons: Collection[Mapping[str, str]], *, share: float, seed: int
) -> set[str]:
    """Cases of persons drawn one after the other, until the share is reached. The same ones for the same seed.

    A person whose cases would exceed the share is passed over.

    Args:
        cases: Names. Their order does not matter.
        persons: Each maps cases to persons. Cases that share a person in one of them stay together.
        share: Of the cases, above 0 and below 1. It is rounded to whole cases.
        seed: Of the draw.

    Raises:
        ValueError: If no case would be on one side, or no person has few enough cases.
    """
    n_wanted = round(share * len(cases))
    if not 0 < n_wanted < len(cases):
        raise ValueError(
            f"a share of {share:g} of {len(cases)} cases with labels is {n_wanted} test cases; at least one test case and "
            "one training case are needed"
        )
    groups: list[list[str]] = []
    for known in persons:
        by_person: dict[str, list[str]] = {}
        for case in cases:
            if case in known:
                by_person.setdefault(known[case], []).append(case)
        groups += by_person.values()
    together = persons_among(cases, groups)
    drawn: set[str] = set()
    for at in np.random.default_rng(seed).permutation(len(together)):
        if len(drawn) + len(together[at]) <= n_wanted:
            drawn |= set(together[at])
    if not drawn:
        raise ValueError(f"every person has more than {n_wanted} cases, a share of {share:g}; give a larger share")
    return drawn
