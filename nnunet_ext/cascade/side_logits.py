"""Logits of left and right organs from what an organ is and which side it is on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

#: Maps of a network beside those of the organs: left, right.
N_SIDES = 2


class SideLogits(nn.Module):
    """Makes a logit per label of one logit per organ and two for the side, at every voxel.

    A label's logit is its organ's plus the log-probability of its side, `logit(Eye_L) = eye + log p(left)`. So a softmax
    over labels is the organ's probability times that of the side. What an eye is, and what left is, are learned once each,
    by all pairs together. Labels without a partner and the background are organs of their own.

    Args:
        n_labels: With the background.
        left_right_pairs: Label values `(left, right)`.

    Raises:
        ValueError: If a value is no label, or in two pairs.
    """

    def __init__(self, n_labels: int, left_right_pairs: Sequence[Sequence[int]]) -> None:
        super().__init__()
        values = [int(value) for pair in left_right_pairs for value in pair]
        if (
            len(set(values)) < len(values)
            or not all(1 <= v < n_labels for v in values)
            or any(map(_no_pair, left_right_pairs))
        ):
            raise ValueError(
                f"arch_kwargs.left_right_pairs is {[list(p) for p in left_right_pairs]} in the plan; it must be pairs of "
                f"different labels, from 1 to {n_labels - 1}"
            )
        partner = {int(right): int(left) for left, right in left_right_pairs}
        own = [label for label in range(n_labels) if label not in partner]
        #: Map of the organ of each label.
        self.organ = [own.index(partner.get(label, label)) for label in range(n_labels)]
        lefts, rights = ({int(pair[i]) for pair in left_right_pairs} for i in range(N_SIDES))
        #: Map of the side of each label, or None.
        self.side = [0 if label in lefts else 1 if label in rights else None for label in range(n_labels)]
        #: Maps that the network makes.
        self.n_maps = len(own) + N_SIDES

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Logits `(B, labels, Z, Y, X)` of maps `(B, n_maps, Z, Y, X)`, organs first."""
        side = maps[:, -N_SIDES:].float().log_softmax(1).to(maps.dtype)
        logits = []
        for organ, at in zip(self.organ, self.side, strict=True):
            logit = maps[:, organ : organ + 1]
            logits.append(logit if at is None else logit + side[:, at : at + 1])
        return torch.cat(logits, 1)


def _no_pair(pair: Sequence[int]) -> bool:
    return len(pair) != N_SIDES
