"""Edits of a configuration of the plan, of which systems and recipes are made."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np

#: Changes a configuration in place. It has all entries that it inherits.
Edit = Callable[[dict], None]


def unchanged(_configuration: dict) -> None:
    """The planner's configuration."""


def recipe(**options: object) -> Edit:
    return lambda c: c["recipe"].update(options)


def learning_rate(initial_lr: float, **options: object) -> Edit:
    """A rate, and options of the recipe."""

    def edit(c: dict) -> None:
        c["recipe"].update(options)
        c["training"]["initial_lr"] = initial_lr

    return edit


def network(**options: object) -> Edit:
    return lambda c: c["architecture"]["arch_kwargs"].update(options)


def features(base: int, most: int = 320) -> Edit:
    """So many features in the first stage. They double per stage up to nnU-Net's limit."""

    def edit(c: dict) -> None:
        arch = c["architecture"]["arch_kwargs"]
        arch["features_per_stage"] = [min(most, base * 2**stage) for stage in range(arch["n_stages"])]

    return edit


def entries(**options: object) -> Edit:
    return lambda c: c.update(options)


def patch(share: float, batch_size: int) -> Edit:
    """Patches of a share of the ROI's length along each axis, rounded up to a size that the network can halve."""

    def edit(c: dict) -> None:
        step = np.prod(c["architecture"]["arch_kwargs"]["strides"], axis=0)
        roi = np.round(np.divide(c["roi"]["size_mm"], c["spacing"]))
        c["patch_size"] = [int(n) for n in step * np.ceil(share * roi / step - 1e-6)]
        c["batch_size"] = batch_size

    return edit


def resolved(plans: Mapping, configuration: str) -> dict:
    """A configuration with the entries that it inherits, so that one edit reaches all of it."""
    own = copy.deepcopy(plans["configurations"][configuration])
    parent = own.pop("inherits_from", None)
    return own if parent is None else {**resolved(plans, parent), **own}


def factorised_sides(pairs: Sequence[Sequence[int]]) -> Edit:
    """One logit per organ and two for the side, for these pairs of label values."""
    return network(left_right_pairs=[list(pair) for pair in pairs])
