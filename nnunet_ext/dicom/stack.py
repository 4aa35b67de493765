"""Slices of a series in space, as one straight stack with one spacing, or the reason why they are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import SimpleITK as sitk

from nnunet_ext.dicom.headers import median_of_known
from nnunet_ext.dicom.model import Series, Slice
from nnunet_ext.dicom.parts import FEWEST_SLICES
from nnunet_ext.dicom.pixels import pixels_of
from nnunet_ext.dicom.traits import equal_within_rounding
from nnunet_ext.messages import Message

#: Gaps between slices that differ by less than this share, or so many mm, are even, because headers round positions.
GAP_TOLERANCE, GAP_TOLERANCE_MM = 0.01, 0.02
#: Even gaps are uneven all the same if their sum is off the straight line by more than this share of a gap.
LARGEST_DRIFT = 0.25
#: Uneven gaps up to this ratio are interpolated. Larger ones are only if the slice thickness covers them.
LARGEST_GAP_RATIO = 1.2
#: Slices nearer to each other on average were meant in metres.
SMALLEST_GAP_MM = 0.1
#: Slices that leave the straight line through the first by more than this belong to a tilted gantry.
SHEAR_TOLERANCE_MM = 0.1
#: An even grid may have so many planes per image. More of them would be mostly made up.
MOST_PLANES_PER_IMAGE = 1.5
#: Cosines whose lengths or right angle are off by more were rounded to a few decimals.
LARGEST_COSINE_ROUNDING = 1e-4
#: More short gaps than this are counted instead of named.
MOST_SHORT_GAPS = 3


def series_grid(series: Series) -> tuple[sitk.Image, list[Slice | None]]:
    """The grid of `read_series` as an image without values, and the image of each of its planes. Pixels are not read.

    If uneven gaps are interpolated, planes between the images have None.

    Raises:
        ValueError: As `read_series`, if the headers already say it.
    """
    stack = arrange(series, [])
    grid = grid_of(series, stack)
    if stack.even:
        return grid, list(stack.slices)
    apart = np.abs(stack.planes_mm[:, None] - stack.along_mm)
    tolerance = max(GAP_TOLERANCE * stack.gap_mm, GAP_TOLERANCE_MM)
    return grid, [stack.slices[int(mm.argmin())] if mm.min() <= tolerance else None for mm in apart]


def check_series(series: Series) -> None:
    """Raise ValueError if the headers already say that `read_series` will refuse a series."""
    arrange(series, [])


@dataclass(frozen=True)
class Stack:
    """Slices in order along the normal, unit vectors, and the distance of the planes of the straight grid."""

    slices: list[Slice]
    rows: np.ndarray
    columns: np.ndarray
    normal: np.ndarray
    gap_mm: float
    even: bool
    straight_mm: float = SHEAR_TOLERANCE_MM

    @property
    def positions_mm(self) -> np.ndarray:
        return np.array([one.position_mm for one in self.slices])

    @property
    def along_mm(self) -> np.ndarray:
        return self.positions_mm @ self.normal

    @property
    def planes_mm(self) -> np.ndarray:
        """Positions along the normal, which are the slices' own if these are even."""
        along = self.along_mm
        count = len(along) if self.even else int(np.floor((along[-1] - along[0]) / self.gap_mm + 1e-6)) + 1
        return along[0] + self.gap_mm * np.arange(count)

    @property
    def shift_mm(self) -> np.ndarray:
        """How far each slice leaves the straight line through the first, along the row and down the column."""
        return (self.positions_mm - self.positions_mm[0]) @ np.stack([self.rows, self.columns]).T

    @property
    def tilted(self) -> bool:
        return float(np.abs(self.shift_mm).max()) > self.straight_mm


def grid_of(series: Series, stack: Stack) -> sitk.Image:
    """The straight grid, which holds every slice of a tilted gantry whole."""
    between_rows, between_columns = series.spacing_mm
    low, high = reach_of(stack.shift_mm, series) if stack.tilted else np.zeros((2, 2), dtype=int)
    size = np.add(series.size[::-1], high - low)
    grid = sitk.Image([*size.tolist(), len(stack.planes_mm)], sitk.sitkUInt8)
    grid.SetSpacing((between_columns, between_rows, stack.gap_mm))
    grid.SetDirection(np.stack([stack.rows, stack.columns, stack.normal], axis=1).ravel().tolist())
    offset = low[0] * between_columns * stack.rows + low[1] * between_rows * stack.columns
    grid.SetOrigin((stack.positions_mm[0] + offset).tolist())
    return grid


def arrange(series: Series, notes: list[Message]) -> Stack:
    """Slices of a series, sorted into a stack.

    Args:
        series: From `find_series`.
        notes: Takes a message for copies that are dropped and for gaps that are odd.

    Raises:
        ValueError: If they are no stack, with the reason.
    """
    if series.problem:
        raise ValueError(series.problem)
    if len(series.slices) < FEWEST_SLICES:
        raise ValueError(f"it has {len(series.slices)} images, too few for a volume")
    rows, columns = (np.asarray(series.direction[at : at + 3]) for at in (0, 3))
    if abs(np.linalg.norm(rows) - 1) > 0.01 or abs(np.linalg.norm(columns) - 1) > 0.01 or abs(rows @ columns) > 0.01:
        raise ValueError("its direction (ImageOrientationPatient) is no pair of perpendicular axes; export it again")
    cosine_rounding = max(abs(np.linalg.norm(rows) - 1), abs(np.linalg.norm(columns) - 1), abs(rows @ columns))
    rows = rows / np.linalg.norm(rows)
    columns = columns - (columns @ rows) * rows
    columns = columns / np.linalg.norm(columns)
    normal = np.cross(rows, columns)
    slices = sorted(series.slices, key=lambda one: float(np.dot(one.position_mm, normal)))
    extent = float(np.dot(np.subtract(slices[-1].position_mm, slices[0].position_mm), normal))
    if 0 < extent < SMALLEST_GAP_MM * (len(slices) - 1):
        raise ValueError(
            f"its slices are {extent / (len(slices) - 1):.3g} mm apart, so it is in metres; export it in mm"
        )
    slices = _without_twins(slices, series.size, normal, notes)
    positions = np.array([one.position_mm for one in slices])
    rounding = _rounding_mm(positions)
    straight = max(SHEAR_TOLERANCE_MM, 1.5 * rounding, 3 * cosine_rounding * extent)
    leaves = (positions - positions[0]) @ np.stack([rows, columns]).T
    if SHEAR_TOLERANCE_MM < np.abs(leaves).max() <= straight and cosine_rounding > LARGEST_COSINE_ROUNDING:
        # The positions know the normal better than cosines with two or three decimals.
        normal = (positions[-1] - positions[0]) / np.linalg.norm(positions[-1] - positions[0])
        rows = rows - (rows @ normal) * normal
        rows = rows / np.linalg.norm(rows)
        columns = np.cross(normal, rows)
    along = positions @ normal
    spacing = median_of_known(one.spacing_between_mm for one in slices)
    gap, even = _gap_mm(along, [one.thickness_mm for one in slices], rounding, spacing, notes)
    return Stack(slices, rows, columns, normal, gap, even, straight)


def _rounding_mm(positions_mm: np.ndarray) -> float:
    """The coarsest decimal, of 1, 0.1 and 0.01 mm, to which all coordinates are rounded. 0 if they are finer."""
    for step in (1.0, 0.1, 0.01):
        if np.abs(positions_mm / step - np.rint(positions_mm / step)).max() < 1e-4:
            return step
    return 0.0


def _without_twins(
    slices: Sequence[Slice], size: tuple[int, int], normal: np.ndarray, notes: list[Message]
) -> list[Slice]:
    """Slices without exact copies under another UID. ValueError if different images share a position."""
    kept: list[Slice] = []
    dropped = 0
    for one in slices:
        if kept and abs(np.dot(np.subtract(one.position_mm, kept[-1].position_mm), normal)) < GAP_TOLERANCE_MM:
            these, others = pixels_of([one, kept[-1]], size)
            if not np.array_equal(these, others):
                count = sum(abs(np.dot(np.subtract(o.position_mm, one.position_mm), normal)) < GAP_TOLERANCE_MM
                            for o in slices)  # fmt: skip
                raise ValueError(
                    f"it has {count} different images at one position; split it into series (phases, echoes) first"
                )
            dropped += 1
        else:
            kept.append(one)
    if dropped:
        notes.append(Message("image_copies", {"n": dropped}))
    if len(kept) < FEWEST_SLICES:
        raise ValueError(f"it has {len(kept)} positions, too few for a volume")
    return kept


def _gap_mm(
    along: np.ndarray,
    thickness_mm: Sequence[float | None],
    rounding_mm: float,
    spacing_mm: float | None,
    notes: list[Message],
) -> tuple[float, bool]:
    """Distance of the slices on the straight grid, and whether they lie so already.

    Args:
        along: Positions along the normal, in order.
        thickness_mm: Of each slice.
        rounding_mm: To which the positions are rounded.
        spacing_mm: SpacingBetweenSlices, None if the headers do not say it.
        notes: Takes a message for every two slices that lie much nearer to each other than the others.
    """
    gaps, n = np.diff(along), len(along)
    usual = float(np.quantile(gaps, 0.5, method="lower"))
    tolerance = max(GAP_TOLERANCE * usual, GAP_TOLERANCE_MM)
    fitted, start = np.polyfit(np.arange(n), along, 1)
    off_mm = float(np.abs(along - (start + fitted * np.arange(n))).max())
    if np.all(np.abs(gaps - usual) <= tolerance) and off_mm <= max(tolerance, LARGEST_DRIFT * usual):
        return float((along[-1] - along[0]) / (n - 1)), True
    # Positions in whole mm may be rounded or be meant so: the gap that the headers say decides.
    said = [mm for mm in (spacing_mm, median_of_known(thickness_mm)) if mm is not None]
    if off_mm <= 0.87 * rounding_mm and (
        rounding_mm < 1 or any(equal_within_rounding(fitted, mm, 0, GAP_TOLERANCE) for mm in said)
    ):
        return float(fitted), True
    thinner = [None if a is None or b is None else min(a, b) for a, b in pairwise(thickness_mm)]
    near = np.array([
        gap < 0.5 * usual and (mm is None or gap < 0.5 * mm) for gap, mm in zip(gaps, thinner, strict=True)
    ])  # fmt: skip
    smallest = float(gaps[~near].min())
    # Slices that overlap are as thick as the hole that a missing one leaves: then thickness explains nothing.
    shares = [mm / gap for mm, gap in zip(thinner, gaps, strict=True) if mm is not None]
    overlapping = bool(shares) and float(np.median(shares)) > 1.05
    for at, gap in enumerate(gaps):
        explained = [mm for mm in thickness_mm[at : at + 2] if mm is not None]
        if gap > LARGEST_GAP_RATIO * smallest and (overlapping or not explained or max(explained) < 0.95 * gap):
            if gap > 1.5 * usual:
                missing = max(1, round(gap / usual) - 1)
                raise ValueError(
                    f"slices are missing: {gap:.3g} mm between images {at + 1} and {at + 2} of {n}, {usual:.3g} mm "
                    f"between the others, about {missing} lost; export the series again"
                )
            raise ValueError(
                f"its slices lie at uneven distances, {gaps.min():.3g} to {gaps.max():.3g} mm, which their thickness does "
                "not explain; export the series again"
            )
    usual = float(np.quantile(gaps[~near], 0.5, method="lower"))
    planes = int((along[-1] - along[0]) / usual + 1e-6) + 1
    if planes > MOST_PLANES_PER_IMAGE * n:
        raise ValueError(
            f"its slices lie at uneven distances, {smallest:.3g} to {gaps.max():.3g} mm: an even grid of {usual:.3g} mm "
            f"would have {planes} planes for {n} images; export thin and thick slices as two series, or with even gaps"
        )
    short = np.flatnonzero(gaps * LARGEST_GAP_RATIO < usual)
    if len(short) > MOST_SHORT_GAPS:
        notes.append(Message("short_gaps", {"n": len(short), "mm": usual}))
    else:
        notes += [
            Message("images_too_close", {"at": at + 1, "next": at + 2, "n": n, "mm": gaps[at], "usual": usual})
            for at in short
        ]
    return usual, False


def reach_of(shift_mm: np.ndarray, series: Series) -> tuple[np.ndarray, np.ndarray]:
    """First and last whole pixel `(x, y)` that slices shifted by so much start at."""
    pixel = np.array(series.spacing_mm[::-1])
    low = np.floor(shift_mm.min(axis=0) / pixel + 1e-6).astype(int)
    return low, np.ceil(shift_mm.max(axis=0) / pixel - 1e-6).astype(int)
