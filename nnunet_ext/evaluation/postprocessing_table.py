"""The table of a chosen postprocessing, with the scores without and with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nnunet_ext.evaluation.postprocessing_scores import DECIDING
from nnunet_ext.evaluation.statistics import SUMMARISED, Mean
from nnunet_ext.evaluation.table import HEADS, as_table

if TYPE_CHECKING:
    from nnunet_ext.evaluation.postprocessing_choice import HeldOut, OrganChoice, PostprocessingChoice


def choice_markdown(choice: PostprocessingChoice, *, least_cases: int) -> str:
    """The text of `organ_postprocessing.md`.

    Args:
        choice: With its scores.
        least_cases: With fewer, nothing is chosen for an organ.
    """
    steps = [[organ, _steps(one, least_cases)] for organ, one in choice.organs.items()]
    folds = f"fold{'s' * (len(choice.folds) > 1)} {', '.join(choice.folds)}"
    systems = {"without": "without", "with": "chosen"}
    if any(one.by_other_folds is not None for one in choice.organs.values()):
        systems["by other folds"] = "by_other_folds"
    return f"""\
# Postprocessing of {choice.model.name}

{as_table(["organ", "steps, in this order"], steps)}

## Cross-validation, {folds}

{_scores(choice.organs, systems)}

Mean +- SD over n cases in which the reference or the prediction holds the organ. Better and worse: cases whose DSC the steps
raise and lower. **The steps were chosen on these very cases**, so "with" is flattering.{_by_other_folds(systems)}
An organ that neither mask holds after a step counts with DSC 100 and distances of 0. A step stays if it raises the mean DSC
and neither mean HD95, helps two cases or more, and more than it harms. With fewer than {least_cases} cases none is chosen.

- Emptied by the steps: {_emptied(choice.organs)}
- Cases that could not be scored: {"; ".join(f"{case}: {why}" for case, why in choice.failed.items()) or "none"}
{_held_out(choice.held_out)}"""


def _by_other_folds(systems: Mapping[str, str]) -> str:
    if "by other folds" not in systems:
        return ""
    return (
        '\n"By other folds" uses, for each fold, the steps that the other folds alone would have chosen, so it is not.'
    )


def _held_out(organs: Mapping[str, HeldOut]) -> str:
    if not organs:
        return ""
    return f"""
## Held-out cases

{_scores(organs, {"without": "without", "with": "chosen"})}

No step was chosen on these cases.

- Emptied by the steps: {_emptied(organs)}
"""


def _steps(one: OrganChoice, least_cases: int) -> str:
    if one.too_few:
        return f"none: {one.n_cases} cases, fewer than {least_cases}"
    return ", ".join(step.text for step in one.steps) or "none helps"


def _scores(organs: Mapping[str, OrganChoice] | Mapping[str, HeldOut], systems: Mapping[str, str]) -> str:
    head = ["organ", *(f"{HEADS[metric]} {name}" for metric in DECIDING for name in systems), "n", "better", "worse"]
    lines: list[Sequence[str]] = []
    for organ, one in organs.items():
        means: list[Mapping[str, Mean] | None] = [getattr(one, attribute) for attribute in systems.values()]
        cells = [
            "-" if found is None else found[metric].text(SUMMARISED[metric]) for metric in DECIDING for found in means
        ]
        lines.append([organ, *cells, str(one.n_cases), str(one.better), str(one.worse)])
    return as_table(head, lines)


def _emptied(organs: Mapping[str, OrganChoice] | Mapping[str, HeldOut]) -> str:
    found = [f"{organ} in {', '.join(one.emptied)}" for organ, one in organs.items() if one.emptied]
    return "; ".join(found) or "none"
