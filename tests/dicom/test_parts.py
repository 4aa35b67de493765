"""Volumes of one series, on positions and traits alone: no file is written."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_ext.dicom.parts import Part, split_volumes
from nnunet_ext.dicom.traits import Traits


def stack(n: int = 10, gap_mm: float = 2.5, start_mm: float = 0.0, **traits) -> list[tuple[float, Traits]]:
    """Images `(mm, traits)` of one volume; a trait may be a function of the slice number, or one value for all."""
    return [
        (start_mm + gap_mm * k, Traits(**{name: of(k) if callable(of) else of for name, of in traits.items()}))
        for k in range(n)
    ]


def split(
    images: list[tuple[float, Traits]],
    *,
    thickness_mm: float | None = 2.5,
    spacing_mm: float | None = None,
    modality: str = "CT",
) -> list[Part]:
    """In any order of the files."""
    order = np.random.default_rng(0).permutation(len(images))
    return split_volumes(
        [images[k][0] for k in order],
        [images[k][1] for k in order],
        thickness_mm=thickness_mm,
        spacing_mm=spacing_mm,
        modality=modality,
    )


def counts(parts: list[Part]) -> dict[str, int]:
    return {", ".join(part.name): len(part.images) for part in parts}


def pass_of(
    first: int, step_mm: float = 11.0, n: int = 6, start_mm: float = 0.0, **traits
) -> list[tuple[float, Traits]]:
    return stack(n, step_mm, start_mm, **{"acquisition": float(first), **traits})


ONE_VOLUME = {
    "plain": (stack(), {}),
    "numbered slice by slice": (stack(acquisition=float), {}),
    "timed slice by slice": (stack(30, time=lambda k: 36000 + 0.4 * k), {}),
    "timed slice by slice, 5 mm slices every 2.5 mm": (stack(30, time=float), {"thickness_mm": 5}),
    "numbers without order, 5 mm slices every 2.5 mm": (
        stack(30, instance=lambda k: float(k * 7 % 30)), {"thickness_mm": 5}),
    "slabs of four slices": (stack(40, acquisition=lambda k: float(k // 4)), {}),
    "slabs of three slices, 5 mm every 2.5 mm": (
        stack(30, acquisition=lambda k: float(k // 3)), {"thickness_mm": 5}),
    "two slabs": (stack(acquisition=1.0) + stack(start_mm=25, acquisition=2.0), {}),
    "two slabs that share two places": (stack(acquisition=1.0) + stack(start_mm=20, acquisition=2.0), {}),
    "two passes": (
        pass_of(1) + pass_of(2, start_mm=5.5), {"thickness_mm": 5, "modality": "MR"}),
    "two passes, contiguous": (
        pass_of(1, 10) + pass_of(2, 10, start_mm=5), {"thickness_mm": 5, "modality": "MR"}),
    "two passes that overlap a little": (
        pass_of(1, 9) + pass_of(2, 9, start_mm=4.5), {"thickness_mm": 5, "modality": "MR"}),
    "two passes of thick slices, spacing named": (
        pass_of(1, 9) + pass_of(2, 9, start_mm=4.5), {"thickness_mm": 6, "spacing_mm": 4.5, "modality": "MR"}),
    "two passes, not quite even": (
        pass_of(1) + pass_of(2, start_mm=5.3), {"thickness_mm": 5, "modality": "MR"}),
    "three passes": (
        pass_of(1, 16.5) + pass_of(2, 16.5, start_mm=5.5) + pass_of(3, 16.5, start_mm=11),
        {"thickness_mm": 5, "modality": "MR"}),
    "two passes by time": (
        pass_of(1, time=36000.0) + pass_of(1, start_mm=5.5, time=36120.0), {"thickness_mm": 5, "modality": "MR"}),
    "two passes by number of the image": (
        pass_of(1, instance=lambda k: k + 1.0) + pass_of(1, start_mm=5.5, instance=lambda k: k + 7.0),
        {"thickness_mm": 5, "modality": "MR"}),
    "two passes without a thickness": (
        pass_of(1) + pass_of(2, start_mm=5.5), {"thickness_mm": None, "modality": "MR"}),
    "types that differ from slice to slice": (stack(kind=lambda k: "A" if k % 2 else "B"), {}),
    "echo times that differ by rounding": (stack(echo=lambda k: 12.3 if k % 2 else 12.30001), {"modality": "MR"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", ONE_VOLUME)
def test_images_of_one_volume_stay_together(kind: str):
    images, options = ONE_VOLUME[kind]
    parts = split(images, **options)
    assert counts(parts) == {"": len(images)}


def clock(minute: int):
    return lambda k: 36000 + 60 * minute + 0.4 * k


SEVERAL = {
    "two acquisitions, half a slice apart": (
        stack(acquisition=1.0) + stack(start_mm=1.25, acquisition=2.0), {},
        {"acquisition 1": 10, "acquisition 2": 10}),
    "a quarter of a slice apart": (
        stack(acquisition=3.0) + stack(start_mm=0.6, acquisition=7.0), {}, {"acquisition 3": 10, "acquisition 7": 10}),
    "hardly apart": (
        stack(acquisition=1.0) + stack(start_mm=0.06, acquisition=2.0), {},
        {"acquisition 1": 10, "acquisition 2": 10}),
    "at the same places": (
        stack(acquisition=1.0) + stack(acquisition=2.0), {}, {"acquisition 1": 10, "acquisition 2": 10}),
    "three, a third apart": (
        stack(acquisition=1.0) + stack(start_mm=0.83, acquisition=2.0) + stack(start_mm=1.67, acquisition=3.0), {},
        {"acquisition 1": 10, "acquisition 2": 10, "acquisition 3": 10}),
    "some slices again, half a slice apart": (
        stack(30, acquisition=1.0) + stack(8, start_mm=21.25, acquisition=2.0), {},
        {"acquisition 1": 30, "acquisition 2": 8}),
    "some slices again": (
        stack(30, acquisition=1.0) + stack(8, start_mm=20, acquisition=2.0), {},
        {"acquisition 1": 30, "acquisition 2": 8}),
    "known by one time each": (
        stack(time=36000.0) + stack(start_mm=1.25, time=36300.0), {}, {"time 1": 10, "time 2": 10}),
    "known by a pause": (stack(time=clock(0)) + stack(start_mm=1.25, time=clock(5)), {}, {"time 1": 10, "time 2": 10}),
    "known by the numbers of the images": (
        stack(instance=lambda k: k + 1.0) + stack(start_mm=1.25, instance=lambda k: k + 1001.0), {},
        {"part 1": 10, "part 2": 10}),
    "without a thickness": (
        stack(acquisition=1.0) + stack(start_mm=1.25, acquisition=2.0), {"thickness_mm": None},
        {"acquisition 1": 10, "acquisition 2": 10}),
    "MR with gaps as wide as its slices": (
        stack(gap_mm=6, acquisition=1.0) + stack(gap_mm=6, start_mm=3, acquisition=2.0),
        {"thickness_mm": 3, "spacing_mm": 6, "modality": "MR"}, {"acquisition 1": 10, "acquisition 2": 10}),
    "six echoes": (
        [image for te in (1.6, 3.5, 5.4, 7.2, 9.1, 11.0) for image in stack(echo=te)], {"modality": "MR"},
        {f"echo {k}": 10 for k in range(1, 7)}),
    "echoes of which one lost a slice": (
        stack(echo=1.6) + stack(echo=3.5)[:-1], {"modality": "MR"}, {"echo 1": 10, "echo 2": 9}),
    "echoes in whole ms at some slices": (
        stack(echo=lambda k: 1.69 if k % 2 else 2.0) + stack(echo=lambda k: 3.55 if k % 2 else 4.0), {"modality": "MR"},
        {"echo 1": 10, "echo 2": 10}),
    "echoes at positions that differ by rounding": (
        stack(echo=1.6) + stack(start_mm=0.04, echo=3.5), {"modality": "MR"}, {"echo 1": 10, "echo 2": 10}),
    "echoes numbered as acquisitions": (
        stack(echo=1.6, acquisition=1.0) + stack(echo=3.5, acquisition=2.0), {"modality": "MR"},
        {"echo 1": 10, "echo 2": 10}),
    "two echoes of two acquisitions": (
        [one for at in (1, 2) for te in (1.6, 3.5) for one in stack(start_mm=1.25 * at, echo=te, acquisition=float(at))],
        {"modality": "MR", "spacing_mm": 2.5},
        {f"echo {te}, acquisition {at}": 10 for te in (1, 2) for at in (1, 2)}),
    "magnitude and phase of two echoes": (
        [one for kind in ("M", "P") for te in (4.92, 7.38) for one in stack(kind=f"ORIGINAL\\PRIMARY\\{kind}\\ND", echo=te)],
        {"modality": "MR"}, {f"type {kind}, echo {te}": 10 for kind in "MP" for te in (1, 2)}),
    "Dixon": (
        [one for kind in ("W", "F", "IP", "OP") for one in stack(kind=f"DERIVED\\PRIMARY\\{kind}\\{kind}\\DERIVED")],
        {"modality": "MR"}, {f"type {kind}": 10 for kind in ("F", "IP", "OP", "W")}),
    "with and without normalisation": (
        stack(kind="ORIGINAL\\PRIMARY\\M") + stack(kind="ORIGINAL\\PRIMARY\\M\\NORM"), {"modality": "MR"},
        {"type plain": 10, "type NORM": 10}),
    "echoes and their mean": (
        [one for te in (1.6, 3.5) for one in stack(kind="ORIGINAL\\M", echo=te)] + stack(kind="ORIGINAL\\MEAN", echo=1.6),
        {"modality": "MR"}, {"type M, echo 1": 10, "type M, echo 2": 10, "type MEAN": 10}),
    "b-values": (stack(b=0.0) + stack(b=1000.0), {"modality": "MR"}, {"b 0": 10, "b 1000": 10}),
    "two inversions": (
        stack(inversion=700.0) + stack(inversion=2500.0), {"modality": "MR"}, {"inversion 1": 10, "inversion 2": 10}),
    "two energies": (stack(kvp=80.0) + stack(kvp=140.0), {}, {"kVp 80": 10, "kVp 140": 10}),
    "two kernels": (stack(kernel="B30f") + stack(kernel="H60s"), {}, {"kernel B30f": 10, "kernel H60s": 10}),
    "time points": (
        [one for at in (1.0, 2.0, 3.0) for one in stack(temporal=at)], {"modality": "MR"},
        {f"time {k}": 10 for k in (1, 2, 3)}),
    "time points that each slice counts by itself": (
        [one for at in (0, 1) for one in stack(time=lambda k, at=at: 36000 + 20 * k + 7 * at)], {},
        {"time 1": 10, "time 2": 10}),
    "phases of the heart, by each slice's own beat": (
        [one for at in (0, 1) for one in stack(trigger=lambda k, at=at: (30 + k) * at + 1.0)], {"modality": "MR"},
        {"time 1": 10, "time 2": 10}),
    "a volume and one that says nothing": (
        stack(acquisition=1.0) + stack(), {}, {"acquisition none": 10, "acquisition 1": 10}),
}  # fmt: skip


@pytest.mark.parametrize("kind", SEVERAL)
def test_volumes_of_one_series_are_told_apart(kind: str):
    images, options, expected = SEVERAL[kind]
    parts = split(images, **options)
    assert counts(parts) == expected
    assert sorted(k for part in parts for k in part.images) == list(range(len(images)))


def test_echo_times_and_numbers_of_images_are_said():
    parts = split(stack(echo=4.92) + stack(echo=7.38), modality="MR")
    assert [part.note for part in parts] == ["TE 4.92 ms", "TE 7.38 ms"]
    parts = split(stack(instance=lambda k: k + 1.0) + stack(start_mm=1.25, instance=lambda k: k + 1001.0))
    assert [part.note for part in parts] == ["images 1 to 10", "images 1001 to 1010"]


def test_images_that_only_their_order_tells_apart_are_one_volume_with_parts():
    # They may be copies of each other, which only the pixels can say.
    (whole,) = split(stack(instance=lambda k: k + 1.0) + stack(instance=lambda k: k + 11.0))
    assert len(whole.images) == 20
    assert counts(list(whole.rest)) == {"part 1": 10, "part 2": 10}
    assert [part.note for part in whole.rest] == ["images 1 to 10", "images 11 to 20"]


def test_an_image_that_was_taken_twice_splits_nothing():
    again = stack(1, start_mm=5, acquisition=2.0)
    (whole,) = split(stack(acquisition=1.0) + again)
    assert (len(whole.images), whole.rest) == (11, ())
