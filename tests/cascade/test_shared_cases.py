"""Cases in a file that several processes map. How much memory two processes take: `tests/trainers`."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_ext.cascade.roi_dataset import StoredCase
from nnunet_ext.cascade.shared_cases import read_cases, write_cases


def case(seed: int, shape: tuple[int, ...], *, with_map: bool) -> StoredCase:
    rng = np.random.default_rng(seed)
    return StoredCase(
        data=rng.random((3, *shape), dtype=np.float32)[:, ::-1],
        seg=rng.integers(-1, 8, (1, *shape)).astype(np.int16),
        localizer_map=rng.integers(0, 8, shape).astype(np.uint8) if with_map else None,
        properties={"class_locations": {1: np.arange(4)[None]}, "spacing": [2.5, 1.0, 1.0]},
        box=((1, 1 + shape[0]), (0, shape[1]), (2, 2 + shape[2])),
        shape=tuple(n + 3 for n in shape),
    )


def test_cases_come_back_as_they_were_and_cannot_be_written_to(tmp_path):
    cases = {"a": case(0, (3, 5, 7), with_map=True), "b": case(1, (4, 4, 9), with_map=False)}
    n_bytes = write_cases(cases.items(), tmp_path)
    assert n_bytes == sum(c.n_bytes for c in cases.values())
    back = read_cases(tmp_path)
    assert list(back) == ["a", "b"]
    for name, expected in cases.items():
        got = back[name]
        assert np.array_equal(got.data, expected.data)
        assert np.array_equal(got.seg, expected.seg)
        assert (got.data.dtype, got.seg.dtype) == (np.float32, np.int16)
        assert (got.box, got.shape) == (expected.box, expected.shape)
        assert got.properties["spacing"] == [2.5, 1.0, 1.0]
        assert np.array_equal(got.properties["class_locations"][1], [[0, 1, 2, 3]])
        with pytest.raises(ValueError, match="read-only"):
            got.data[0] = 0
    assert np.array_equal(back["a"].localizer_map, cases["a"].localizer_map)
    assert back["b"].localizer_map is None
    part = back["b"].cut(((1, 3), (0, 4), (2, 8)))
    part.data[:] = 0  # a copy, which transforms may change
    assert np.array_equal(back["b"].data, cases["b"].data)


def test_no_case_is_an_empty_file(tmp_path):
    assert write_cases([], tmp_path) == 0
    assert read_cases(tmp_path) == {}
