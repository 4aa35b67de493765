"""What the plots of scores and trainings show."""

from __future__ import annotations

from nnunet_ext.reporting.plots import draw_box_plots, draw_training_curves
from nnunet_ext.reporting.training_curves import TrainingCurve


def test_training_curves_have_a_column_per_model_and_a_line_per_organ_and_fold():
    dice = {"Lens_L": (0.1, 0.2), "OpticChiasm": (0.0, 0.1)}
    curves = [
        TrainingCurve(m, f, (0, 1), (2.0, 1.0), (2.1, 1.1), dice) for m, f in (("T__P__low", "0"), ("T__P__low", "1"))
    ]
    figure = draw_training_curves([*curves, TrainingCurve("T__P__full", "0", (0, 1), (3.0, 2.0), (3.1, 2.1), dice)])
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["low, folds 0, 1", "full, fold 0"]
    low_dice = figure.axes[1]
    assert [line.get_ydata()[1] for line in low_dice.lines] == [0.2, 0.1, 0.2, 0.1]
    assert low_dice.lines[0].get_color() == low_dice.lines[2].get_color() != low_dice.lines[1].get_color()


def test_missed_organ_does_not_flatten_the_box_plot_but_is_named(compared):
    scores = {experiment.name: experiment.scores for experiment in compared.experiments}
    dsc, hd95 = draw_box_plots(scores, "OpticChiasm").axes
    found_mm = [v for s in scores.values() for c, v in s.values("OpticChiasm", "hd95_mm").items() if c != "case_4"]
    assert max(found_mm) < hd95.get_ylim()[1] < 10  # the diagonal of the image is 42 mm
    assert [text.get_text() for text in hd95.texts] == ["▲ 1 of 7\nnot found"]
    assert round(hd95.texts[0].get_position()[0]) == 1  # above `poor`
    assert dsc.texts[:] == []
    labels = [
        text.get_text() for text in draw_box_plots(scores, "OpticChiasm", with_study=True).axes[1].get_xticklabels()
    ]
    assert labels[:3] == ["good", "poor", "study: 80x256x256"]  # the study gives no HD95 of its localizer
