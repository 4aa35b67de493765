"""Shapes of a head: organs of the size that was drawn, and layers that lie where they should."""

from dataclasses import replace

import numpy as np
import pytest

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.anatomy import build_anatomy
from nnunet_ext.phantom.eyes_and_chiasm import chiasm_shape, eye_side
from nnunet_ext.phantom.head_parameters import SIDES, HeadParameters
from nnunet_ext.phantom.skull_and_brain import brain_tumour, metal_parts
from nnunet_ext.phantom.tissues import TISSUES


@pytest.fixture(scope="module")
def head():
    return replace(HeadParameters.draw(np.random.default_rng(2)), tumour=None, streaks=None, missing_eye=None)


@pytest.fixture(scope="module")
def anatomy(head):
    return build_anatomy(head, np.random.default_rng(0))


def points_of(shape, step_mm):
    """Points of a regular grid in the box of a shape."""
    axes = [
        np.arange(low, high, step_mm, dtype=np.float32) for low, high in zip(shape.low_mm, shape.high_mm, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def test_the_chiasm_has_the_volume_that_was_drawn(head):
    shape, _ = chiasm_shape(head)
    inside = shape.distance_mm(points_of(shape, 0.3)) < 0
    assert inside.sum() * 0.3**3 / 1000 == pytest.approx(head.chiasm_ml, rel=0.03)


def test_nerves_have_the_length_that_was_drawn_and_end_in_eye_and_chiasm(head):
    chiasm, factor = chiasm_shape(head)
    for index, name in enumerate(SIDES):
        side = eye_side(head, name, chiasm, factor)
        assert side.nerve_length_mm == pytest.approx(head.nerve_length_mm[index], abs=0.6)
        assert np.linalg.norm(side.nerve_mm[0] - side.globe_mm) < side.radius_mm
        assert chiasm.distance_mm(side.nerve_mm[-1:])[0] < 0
        assert np.sign(side.globe_mm[0]) == SIDES[name]


def test_every_layer_has_a_known_tissue_and_the_organs_are_all_there(anatomy):
    layers = [*anatomy.accessories, *anatomy.coarse, *anatomy.fine]
    assert {layer.tissue for layer in layers} <= set(TISSUES)
    assert {layer.organ for layer in layers} == set(range(len(ORGANS) + 1))


def test_a_missing_eye_has_an_implant_and_no_label(head):
    layers = build_anatomy(replace(head, missing_eye="right"), np.random.default_rng(0)).fine
    missing = {ORGANS.index(name) + 1 for name in ("Eye_R", "Lens_R")}
    assert not missing & {layer.organ for layer in layers}
    assert [layer.tissue for layer in layers].count("implant") == 1


def test_the_fixation_mask_lies_on_the_skin(anatomy):
    (mask,) = anatomy.accessories
    points = np.random.default_rng(0).uniform((-90, -115, -90), (90, 20, 110), (400_000, 3)).astype(np.float32)
    sheet = mask.combine(*(shape.distance_mm(points) for shape in mask.shapes)) < 0
    assert sheet.sum() > 100
    above_skin_mm = anatomy.skin.distance_mm(points[sheet])
    assert above_skin_mm.min() > -0.01
    assert above_skin_mm.max() < 6.1  # a gap of 3 mm and a sheet of 3 mm


def test_a_tumour_of_the_brain_keeps_its_distance_from_the_chiasm(head):
    for seed in range(20):
        oedema, *_ = brain_tumour(head, np.random.default_rng(seed))
        lowest_mm = oedema.shapes[0].low_mm[2]
        assert lowest_mm > head.chiasm_center_mm[2]


def test_metal_is_a_clip_or_one_to_three_fillings(head):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        assert metal_parts(replace(head, streaks="clip"), rng).shape == (1, 3)
        fillings_mm = metal_parts(replace(head, streaks="dental"), rng)
        assert 1 <= len(fillings_mm) <= 3
        assert (fillings_mm[:, 2] < -50).all()
    assert metal_parts(head, np.random.default_rng(0)).shape == (0, 3)
