"""Layers of a whole head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.anatomy import build_anatomy
from nnunet_ext.phantom.tissues import TISSUES


def test_every_layer_has_a_known_tissue_and_the_organs_are_all_there(anatomy):
    layers = [*anatomy.accessories, *anatomy.coarse, *anatomy.fine]
    assert {layer.tissue for layer in layers} <= set(TISSUES)
    assert {layer.organ for layer in layers} == set(range(len(ORGANS) + 1))


def test_a_missing_eye_has_an_implant_and_no_label(head):
    layers = build_anatomy(replace(head, missing_eye="right"), np.random.default_rng(0)).fine
    missing = {ORGANS.index(name) + 1 for name in ("Eye_R", "Lens_R")}
    assert not missing & {layer.organ for layer in layers}
    assert [layer.tissue for layer in layers].count("implant") == 1
