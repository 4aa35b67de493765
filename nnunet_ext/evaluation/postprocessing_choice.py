"""Postprocessing chosen organ by organ on the cross-validation of a trained model.

Every case is scored as the fold predicted it that did not train on it, with each combination of the steps that make sense
for the organ. Steps are taken up in a fixed order. A step stays if it raises the mean DSC and neither mean HD95, and if it
raises the DSC of at least `LEAST_BETTER` cases, and of more cases than it lowers it.

An organ that neither mask holds counts with a DSC of 100 and a distance of 0, unlike in our tables, where it has no score.
So a step that removes an invented organ is rewarded.

The gain is measured on the cases that the steps were chosen on, so it is flattering. Two numbers are not. The scores "by
other folds" use, for each fold, the steps that its cases had no part in choosing. Held-out cases had no part in anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ext._version import __version__
from nnunet_ext.cascade.plausibility import PLANS_KEY, PlausibleRanges
from nnunet_ext.evaluation.folders import find_folders
from nnunet_ext.evaluation.postprocessing_scores import (
    DECIDING,
    Scored,
    ScoringJob,
    Taken,
    run_jobs,
    score_both,
    score_candidates,
)
from nnunet_ext.evaluation.postprocessing_table import choice_markdown
from nnunet_ext.evaluation.statistics import Mean, mean_of
from nnunet_ext.files import read_json, write_json, write_text
from nnunet_ext.folder_lock import holding, owned_folder
from nnunet_ext.labels.pairs import dataset_pairs
from nnunet_ext.nnunet_folders import is_model, organs_not_segmented, read_dataset_json, read_predictions_json
from nnunet_ext.postprocessing.choice import FILE, KEY
from nnunet_ext.postprocessing.steps import (
    CLOSE_GAPS,
    HOLES,
    LARGEST,
    OWN_SIDE,
    SMALL_PIECES,
    SMOOTH,
    Step,
    ends_of,
)

#: With fewer cases that hold an organ, none is chosen for it. Ten cases show a step that harms every fourth one with a
#: probability of 94 % (1 - 0.75^10), and no case has more than a tenth of the mean.
LEAST_CASES = 10
#: The mean DSC must rise by what our tables show, in percent.
LEAST_GAIN_PERCENT = 0.01
#: What helps a single case may be luck, even if that case makes the mean.
LEAST_BETTER = 2
#: A mean distance has risen if it has by more than rounding.
SAME_MM = 1e-6
#: Two or three diameters of an optic nerve, and two thick slices.
LONGEST_GAP_MM = 10.0
#: Of the smallest believable volume of an organ. Smaller pieces are specks.
SPECK_SHARE = 0.1
#: About the edge of a voxel in the plane of a CT, as the smoothing is not to move a boundary further.
SIGMA_MM = 1.0

#: Case -> scores by the steps taken.
ByCase = Mapping[str, Mapping[Taken, Scored]]


@dataclass(frozen=True)
class OrganChoice:
    """What was chosen for an organ.

    Attributes:
        steps: Empty if nothing helps, or there are too few cases.
        n_cases: Cases in which the reference or the prediction holds the organ.
        without, chosen: Metric of `DECIDING` -> mean over these cases, without and with the steps.
        by_other_folds: The same with the steps that the other folds would choose for the case. None for a single fold.
        better, worse: Cases whose DSC the steps raise and lower.
        emptied: Cases in which the steps remove the organ.
    """

    steps: tuple[Step, ...]
    n_cases: int
    without: Mapping[str, Mean]
    chosen: Mapping[str, Mean]
    by_other_folds: Mapping[str, Mean] | None
    better: int
    worse: int
    emptied: tuple[str, ...]

    @property
    def too_few(self) -> bool:
        return self.n_cases < LEAST_CASES

    def to_json(self) -> dict[str, Any]:
        systems = {"without": self.without, "chosen": self.chosen, "by_other_folds": self.by_other_folds}
        scores: dict[str, Any] = {
            name: None if means is None else {metric: mean.as_json() for metric, mean in means.items()}
            for name, means in systems.items()
        }
        counts = {"n_cases": self.n_cases, "better": self.better, "worse": self.worse}
        return {**counts, "emptied": list(self.emptied), **_without_nan(scores)}


@dataclass(frozen=True)
class HeldOut:
    """An organ in held-out cases. Attributes as in `OrganChoice`."""

    n_cases: int
    without: Mapping[str, Mean]
    chosen: Mapping[str, Mean]
    better: int
    worse: int
    emptied: tuple[str, ...]


@dataclass(frozen=True)
class PostprocessingChoice:
    """What was chosen for a model.

    Attributes:
        model: Its folder, which the files were written to.
        folds: Folds of the cross-validation.
        organs: Organ -> choice.
        held_out: Organ -> scores in held-out cases. Empty without these.
        failed: Case -> why it could not be scored. It had no part in the choice.
    """

    model: Path
    folds: tuple[str, ...]
    organs: Mapping[str, OrganChoice]
    held_out: Mapping[str, HeldOut] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def table_markdown(self) -> str:
        """The text of `organ_postprocessing.md`."""
        return choice_markdown(self, least_cases=LEAST_CASES)

    def to_json(self) -> dict[str, Any]:
        """The content of `organ_postprocessing.json`."""
        return {
            "made_by": f"nnunet_ext {__version__}",
            "organs": {organ: [step.to_json() for step in one.steps] for organ, one in self.organs.items()},
            "folds": list(self.folds),
            "least_cases": LEAST_CASES,
            "too_few_cases": [organ for organ, one in self.organs.items() if one.too_few],
            "scores": {organ: one.to_json() for organ, one in self.organs.items()},
        }


@holding(owned_folder, "model")
def choose_postprocessing(
    model: Path,
    references: Path | None = None,
    *,
    held_out: tuple[Path, Path] | None = None,
    n_processes: int = 2,
    show_progress: bool = True,
) -> PostprocessingChoice:
    """Choose the postprocessing of each organ on a model's cross-validation, and write it into the model.

    Writes `organ_postprocessing.json`, which `predict` applies, and the table `organ_postprocessing.md`. The model's
    `dataset.json` gets a copy of the first, so that `nnUNetv2_export_model_to_zip` packs it. Of an organ that nothing
    helps, or that too few cases hold, nothing is postprocessed.

    Args:
        model: Folder of the trained configuration, with the label maps of its validated folds.
        references: Of its training cases. None as in `evaluate`.
        held_out: Predictions of other cases, made without postprocessing, and their references. They take no part in the
            choice, and are scored with and without it.
        n_processes: Processes that read and score cases. With 1, this process does so itself.
        show_progress: Draw a progress bar.

    Raises:
        FileNotFoundError: If a folder is not there, or no fold is validated.
        ValueError: If the model does not say its labels, or held-out predictions are postprocessed already.
    """
    model = Path(model)
    if n_processes < 1:
        raise ValueError(f"n_processes is {n_processes}; give 1 or more.")
    if not is_model(model):
        raise FileNotFoundError(f"{model} is no trained model: it has no plans.json with folds (fold_*) beside it")
    folders = find_folders(model, references)
    dataset_json = read_dataset_json(model / "dataset.json")
    labels = dataset_json["labels"]
    organs = {
        name: value for name, value in labels.items() if isinstance(value, int) and value > 0 and name != "ignore"
    }
    left_out = organs_not_segmented(model, {name: (value,) for name, value in organs.items()})
    plans = read_json(model / "plans.json", dict)
    pairs = dataset_pairs(dataset_json, where=str(model / "dataset.json"))
    candidates = {
        organ: candidate_steps(organ, labels, smallest_ml(plans, organ), pairs)
        for organ in organs
        if organ not in left_out
    }
    jobs = [
        ScoringJob(case, folders.prediction_of.get(case), reference, labels, candidates, pairs)
        for case, reference in sorted(folders.reference_of.items())
    ]
    run = partial(run_jobs, n_processes=n_processes, show_progress=show_progress)
    scored, failed = run(score_candidates, jobs, title="Scoring")
    fold_of = {case: file.parent.parent.name for case, file in folders.prediction_of.items()}
    chosen = {
        organ: _choice(steps, {case: found[organ] for case, found in scored.items() if organ in found}, fold_of)
        for organ, steps in candidates.items()
    }
    result = PostprocessingChoice(model, folders.folds, chosen, failed=failed)
    if held_out is not None:
        found, more_failed = run(score_both, _held_out_jobs(*held_out, labels, pairs, result), title="Scoring held-out")
        result = PostprocessingChoice(model, folders.folds, chosen, _held_out(found, chosen), {**failed, **more_failed})
    write_text(result.table_markdown, model / "organ_postprocessing.md")
    write_json(result.to_json(), model / FILE)
    write_json({**dataset_json, KEY: {"organs": result.to_json()["organs"]}}, model / "dataset.json", indent=4)
    return result


def smallest_ml(plans: Mapping[str, Any], organ: str) -> float | None:
    """The smallest volume of an organ that the training labels make believable. None if the plan does not say."""
    if PLANS_KEY not in plans:
        return None
    found = PlausibleRanges.from_plan(plans[PLANS_KEY]).volume_ml.get(organ)
    return None if found is None or found[0] <= 0 else float(found[0])


def candidate_steps(
    organ: str, labels: Mapping[str, Any], least_ml: float | None, pairs: Sequence[tuple[str, str]] = ()
) -> list[Step]:
    """The steps that make sense for an organ, in the order in which they are taken up.

    Args:
        organ: Its name.
        labels: `labels` of the `dataset.json`.
        least_ml: See `smallest_ml`. Without it, pieces are not judged by their volume.
        pairs: Names of left and right organs.
    """
    steps = [Step(OWN_SIDE)] if any(organ in pair for pair in pairs) else []
    steps += [Step(CLOSE_GAPS, LONGEST_GAP_MM)] if ends_of(organ, labels) else []
    steps.append(Step(LARGEST))
    if least_ml is not None:
        steps += [Step(SMALL_PIECES, float(f"{share * least_ml:.3g}")) for share in (SPECK_SHARE, 1.0)]
    return [*steps, Step(HOLES), Step(SMOOTH, SIGMA_MM)]


# --- the choice -------------------------------------------------------------------------------------------------------


def choose(scores: ByCase, n_steps: int, *, least_cases: int = LEAST_CASES) -> Taken:
    """The steps that stay, of those of an organ.

    Args:
        scores: Of the cases that decide.
        n_steps: Number of steps to choose from.
        least_cases: With fewer, none stays.
    """
    taken: Taken = ()
    if len(scores) < least_cases:
        return taken
    for step in range(n_steps):
        before, after = (np.array([case[one][:3] for case in scores.values()]) for one in (taken, (*taken, step)))
        gain, *rises = (after - before).mean(axis=0)
        better, worse = (int((sign * (after - before)[:, 0] > 0).sum()) for sign in (1, -1))
        helps = gain >= LEAST_GAIN_PERCENT and better >= LEAST_BETTER and better > worse
        if helps and max(rises) <= SAME_MM:
            taken = (*taken, step)
    return taken


def _choice(steps: Sequence[Step], scores: ByCase, fold_of: Mapping[str, str]) -> OrganChoice:
    taken = choose(scores, len(steps))
    folds = sorted({fold_of[case] for case in scores})
    # One fold less would often be too few, which says nothing about the steps.
    others = {
        fold: choose(
            {case: found for case, found in scores.items() if fold_of[case] != fold},
            len(steps),
            least_cases=2 if len(scores) >= LEAST_CASES else LEAST_CASES,
        )
        for fold in folds
    }
    without, chosen = ([found[one] for found in scores.values()] for one in ((), taken))
    by_others = [found[others[fold_of[case]]] for case, found in scores.items()]
    better, worse = _better_and_worse(without, chosen)
    return OrganChoice(
        steps=tuple(steps[at] for at in taken),
        n_cases=len(scores),
        without=_means(without),
        chosen=_means(chosen),
        by_other_folds=_means(by_others) if len(folds) > 1 else None,
        better=better,
        worse=worse,
        emptied=tuple(case for case, found in scores.items() if found[taken].emptied),
    )


def _better_and_worse(without: Sequence[Scored], chosen: Sequence[Scored]) -> tuple[int, int]:
    gains = [b.dsc_percent - a.dsc_percent for a, b in zip(without, chosen, strict=True)]
    return sum(1 for gain in gains if gain > 0), sum(1 for gain in gains if gain < 0)


def _means(scores: Sequence[Scored]) -> dict[str, Mean]:
    return {metric: mean_of(getattr(one, metric) for one in scores) for metric in DECIDING}


def _without_nan(content: Any) -> Any:
    """JSON content with null for NaN."""
    if isinstance(content, Mapping):
        return {key: _without_nan(value) for key, value in content.items()}
    return None if isinstance(content, float) and np.isnan(content) else content


# --- held-out cases ---------------------------------------------------------------------------------------------------


def _held_out_jobs(
    predictions: Path,
    references: Path,
    labels: Mapping[str, Any],
    pairs: Sequence[tuple[str, str]],
    result: PostprocessingChoice,
) -> list[ScoringJob]:
    """Raises ValueError if the predictions are postprocessed, FileNotFoundError if none has a reference."""
    predictions = Path(predictions)
    manifest = predictions / "predictions.json"
    if manifest.is_file() and read_predictions_json(manifest).get("postprocessing"):
        raise ValueError(f"{predictions} is postprocessed already; predict with --no-postprocessing")
    folders = find_folders(predictions, Path(references))
    steps = {organ: one.steps for organ, one in result.organs.items()}
    jobs = [
        ScoringJob(case, file, folders.reference_of[case], labels, steps, pairs)
        for case, file in sorted(folders.prediction_of.items())
        if case in folders.reference_of
    ]
    if not jobs:
        raise FileNotFoundError(f"None of the held-out predictions in {predictions} has a reference in {references}.")
    return jobs


def _held_out(found: Mapping[str, Mapping[str, tuple[Scored, Scored]]], organs: Iterable[str]) -> dict[str, HeldOut]:
    result = {}
    for organ in organs:
        cases = {case: scores[organ] for case, scores in found.items() if organ in scores}
        without, chosen = [one for one, _ in cases.values()], [one for _, one in cases.values()]
        emptied = tuple(case for case, (_, one) in cases.items() if one.emptied)
        counts = _better_and_worse(without, chosen)
        result[organ] = HeldOut(len(cases), _means(without), _means(chosen), *counts, emptied)
    return result
