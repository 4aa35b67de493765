"""Box plots of scores, and curves of trainings. They need no images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnunet_ext.evaluation.summary import EvaluationSummary
from nnunet_ext.evaluation.table import HEADS
from nnunet_ext.reporting import reference_study
from nnunet_ext.reporting.training_curves import TrainingCurve

#: Okabe and Ito's colours for colour-blind readers, with dark grey in place of yellow, which is weak on white.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#444444", "#999999")
#: Fewer cases are drawn as points without a box. A box of three points hides more than it shows.
LEAST_FOR_BOX = 5
#: Metric -> tables of the study whose systems are drawn beside ours.
PUBLISHED_IN = {"dsc_percent": ("3.1", "3.2"), "plain_hd95_mm": ("3.3",)}


# Scores ---------------------------------------------------------------------------------------------------------------


def draw_box_plots(compared: Mapping[str, EvaluationSummary], organ: str, *, with_study: bool = False) -> Figure:
    """DSC and HD95 of one organ, a box per experiment, with every case as a point.

    Boxes show quartiles and median. Whiskers reach to the last case within 1.5 interquartile ranges. Boxes are over all
    cases. The HD95 axis ends above the largest distance of an organ that was found, because an organ that was not found has
    the image diagonal. The number of these cases stands at the top. `with_study` adds the study's mean +- SD as grey bars,
    beside the plain HD95.
    """
    published = {m: _published(organ, t) if with_study else {} for m, t in PUBLISHED_IN.items()}
    figure = _figure(max(7.0, 2.6 + 2.1 * (len(compared) + len(published["dsc_percent"]))), 4.6)
    distance = "plain_hd95_mm" if with_study else "hd95_mm"
    for column, metric in enumerate(("dsc_percent", distance)):
        axes = figure.add_subplot(1, 2, column + 1)
        for place, summary in enumerate(compared.values()):
            values = [v for v in summary.values(organ, metric).values() if not np.isnan(v)]
            _box(axes, values, place, PALETTE[place % len(PALETTE)])
        studies = published.get(metric, {})
        for place, (mean, sd) in enumerate(studies.values(), start=len(compared)):
            axes.errorbar(place, mean, sd, fmt="D", color="#777777", capsize=5, markersize=5, linewidth=1.3)
        names = [*compared, *studies]
        axes.set_xticks(range(len(names)), names, rotation=25, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.6, len(names) - 0.4)
        axes.set_title(f"{organ}: {HEADS[metric]}", fontsize=12)
        if metric == distance:
            _end_above_found(axes, compared, organ, metric, [mean + sd for mean, sd in studies.values()])
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    return figure


def _published(organ: str, tables: Sequence[str]) -> dict[str, tuple[float, float]]:
    """System of the study -> mean and SD of an organ."""
    return {
        f"study: {system}": (float(values[organ].mean), float(values[organ].sd or 0))
        for table in tables
        for system, values in reference_study.by_system(table).items()
        if organ in values
    }


def _end_above_found(
    axes: Axes, compared: Mapping[str, EvaluationSummary], organ: str, metric: str, published_mm: Sequence[float]
) -> None:
    """End the HD95 axis above the organs that were found, and say at the top how many were not."""
    rows = {name: [row for row in summary.rows if row.organ == organ] for name, summary in compared.items()}
    found_mm = [row.metric(metric) for found in rows.values() for row in found if not row.flag]
    found_mm = [mm for mm in found_mm if not np.isnan(mm)]  # those of earlier evaluations
    lost = {name: sum(row.flag in ("missed", "invented", "failed") for row in found) for name, found in rows.items()}
    axes.set_ylim(bottom=0)
    if not any(lost.values()) or not found_mm:
        return
    top = max(1.35 * max(found_mm), 1.1 * max(published_mm, default=0.0), 1.0)
    axes.set_ylim(0, top)
    for place, (name, n_lost) in enumerate(lost.items()):
        if n_lost:
            text = f"▲ {n_lost} of {len(rows[name])}\nnot found"
            axes.text(place, 0.98 * top, text, ha="center", va="top", fontsize=9, color=PALETTE[place % len(PALETTE)])


def draw_all_organs(compared: Mapping[str, EvaluationSummary], organs: Sequence[str]) -> Figure:
    """DSC of every organ, one box per experiment side by side."""
    figure = _figure(max(8.0, 1.6 + len(organs) * (0.55 + 0.42 * len(compared))), 4.8)
    axes = figure.add_subplot()
    width = 0.8 / len(compared)
    for number, (name, summary) in enumerate(compared.items()):
        colour = PALETTE[number % len(PALETTE)]
        for place, organ in enumerate(organs):
            values = [v for v in summary.values(organ).values() if not np.isnan(v)]
            _box(axes, values, place - 0.4 + width * (number + 0.5), colour, width=0.8 * width)
        axes.plot([], [], color=colour, linewidth=6, alpha=0.6, label=name)
    axes.set_xticks(range(len(organs)), organs)
    axes.set_xlim(-0.6, len(organs) - 0.4)
    axes.set_ylabel(HEADS["dsc_percent"])
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    if len(compared) > 1:
        figure.legend(loc="outside upper center", ncols=min(len(compared), 5), frameon=False)
    return figure


def _box(axes: Axes, values: Sequence[float], place: float, colour: str, *, width: float = 0.55) -> None:
    if len(values) >= LEAST_FOR_BOX:
        box = axes.boxplot(values, positions=[place], widths=width, showfliers=False, patch_artist=True)
        box["boxes"][0].set(facecolor=colour, alpha=0.35, edgecolor=colour)
        for part in (*box["whiskers"], *box["caps"], *box["medians"]):
            part.set(color=colour, linewidth=1.4)
    elif values:
        axes.hlines(np.median(values), place - width / 2, place + width / 2, color=colour, linewidth=1.8)
    # Spread evenly, not at random: the same scores give the same picture.
    offsets = np.linspace(-0.3, 0.3, len(values))[_spread(len(values))] * width if len(values) > 1 else [0.0]
    axes.scatter(
        place + np.asarray(offsets[: len(values)]), values, s=13, color=colour, linewidth=0, zorder=3, alpha=0.9
    )


def _spread(n: int) -> np.ndarray:
    """A fixed order of n places in which neighbours are far apart."""
    return np.argsort((np.arange(n) * 0.618034) % 1.0)


# Training -------------------------------------------------------------------------------------------------------------


def draw_training_curves(curves: Sequence[TrainingCurve]) -> Figure:
    """Losses above and pseudo Dice below, a column per model, folds as thin lines on top of each other."""
    models = list(dict.fromkeys(curve.model for curve in curves))
    organs = list(dict.fromkeys(organ for curve in curves for organ in curve.pseudo_dice))
    figure = _figure(max(6.5, 5.6 * len(models)), 6.4)
    for column, model in enumerate(models):
        of_model = [curve for curve in curves if curve.model == model]
        losses = figure.add_subplot(2, len(models), column + 1)
        for number, curve in enumerate(of_model):
            for label, loss, colour in (
                ("training", curve.train_loss, PALETTE[0]),
                ("validation", curve.validation_loss, PALETTE[4]),
            ):
                # One entry in the legend for all folds.
                losses.plot(curve.epochs, loss, color=colour, linewidth=1.2, label="" if number else label)
        folds = ", ".join(curve.fold for curve in of_model)
        losses.set_title(f"{of_model[0].configuration}, fold{'s' * (len(of_model) > 1)} {folds}", fontsize=12)
        losses.set_ylabel("loss")
        losses.legend(frameon=False, fontsize=9)
        dice = figure.add_subplot(2, len(models), len(models) + column + 1, sharex=losses)
        for curve in of_model:
            for organ, values in curve.pseudo_dice.items():
                dice.plot(curve.epochs, values, color=PALETTE[organs.index(organ) % len(PALETTE)], linewidth=1.2)
        dice.set(xlabel="epoch", ylabel="pseudo Dice on patches", ylim=(0, 1))
        for axes in (losses, dice):
            axes.grid(color="#dddddd", linewidth=0.8)
    handles = [Line2D([], [], color=PALETTE[i % len(PALETTE)], label=organ) for i, organ in enumerate(organs)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7), frameon=False)
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure
