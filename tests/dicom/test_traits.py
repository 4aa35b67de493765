"""Values of traits, compared within rounding."""

from __future__ import annotations

import pytest

from nnunet_ext.dicom.traits import equal_within_rounding


@pytest.mark.parametrize(
    ("a", "b", "least", "share", "equal"),
    [
        (0.488281, 0.48828125, 0.005, 0, True), (0.49, 0.488281, 0.005, 0, True), (0.8, 1.0, 0.005, 0, False),
        (95.0, 95.4, 0.1, 0.01, True), (4.92, 7.38, 0.1, 0.01, False), (-3.0, 3.0, 0.1, 0.01, False),
    ],
)  # fmt: skip
def test_numbers_are_equal_within_rounding(a: float, b: float, least: float, share: float, equal: bool):
    assert equal_within_rounding(a, b, least, share) is equal
