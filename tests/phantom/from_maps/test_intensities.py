"""Brightness of the tissues."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_ext.phantom.from_maps.intensities import (
    MR_WHITE_MATTER,
    REALISTIC,
    draw_ct_contrast,
    draw_mr_contrast,
)
from nnunet_ext.phantom.from_maps.tissues import CODE, TISSUES


def test_every_tissue_has_a_brightness():
    assert set(REALISTIC) == set(TISSUES)


def test_ct_is_in_hu():
    hu = draw_ct_contrast(np.random.default_rng(0)).means
    assert hu[CODE["air"]] == -1000
    assert -110 <= hu[CODE["fat"]] <= -70
    assert 65 <= hu[CODE["lens"]] <= 100
    assert 800 <= hu[CODE["bone"]] <= 1600


def values(channel: str, kind: str = "realistic", n: int = 60) -> tuple[np.ndarray, list[dict]]:
    drawn = [draw_mr_contrast(np.random.default_rng(seed), channel, kind) for seed in range(n)]
    return np.array([one.means for one in drawn]) / MR_WHITE_MATTER, [one.record for one in drawn]


def test_t1_and_t2_order_their_tissues_as_scanners_do():
    t1, _ = values("T1")
    t2, _ = values("T2")
    assert (t1[:, CODE["csf"]] < t1[:, CODE["white_matter"]]).all()
    assert (t2[:, CODE["csf"]] > t2[:, CODE["white_matter"]]).all()
    assert np.median(t1[:, CODE["grey_matter"]]) < 0.85
    assert np.median(t2[:, CODE["grey_matter"]]) > 1.25


@pytest.mark.parametrize("channel", ["T1", "T2"])
def test_suppressed_fat_is_dark(channel):
    found, records = values(channel)
    suppressed = np.array([record["fat_suppression"] is not None for record in records])
    assert 0 < suppressed.sum() < len(suppressed)
    assert found[suppressed, CODE["fat"]].max() < 0.8
    assert found[~suppressed, CODE["fat"]].min() > 1.0


def test_a_contrast_agent_brightens_vessels_on_t1_alone():
    found, records = values("T1")
    given = np.array([record["contrast_agent"] for record in records])
    assert 0 < given.sum() < len(given)
    assert np.median(found[given, CODE["vein"]]) > 2 * np.median(found[~given, CODE["vein"]])
    assert not any(record["contrast_agent"] for record in values("T2")[1])


def test_random_contrast_has_no_order():
    found, records = values("T1", "random")
    brighter = (found[:, CODE["csf"]] > found[:, CODE["white_matter"]]).mean()
    assert 0.25 < brighter < 0.75
    assert (found[:, CODE["air"]] == 0).all()
    assert {record["contrast"] for record in records} == {"random"}
