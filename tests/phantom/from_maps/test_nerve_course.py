"""The course of a nerve through pieces of it."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_ext.phantom.from_maps.nerve_course import nerve_course

GLOBE, CORNER = np.array([32.0, -55.0, -6.0]), np.array([6.0, -3.0, 0.0])
LATERAL = np.array([1.0, 0, 0])


def curve(share: np.ndarray) -> np.ndarray:
    """A bent nerve, 4 mm off the straight line at most."""
    bulge = 4 * np.sin(np.pi * share)[:, None] * np.array([0.8, 0.4, 0.45])
    return GLOBE + share[:, None] * (CORNER - GLOBE) + bulge


def distance(course: np.ndarray, points: np.ndarray) -> np.ndarray:
    fine = np.stack([np.interp(np.linspace(0, 40, 2000), np.arange(41), course[:, k]) for k in range(3)], axis=1)
    return np.linalg.norm(points[:, None] - fine[None], axis=2).min(axis=1)


def test_the_course_follows_the_pieces_and_bridges_the_gap():
    pieces = curve(np.linspace(0.22, 0.6, 200)) + np.random.default_rng(0).normal(0, 0.7, (200, 3))
    course = nerve_course(pieces, GLOBE, CORNER, lateral=LATERAL)
    assert course[0] == pytest.approx(GLOBE, abs=0.1)
    assert course[-1] == pytest.approx(CORNER, abs=0.1)
    assert distance(course, curve(np.linspace(0.25, 0.58, 30))).max() < 1.0
    assert distance(course, curve(np.linspace(0.6, 1, 30))).max() < 2.5


def test_strays_do_not_pull_it_away():
    pieces = curve(np.linspace(0.22, 0.6, 200))
    strays = np.array([[30.0, -20, -25], [12, -10, -18], [8, 9, 4]]).repeat(20, axis=0)
    alone = nerve_course(pieces, GLOBE, CORNER, lateral=LATERAL)
    np.testing.assert_allclose(nerve_course(np.r_[pieces, strays], GLOBE, CORNER, lateral=LATERAL), alone, atol=1e-6)


def test_without_pieces_it_runs_lateral_of_the_straight_line():
    course = nerve_course(np.empty((0, 3)), GLOBE, CORNER, lateral=LATERAL)
    straight = GLOBE + np.linspace(0, 1, len(course))[:, None] * (CORNER - GLOBE)
    middle = (course - straight)[len(course) // 2]
    assert middle[0] > 0.3
    assert np.linalg.norm(middle) < 3
