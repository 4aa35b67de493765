"""3D views: what is coloured as missed is missed, and it lies where the organ lies."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from nnunet_ext.labels.colours import colours
from nnunet_ext.pictures import surfaces
from nnunet_ext.pictures.surfaces import (
    BOTH,
    COLOURS,
    EXTRA,
    MISSED,
    VIEWS,
    draw_organ_surfaces,
    draw_surfaces,
    parts_of,
)

SPACING_MM = (3.0, 0.8, 0.7)
LABELS = {"background": 0, "Eye_L": 1, "OpticChiasm": 2}
EYE, CHIASM = np.s_[2:7, 8:24, 30:46], np.s_[8:10, 30:34, 10:20]


def label_map(*regions: tuple) -> np.ndarray:
    out = np.zeros((12, 40, 60), np.uint8)
    for region, value in regions:
        out[region] = value
    return out


def triangles_of(part: str, reference: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Corners `(N, 3)` in mm of the triangles in a part's colour."""
    triangles, _, colours = surfaces._scene(SPACING_MM, reference, prediction, LABELS)
    return triangles[np.all(np.isclose(colours[:, :3], to_rgb(COLOURS[part])), axis=1)].reshape(-1, 3)


def test_parts_are_what_both_hold_what_is_missed_and_what_is_added():
    reference, prediction = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    found = {name: mask.tolist() for name, mask in parts_of(reference, prediction).items()}
    assert found == {
        BOTH: [True, False, False, False],
        MISSED: [False, True, False, False],
        EXTRA: [False, False, True, False],
    }


def test_solid_lies_where_the_organ_lies_in_mm():
    reference = label_map((EYE, 1))
    corners = triangles_of(BOTH, reference, reference)
    # Outer voxel edges of the box along x, y, z; smoothing moves the surface by less than half a voxel.
    edges = [(29.5 * 0.7, 45.5 * 0.7), (7.5 * 0.8, 23.5 * 0.8), (1.5 * 3.0, 6.5 * 3.0)]
    for axis, ((low, high), voxel_mm) in enumerate(zip(edges, SPACING_MM[::-1], strict=True)):
        assert corners[:, axis].min() == pytest.approx(low, abs=0.5 * voxel_mm)
        assert corners[:, axis].max() == pytest.approx(high, abs=0.5 * voxel_mm)
    for part in (MISSED, EXTRA):
        assert len(triangles_of(part, reference, reference)) == 0


def test_missed_organ_is_all_missed_and_its_place_is_right():
    reference, prediction = label_map((EYE, 1), (CHIASM, 2)), label_map((EYE, 1))
    missed = triangles_of(MISSED, reference, prediction)
    assert missed.mean(axis=0) == pytest.approx([14.5 * 0.7, 31.5 * 0.8, 8.5 * 3.0], abs=0.3)
    assert len(triangles_of(EXTRA, reference, prediction)) == 0
    extra = triangles_of(EXTRA, prediction, reference)
    assert extra == pytest.approx(missed)


def test_shift_to_the_left_is_extra_on_the_left_and_missed_on_the_right():
    reference = label_map((EYE, 1))
    prediction = np.roll(reference, 3, axis=2)  # x runs to the patient's left
    assert triangles_of(EXTRA, reference, prediction)[:, 0].min() > 40 * 0.7
    assert triangles_of(MISSED, reference, prediction)[:, 0].max() < 36 * 0.7


def test_organ_of_one_voxel_has_a_surface():
    speck = label_map((np.s_[6, 20, 30], 2))
    assert triangles_of(BOTH, speck, speck).mean(axis=0) == pytest.approx([21.0, 16.0, 18.0], abs=0.2)


def test_noise_all_over_a_head_is_meshed_on_its_own_voxels_and_lies_where_it_is():
    """On finer voxels such noise has two and a half times as many triangles: 67,000 here."""
    spacing_mm = (2.5, 2.4, 2.3)
    noise = np.random.default_rng(0).random((54, 24, 25)) < 0.1  # 135 mm long
    noise[0, 0, 0] = noise[-1, -1, -1] = True
    triangles, _, _ = surfaces._scene(spacing_mm, np.zeros(noise.shape, int), noise.astype(int), LABELS)
    assert len(triangles) < noise.size
    reach_mm = np.multiply(np.subtract(noise.shape, 1), spacing_mm)[::-1]
    assert triangles.min((0, 1)) == pytest.approx([0, 0, 0], abs=2.5)
    assert triangles.max((0, 1)) == pytest.approx(reach_mm, abs=2.5)


def test_patients_right_is_on_the_left_and_faces_to_the_lamp_are_bright():
    for view, up in (("from the front", (0, 0, 1)), ("from below", (0, -1, 0))):  # superior, anterior
        right, above, towards = surfaces._camera(*VIEWS[view])
        assert right == pytest.approx((1, 0, 0), abs=1e-9)  # to the patient's left
        assert above == pytest.approx(up, abs=1e-9)
    assert towards == pytest.approx((0, 0, -1), abs=1e-9)
    grey = np.full((2, 3), 0.5)
    lit, dark = surfaces._shade(grey, np.array([[-0.45, -0.62, 0.65], [0.7, -0.1, -0.7]]), *VIEWS["from the front"])
    assert lit.mean() > 1.5 * dark.mean()


def test_volumes_are_named_organ_by_organ():
    reference, prediction = label_map((EYE, 1), (CHIASM, 2)), label_map((EYE, 1), (CHIASM, 1))  # chiasm taken for eye
    texts = [text for _, text in surfaces._volumes(SPACING_MM, reference, prediction)]
    eye_ml, chiasm_ml = (5 * 16 * 16 * 1.68 / 1000, 2 * 4 * 10 * 1.68 / 1000)
    assert texts == [
        f"in both: {eye_ml:.2f} mL",
        f"missed (reference only): {chiasm_ml:.2f} mL",
        f"extra (prediction only): {chiasm_ml:.2f} mL",
    ]


def test_figure_shows_the_three_colours_and_an_empty_case_is_refused():
    reference = label_map((EYE, 1), (CHIASM, 2))
    figure = draw_surfaces("case_1", SPACING_MM, reference, np.roll(label_map((EYE, 1)), 3, axis=2), labels=LABELS)
    figure.set_dpi(40)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[40:, :, :3].astype(int)  # without the legend's row
    red = (pixels[..., 0] > pixels[..., 1] + 60) & (pixels[..., 0] > pixels[..., 2] + 60)
    blue = (pixels[..., 2] > pixels[..., 0] + 60) & (pixels[..., 2] > pixels[..., 1] + 20)
    pale = (pixels.min(axis=2) > 90) & (np.ptp(pixels, axis=2) < 40)
    assert min(red.sum(), blue.sum(), pale.sum()) > 150
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_surfaces("case_1", SPACING_MM, label_map(), label_map(), labels=LABELS)


def test_each_organ_has_two_panels_of_its_own_the_right_one_first_on_a_scale_that_fills_them():
    labels = {"background": 0, "Lens_L": 1, "Lens_R": 2, "Eye_L": 3}
    lens_l, lens_r = np.s_[4, 8:12, 44:50], np.s_[4, 8:12, 10:16]
    reference = label_map((EYE, 3), (lens_l, 1), (lens_r, 2))
    prediction = label_map((EYE, 3), (lens_l, 1))
    figure = draw_organ_surfaces(
        "case_1", SPACING_MM, reference, prediction, labels=labels, scores={"Lens_L": 100.0, "Lens_R": 0.0}
    )
    assert len(figure.axes) == 6
    texts = {text.get_text(): text for text in figure.texts}
    names = ["Lens_R  DSC 0.0", "Lens_L  DSC 100.0", "Eye_L"]
    places = [texts[name].get_position()[0] for name in names]
    assert places == sorted(places)
    assert [texts[name].get_color() for name in names] == [colours(labels)[o] for o in ("Lens_R", "Lens_L", "Eye_L")]
    lens_ml = 4 * 6 * 1.68 / 1000
    assert f"0.00 mL in both\n{lens_ml:.2f} missed, 0.00 extra" in texts
    figure.set_dpi(60)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    panel = pixels.shape[1] // 3
    red = (pixels[..., 0] > pixels[..., 1] + 60) & (pixels[..., 0] > pixels[..., 2] + 60)
    assert red[:, panel + 20 :].sum() == 0  # only the right lens is missed
    columns = np.flatnonzero(red[100:, : panel + 20].any(axis=0))
    assert np.ptp(columns) > 0.6 * panel  # it fills its panel, and is not hidden by an eye


def test_the_scale_bar_is_as_long_as_it_says():
    labels = {"background": 0, "Eye_L": 1}
    eye = label_map((EYE, 1))  # 16 voxels of 0.7 mm wide
    figure = draw_organ_surfaces("case_1", SPACING_MM, eye, eye, labels=labels)
    figure.set_dpi(100)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    (bar,) = [artist for artist in figure.artists if isinstance(artist, Line2D)]
    bar_px = np.ptp(bar.get_xdata()) * pixels.shape[1]
    (bar_mm,) = [float(t.get_text().split()[0]) for t in figure.texts if t.get_text().endswith(" mm")]
    rows = slice(*(round(pixels.shape[0] * (1 - share)) for share in (figure.axes[0].get_position().y1, 0.55)))
    pale = (pixels[rows].min(axis=2) > 60) & (np.ptp(pixels[rows], axis=2) < 60)
    widths = pale.sum(axis=1)
    width_mm = np.percentile(widths[widths > 0], 80) * bar_mm / bar_px
    assert width_mm == pytest.approx(16 * 0.7, rel=0.1)


def test_an_organ_that_nobody_drew_has_no_panel_and_an_empty_case_is_refused():
    eye = label_map((EYE, 1))
    assert len(draw_organ_surfaces("case_1", SPACING_MM, eye, eye, labels=LABELS).axes) == 2
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_organ_surfaces("case_1", SPACING_MM, label_map(), label_map(), labels=LABELS)
