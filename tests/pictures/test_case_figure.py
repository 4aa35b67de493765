"""Overlay pictures: the patient's right is on the left, and what is drawn is what the masks hold."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from lenses_and_chiasm import LABELS, SHAPE, label_map, lps_image, write
from matplotlib.image import imread

from nnunet_ext.labels.colours import colours
from nnunet_ext.pictures.case_figure import draw_case, draw_comparison, draw_crop
from nnunet_ext.pictures.volumes import read_case


def pixels_of(picture: np.ndarray, colour: str) -> np.ndarray:
    """Rows and columns of the pixels in a colour, above the legend."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    close = np.abs(picture[: int(0.9 * len(picture)), :, :3] - rgb).max(axis=2) < 0.2
    return np.argwhere(close)


@pytest.mark.parametrize("code", ["LPS", "RAI"])
def test_left_lens_is_drawn_on_the_right_half(tmp_path, code):
    turned = write(tmp_path, "turned", sitk.DICOMOrient(lps_image(label_map()), code))
    flat = write(tmp_path, "flat", sitk.DICOMOrient(lps_image(np.zeros(SHAPE, np.int16)), code))
    grid, volumes, (_, prediction) = read_case({"CT": flat}, (None, turned))
    draw_case("case", grid, volumes, None, prediction, labels=LABELS).savefig(tmp_path / "p.png")
    picture = imread(tmp_path / "p.png")
    left, right = (pixels_of(picture, colours(LABELS)[organ]) for organ in ("Lens_L", "Lens_R"))
    assert len(left) > 50
    assert len(right) > 50
    assert left[:, 1].min() > right[:, 1].max()


def test_figure_names_case_channels_scores_and_what_was_missed():
    reference, prediction = label_map(), label_map()
    prediction[prediction == 3] = 0
    reference[reference == 2] = 0
    volumes = {"CT": np.zeros(SHAPE), "T2": np.ones(SHAPE)}
    scores = {"Lens_L": 87.65, "OpticChiasm": 0.0, "Lens_R": float("nan")}
    grid = lps_image(np.zeros(SHAPE, np.uint8))
    figure = draw_case("case_7", grid, volumes, reference, prediction, labels=LABELS, scores=scores)
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert texts == [
        "reference",
        "prediction",
        "Lens_L  DSC 87.7",
        "Lens_R  invented",
        "OpticChiasm  DSC 0.0  missed",
    ]
    assert figure.get_suptitle() == "case_7"
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["CT", "T2"]
    whole = figure.axes[0].get_title(loc="left")
    middle = grid.TransformContinuousIndexToPhysicalPoint((29.5, 19.5, 4))
    assert whole == f"Lens\naxial, z = {middle[2]:.1f} mm\nslice 5 of 12"
    marks = {text.get_text() for text in figure.axes[1].texts}
    assert {"R", "L", "A", "P", "10 mm"} <= marks
    assert figure.axes[1].get_aspect() == 1.0  # axes are in mm, so voxels keep their shape


def test_import_leaves_pyplot_and_its_backend_alone():
    code = (
        "import sys, nnunet_ext.pictures.case_figure; print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def test_comparison_draws_each_experiments_prediction_in_its_column():
    reference = label_map()
    predictions = {"ours": reference, "theirs": np.where(reference == 3, 0, reference), "none": None}
    scores = {"ours": {"Lens_L": 100.0, "Lens_R": 100.0, "OpticChiasm": 100.0}, "theirs": {"OpticChiasm": 0.0}}
    volume = np.random.default_rng(0).normal(40, 60, SHAPE)
    figure = draw_comparison(
        "case_1", lps_image(reference), "CT", volume, reference, predictions, labels=LABELS, scores=scores
    )
    columns = {axes.get_title(): number for number, axes in enumerate(figure.axes) if axes.get_title() in predictions}
    assert list(columns) == ["ours", "theirs", "none"]
    per_row = 1 + len(predictions)
    chiasm_row = {name: figure.axes[per_row + number] for name, number in columns.items()}
    texts = {name: [text.get_text() for text in axes.texts] for name, axes in chiasm_row.items()}
    assert "OpticChiasm  DSC 100.0" in texts["ours"]
    assert "OpticChiasm  missed" in texts["theirs"]
    assert "no prediction" in texts["none"]
    # The reference's contour in each, the prediction's where there is one; all show the same place.
    assert [len(axes.collections) for axes in chiasm_row.values()] == [2, 1, 1]
    assert len({axes.get_xlim() for axes in chiasm_row.values()}) == 1


def test_the_crop_is_shown_whole_in_every_channel_with_its_size():
    volumes = {"CT": np.zeros(SHAPE), "T1": np.ones(SHAPE), "T2": np.ones(SHAPE)}
    box = (slice(2, 12), slice(4, 36), slice(5, 55))
    figure = draw_crop("case_1", lps_image(np.zeros(SHAPE, np.uint8)), volumes, box, label_map(), labels=LABELS)
    assert figure.get_suptitle() == "case_1: the crop that the segmenter sees, 35 x 26 x 30 mm"
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["CT", "T1", "T2"]
    axial = [axes for axes in figure.axes[:4] if axes.get_xlim() == pytest.approx((4.5 * 0.7, 54.5 * 0.7))]
    assert len(axial) == 3
    assert all(axes.get_ylim() == pytest.approx((35.5 * 0.8, 3.5 * 0.8)) for axes in axial)
