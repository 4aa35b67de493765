"""All scores of an evaluation, and their means over cases.

An organ that neither mask holds is in no mean. It is listed as left out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from nnunet_ext.evaluation.statistics import SUMMARISED, Flag, Mean, Score, mean_of, mean_over_folds
from nnunet_ext.evaluation.table import to_markdown
from nnunet_ext.messages import Message

DEFINITIONS = {
    "dsc_percent": "Dice similarity coefficient, in percent.",
    "hd95_mm": (
        "Larger of the two directed 95th percentiles of the surface distances, weighted by surface area "
        "(surface-distance library), in mm."
    ),
    "plain_hd95_mm": (
        "The same between the centres of border voxels (six neighbours): of K sorted nearest distances number ceil(0.95 K), "
        "the larger direction, in mm. None in evaluations of earlier versions."
    ),
    "surface_dice": "Share of both surfaces, by area, within tolerance_mm of the other one, in [0, 1].",
    "mean_surface_distance_mm": "Mean distance of both surfaces to the other one, weighted by area, in mm.",
    "volume_difference_ml": "Volume of the prediction minus volume of the reference, in mL.",
    "volume_difference_percent": "The same in percent of the reference's volume; none where there is no reference.",
    "missed": (
        "Organ in the reference only: DSC 0, both HD95 and mean surface distance = image diagonal, surface dice 0, volume "
        "-100 %; counted in the means."
    ),
    "invented": "Organ in the prediction only: scored like a missed organ, without volume in %; counted in the means.",
    "left_out": "Organ in neither mask: no score, not counted in the means.",
    "not_segmented": "Organ that the model leaves out: no score, not counted in the means.",
    "failed": (
        "Case that could not be scored: every organ of its reference counts as missed in the means, but for its volume. "
        "A case whose reference cannot be read is in no mean."
    ),
    "mean, sd, median": "Over cases; sd is the sample SD (ddof = 1), null for fewer than two cases; n = cases counted.",
    "all_organs": "Mean over the organs of a case first, then mean, sd and median of that over cases.",
    "fold_models": (
        "Evaluations in folds/1, folds/2, ...: the same cases predicted by the model of one fold each. The mean over folds "
        "is taken per case, then mean and sd over cases."
    ),
    "label_crop_pass_rate": (
        "Share of the reference's organ voxels inside the box that the segmenter saw, in [0, 1]. With one crop per organ, "
        "each organ's own crop counts."
    ),
}


Pairs = list[tuple[str, str]]  # (case, organ)


@dataclass(frozen=True)
class EvaluationSummary:
    """Scores of one folder of predictions, or of a model's cross-validation.

    Attributes:
        labels: Organ -> label value, as in `dataset.json`.
        tolerance_mm: Organ -> tolerance of the surface dice.
        rows: One score per case and organ, the organs of a case together.
        files: Case -> prediction and reference, None if there is none.
        failed: Case -> why it could not be scored.
        ignored: Predictions without a reference.
        not_compared: Other files in the folders of predictions and references that are no label maps, as `folder/name`.
        not_segmented: Organs that the model leaves out.
        pass_rates: Case -> label crop pass rate in [0, 1], for the cases for which it is known.
        channels: Names of the images' channels, empty if unknown.
        model: The trained model, for a cross-validation.
        folds: Its folds that were scored.
        localizer: The localizer's scores on the same cases, or None.
        of_folds: The same cases as the model of each single fold predicts them, where these were scored beside the ensemble.
        left_right_pairs: Left and right organs, for pictures. None if they are not known.
        with_other_postprocessing: The same cases with the model's postprocessing, for a cross-validation, which is without.
            Without it, for predictions. None if they were not scored.
    """

    labels: dict[str, int]
    tolerance_mm: dict[str, float]
    rows: list[Score] = field(repr=False)
    files: dict[str, tuple[Path | None, Path | None]] = field(default_factory=dict, repr=False)
    failed: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    not_compared: tuple[str, ...] = ()
    not_segmented: tuple[str, ...] = ()
    pass_rates: dict[str, float] = field(default_factory=dict, repr=False)
    channels: tuple[str, ...] = ()
    model: Path | None = None
    folds: tuple[str, ...] = ()
    localizer: EvaluationSummary | None = field(default=None, repr=False)
    of_folds: tuple[EvaluationSummary, ...] = field(default=(), repr=False)
    left_right_pairs: list[tuple[str, str]] | None = None
    with_other_postprocessing: EvaluationSummary | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Whether every case with a reference could be scored."""
        return not self.failed

    @property
    def kind(self) -> Message:
        """Folds of a cross-validation, or predictions."""
        if not self.folds:
            return Message("predictions")
        if len(self.folds) == 1:
            return Message("cross_validation_of_a_fold", {"fold": self.folds[0]})
        return Message("cross_validation_of_folds", {"folds": self.folds})

    @property
    def organs(self) -> tuple[str, ...]:
        return tuple(self.tolerance_mm)

    @cached_property
    def cases(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.case for row in self.rows))

    @cached_property
    def per_organ(self) -> dict[str, dict[str, Mean]]:
        """Organ -> metric -> mean over cases."""
        return {
            organ: {metric: mean_of(self.values(organ, metric).values()) for metric in SUMMARISED}
            for organ in self.organs
        }

    @cached_property
    def all_organs(self) -> dict[str, Mean]:
        """Metric -> mean over cases of the mean over a case's organs."""
        return {metric: mean_of(self.case_means(metric).values()) for metric in SUMMARISED}

    @cached_property
    def mean_over_folds(self) -> EvaluationSummary | None:
        """Scores of the folds' models on a test set: per case and organ the mean over folds. None without such scores."""
        if not self.of_folds:
            return None
        rows = mean_over_folds([scores.rows for scores in self.of_folds])
        return replace(
            self, rows=rows, failed={}, pass_rates={}, localizer=None, of_folds=(), with_other_postprocessing=None
        )

    @property
    def by_postprocessing(self) -> dict[str, EvaluationSummary]:
        """`without` and `with` -> scores of the cases of both. Empty if only one of them was scored."""
        if self.with_other_postprocessing is None:
            return {}
        both = [case for case in self.with_other_postprocessing.cases if case in self.cases]
        pair = [self.only(both), self.with_other_postprocessing.only(both)]
        return dict(zip(("without", "with"), pair if self.model is not None else reversed(pair), strict=True))

    @property
    def missed(self) -> Pairs:
        return self._flagged("missed")

    @property
    def invented(self) -> Pairs:
        return self._flagged("invented")

    @property
    def left_out(self) -> Pairs:
        return self._flagged("left_out")

    @property
    def table_markdown(self) -> str:
        return to_markdown(self)

    def scores(self, case: str, metric: str = "dsc_percent") -> dict[str, float]:
        """Organ -> value of one metric in one case, NaN if left out."""
        return {row.organ: row.metric(metric) for row in self.rows if row.case == case}

    def values(self, organ: str, metric: str = "dsc_percent") -> dict[str, float]:
        """Case -> value of one metric of one organ, NaN if left out."""
        return {row.case: row.metric(metric) for row in self.rows if row.organ == organ}

    def case_means(self, metric: str = "dsc_percent") -> dict[str, float]:
        """Case -> mean of a metric over the case's organs, NaN if no organ has a value."""
        by_case: dict[str, list[float]] = {}
        for row in self.rows:
            by_case.setdefault(row.case, []).append(row.metric(metric))
        return {case: mean_of(values).value for case, values in by_case.items()}

    def only(self, cases: Collection[str]) -> EvaluationSummary:
        """The same for some of the cases."""
        return replace(
            self,
            rows=[row for row in self.rows if row.case in cases],
            files={case: files for case, files in self.files.items() if case in cases},
            failed={case: reason for case, reason in self.failed.items() if case in cases},
            pass_rates={case: rate for case, rate in self.pass_rates.items() if case in cases},
            localizer=self.localizer and self.localizer.only(cases),
            of_folds=tuple(scores.only(cases) for scores in self.of_folds),
            with_other_postprocessing=self.with_other_postprocessing and self.with_other_postprocessing.only(cases),
        )

    def _flagged(self, flag: Flag) -> Pairs:
        return [(row.case, row.organ) for row in self.rows if row.flag == flag]
