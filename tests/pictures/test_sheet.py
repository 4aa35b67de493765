import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from nnunet_ext.pictures.sheet import DPI, Sheet, blue_to_red, grey, tinted


def drawn(sheet: Sheet) -> np.ndarray:
    canvas = FigureCanvasAgg(sheet.figure())
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


@pytest.mark.parametrize(
    ("shape", "pixel_mm"), [((40, 80), (2.0, 1.0)), ((30, 60), (1.0, 1.0)), ((90, 20), (1.0, 3.0))]
)
def test_a_picture_keeps_its_proportions_and_lies_in_the_middle_of_its_place(shape, pixel_mm):
    sheet = Sheet("case", "title", 2, aspects=[1.0])
    panel = sheet.rows[0][1]
    panel.show(np.full(shape, 200, np.uint8), "axial", pixel_mm)
    left, top, width, height = panel.shown_at
    assert height / width == pytest.approx(shape[0] * pixel_mm[0] / (shape[1] * pixel_mm[1]), rel=0.02)
    assert left + width / 2 == pytest.approx(panel.left + panel.width / 2, abs=1)
    assert top + height / 2 == pytest.approx(panel.top + panel.height / 2, abs=1)
    image = drawn(sheet)
    assert image[top + height // 3, left + width // 3].tolist() == [200, 200, 200]
    assert image[top + height // 3, : round(panel.left) - 2].max() == 0  # nothing in the other column


def test_an_outline_lies_on_the_border_of_its_mask():
    sheet = Sheet("case", "title", 1, aspects=[1.0])
    panel = sheet.rows[0][0]
    mask = np.zeros((50, 50), bool)
    mask[10:30, 20:40] = True
    panel.show(np.zeros((50, 50), np.uint8), "axial", (2.0, 2.0))
    panel.outline(mask, (2.0, 2.0), "#00ff00", 2.0)
    image = drawn(sheet)
    left, top, width, height = panel.shown_at
    rows, columns = np.nonzero((image[..., 1] > 200) & (image[..., 0] < 60))
    assert rows.min() == pytest.approx(top + 10 / 50 * height, abs=2)
    assert rows.max() == pytest.approx(top + 30 / 50 * height, abs=2)
    assert columns.min() == pytest.approx(left + 20 / 50 * width, abs=2)
    assert columns.max() == pytest.approx(left + 40 / 50 * width, abs=2)


def test_a_mask_without_a_border_has_no_outline():
    panel = Sheet("case", "title", 1, aspects=[1.0]).rows[0][0]
    for mask in (np.zeros((5, 6), bool), np.ones((5, 6), bool)):
        panel.outline(mask, (1.0, 1.0), "red")
    assert panel.outlines == []


def test_an_empty_place_stays_black():
    sheet = Sheet("", "", 2, aspects=[1.0, 0.7])
    assert drawn(sheet).max() == 0
    assert drawn(sheet).shape == (int(sheet.height_in * DPI), int(sheet.width_in * DPI), 3)


def test_grey_values_follow_the_window():
    assert grey(np.array([-2000.0, -1000.0, -350.0, 300.0, np.nan]), (-1000.0, 300.0)).tolist() == [0, 0, 128, 255, 0]


def test_a_tint_is_only_on_its_mask():
    found = tinted(np.array([[100, 100]], np.uint8), np.array([[True, False]]), (255, 0, 0))
    assert found.tolist() == [[[216, 25, 25], [100, 100, 100]]]


def test_a_factor_below_one_is_blue_above_red_and_a_missing_one_black():
    low, middle, high, missing = blue_to_red(np.array([[0.7, 1.0, 1.3, np.nan]]), (0.7, 1.3))[0].astype(int)
    assert low[2] > low[0] + 100
    assert high[0] > high[2] + 100
    assert np.ptp(middle) < 10
    assert missing.max() == 0
