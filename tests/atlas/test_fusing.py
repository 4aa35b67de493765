"""Fusion on a row of voxels, by numbers that can be worked out on paper."""

import numpy as np
import pytest

from nnunet_ext.atlas.fusing import staple, vote

ORGANS = {"Eye_L": 1, "Eye_R": 2}


def row(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, 1, -1)


def test_a_vote_is_the_weighted_mean_of_shares():
    seen = [{"Eye_L": row(1, 1, 0, 0)}, {"Eye_L": row(0, 1, 0, 0)}, {"Eye_L": row(0, 1, 1, 0)}]
    assert vote(seen, (1, 1, 1), ORGANS, (1, 1, 4)).ravel().tolist() == [0, 1, 0, 0]
    assert vote(seen, (3, 1, 1), ORGANS, (1, 1, 4)).ravel().tolist() == [1, 1, 0, 0]


def test_at_a_tie_an_organ_goes_before_background_and_the_first_before_the_others():
    seen = [{"Eye_L": row(0.5, 0.5, 0.2), "Eye_R": row(0, 0.5, 0.2)}]
    assert vote(seen, (1,), ORGANS, (1, 1, 3)).ravel().tolist() == [1, 1, 0]


@pytest.mark.parametrize("fuse", ["vote", "staple"])
def test_an_atlas_that_lacks_an_organ_has_no_say_on_it(fuse):
    seen = [{"Eye_L": row(1, 0, 0), "Eye_R": row(0, 0, 1)}, {"Eye_L": row(1, 0, 0)}, {"Eye_L": row(1, 0, 0)}]
    shape = (1, 1, 3)
    found = (
        vote(seen, (1, 1, 1), ORGANS, shape) if fuse == "vote" else staple(seen, ORGANS, shape, spacing_mm=(1, 1, 1))
    )
    assert found.ravel().tolist() == [1, 0, 2]


def ball(centre: tuple[int, int, int]) -> np.ndarray:
    at = np.indices((20, 20, 20)).T.reshape(20, 20, 20, 3)[..., ::-1]
    return (((at - centre) ** 2).sum(-1) <= 25).astype(np.float32).transpose(2, 1, 0)


def test_staple_follows_those_that_agree():
    seen = [{"Eye_R": ball(c)} for c in ((10, 10, 10), (10, 10, 10), (10, 10, 11), (10, 14, 10))]
    found = staple(seen, ORGANS, (20, 20, 20), spacing_mm=(1.0, 0.8, 0.7)) == 2
    agreed = seen[0]["Eye_R"] > 0.5
    assert 2 * np.count_nonzero(found & agreed) / (found.sum() + agreed.sum()) > 0.9
    assert not found[ball((10, 14, 10)).astype(bool) & ~ball((10, 10, 10)).astype(bool)].all()


def test_nothing_seen_is_background():
    shape = (1, 1, 3)
    assert not vote([{}], (1,), ORGANS, shape).any()
    assert not staple([{"Eye_L": row(0, 0, 0)}], ORGANS, shape, spacing_mm=(1, 1, 1)).any()
