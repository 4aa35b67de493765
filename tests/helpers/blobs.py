"""Volumes of random ellipsoids, which have detail along every axis, and slices of them."""

from __future__ import annotations

import numpy as np

from nnunet_ext.superresolution.learning import Slice


def blobs(seed: int, shape=(60, 56, 48), spacing_mm=(1.0, 1.0, 1.0)) -> np.ndarray:
    """A volume `(Z, Y, X)` of ellipsoids of 2 to 10 mm in every direction, about 100 +- 300."""
    rng = np.random.default_rng(seed)
    points = np.stack(
        np.meshgrid(*[(np.arange(n) + 0.5) * mm for n, mm in zip(shape, spacing_mm, strict=True)], indexing="ij"), -1
    ).astype(np.float32)
    values = np.zeros(shape, np.float32)
    for _ in range(35):
        centre, radii_mm = rng.uniform(0, 1, 3) * np.multiply(shape, spacing_mm), rng.uniform(2, 10, 3)
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        inside_mm = (1 - np.linalg.norm((points - centre) @ turn / radii_mm, axis=-1)) * radii_mm.min()
        values += (rng.uniform(-1, 1) * np.clip(inside_mm + 0.5, 0, 1)).astype(np.float32)
    return values * 300 + 100


def slices_in(volume: np.ndarray, every: int, pixel_mm=(1.0, 1.0), channel: int = 0) -> list[Slice]:
    """Some slices of a volume."""
    spread = float(volume.std())
    return [Slice(volume[k], pixel_mm, channel, spread) for k in range(0, len(volume), every)]
