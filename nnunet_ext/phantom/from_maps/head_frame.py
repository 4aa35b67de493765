"""The frame of a head in a label map: which way is left, where the chiasm is, and which voxel lies where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_ext.phantom.from_maps.map_labels import MapLabels
from nnunet_ext.phantom.shapes import unit

#: The halves of the brain lie side by side along the file's left-right axis, up to this angle.
MOST_TURNED_DEG = 40.0


@dataclass(frozen=True)
class HeadFrame:
    """Place of a label map's voxels in the frame of the head.

    Attributes:
        matrix: From mm in the frame of the head to indices, `(3, 3)`.
        offset: Index of the origin of the frame.
    """

    matrix: np.ndarray
    offset: np.ndarray

    def to_index(self, head_mm: np.ndarray) -> np.ndarray:
        """Points `(..., 3)` as indices, not rounded."""
        return head_mm @ self.matrix.T + self.offset

    def to_head_mm(self, index: np.ndarray) -> np.ndarray:
        """Indices `(..., 3)` as points."""
        return (index - self.offset) @ np.linalg.inv(self.matrix).T

    def cropped(self, start: np.ndarray) -> HeadFrame:
        """The same for an array that begins at voxel `start`."""
        return HeadFrame(self.matrix, self.offset - start)

    def box(self, points_mm: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """First and last + 1 voxel of a box that holds the box of some points, inside an array."""
        low, high = points_mm.min(axis=0), points_mm.max(axis=0)
        corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), axis=-1).reshape(-1, 3)
        index = self.to_index(corners)
        first = np.clip(np.floor(index.min(axis=0)).astype(int), 0, shape)
        return first, np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, first, shape)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(1 / abs(np.linalg.det(self.matrix))) / 1000

    @property
    def spacing_mm(self) -> float:
        """Edge of a cube of a voxel's volume."""
        return (self.voxel_ml * 1000) ** (1 / 3)


def find_frame(numbers: np.ndarray, chiasm: np.ndarray, to_world: np.ndarray, labels: MapLabels) -> HeadFrame:
    """Frame of the head in a label map.

    Left is the direction from the right to the left half of the brain. Up is that of the file, as far as it is at a right
    angle to it.

    Args:
        numbers: The label map, axes as its index.
        chiasm: Mask of the chiasm.
        to_world: From index to LPS in mm, `(4, 4)`.
        labels: Names the halves of the brain.

    Raises:
        ValueError: If the halves are missing, or do not lie as the file's axes have it.
    """
    left = np.array([1.0, 0.0, 0.0])
    if labels.left:
        middles = {}
        for side, of_side in (("left", labels.left), ("right", labels.right)):
            at = np.argwhere(np.isin(numbers[::2, ::2, ::2], list(of_side))) * 2.0
            if not len(at):
                raise ValueError(f"it has no voxel of the brain's {side} half, which [halves] names")
            middles[side] = to_world[:3, :3] @ at.mean(axis=0)
        turned = unit(middles["left"] - middles["right"]).astype(np.float64)
        if turned[0] < np.cos(np.deg2rad(MOST_TURNED_DEG)):
            raise ValueError(
                "the brain's left half does not lie to the left of its right half; check [halves] and the file's axes"
            )
        left = turned
    up = np.array([0.0, 0.0, 1.0])
    up = up - (up @ left) * left
    up /= np.linalg.norm(up)
    axes = np.stack([left, np.cross(up, left), up])  # rows: x, y, z of the frame
    matrix = np.linalg.inv(axes @ to_world[:3, :3])
    return HeadFrame(matrix, np.argwhere(chiasm).mean(axis=0))
