"""Reference beside prediction: which is which, where, and in which colour."""

from __future__ import annotations

import numpy as np
import pytest
from lenses_and_chiasm import LABELS, SHAPE, label_map, lps_image
from matplotlib.colors import to_hex

from nnunet_ext.labels.colours import colours
from nnunet_ext.pictures.pairs import draw_pairs


def test_reference_stands_left_of_the_prediction_near_lenses_and_chiasm_in_the_organs_colours():
    reference, prediction = label_map(), label_map()
    prediction[prediction == 2] = 0  # the right lens is missed
    grid = lps_image(np.zeros(SHAPE, np.uint8))
    scores = {"Lens_L": 100.0, "Lens_R": 0.0}
    figure = draw_pairs(
        "case_1", "crops", grid, "CT", np.zeros(SHAPE), reference, prediction, labels=LABELS, scores=scores
    )
    lenses, missed, chiasm, other = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["reference", "prediction: crops", "", ""]
    # A fill and an outline per organ.
    drawn = [len(axes.collections) for axes in (lenses, missed, chiasm, other)]
    assert drawn == [4, 2, 2, 2]
    colour = colours(LABELS)
    assert {to_hex(one.get_edgecolor()[0]) for one in lenses.collections[1::2]} == {colour["Lens_L"], colour["Lens_R"]}
    assert to_hex(missed.collections[1].get_edgecolor()[0]) == colour["Lens_L"]
    left_lens = missed.collections[0].get_paths()[0].vertices
    assert left_lens[:, 0].mean() == pytest.approx(46.5 * 0.7, abs=0.5)
    assert lenses.get_xlim() == missed.get_xlim()  # the same place
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["Lens_L  DSC 100.0", "Lens_R  DSC 0.0", "OpticChiasm"]
    assert any(text.get_text().startswith("Lens\naxial") for text in figure.texts)
