"""Which part of a body the networks see: down to the lowest organ of the training set, with a margin.

A planning CT may go down to the shoulders or the diaphragm. Without a limit, the grid of the localizer, which holds a whole
body, and the statistics of an image would depend on where a CT ends. A trunk has no crown to measure from. If the images of
most cases end inside the body at the top, bodies are seen whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from nnunet_ext.cascade.roi import Box, OrganExtent
from nnunet_ext.cleaning.head import HEAD_MM, HeadPlace

#: Key of a plan. Without it the whole body is kept, as in plans of version 0.1.
PLANS_KEY = "head_crop"
#: Key of the plan of trunks, true if bodies are seen whole. It stands instead of `PLANS_KEY`.
WHOLE_KEY = "whole_body"
#: Room for a patient whose organs lie lower below the crown, or further out, than in the training set.
ROOM_MM = 30.0
#: Kept around the body, for partial volume at the skin and for a cleaning that removed a little too much.
BODY_MARGIN_MM = 10.0


@dataclass(frozen=True)
class HeadCrop:
    """How far the networks' image reaches.

    Attributes:
        below_crown_mm: From the crown down. None if bodies are seen whole.
        beyond_head_mm: Beyond the first and last row of the head, and its first and last column. The head is the body's
            uppermost 150 mm. Empty if bodies are seen whole.
    """

    below_crown_mm: float | None
    beyond_head_mm: tuple[tuple[float, float], ...]

    @classmethod
    def fit(cls, cases: Iterable[tuple[HeadPlace, Mapping[int, OrganExtent]]], room_mm: float = ROOM_MM) -> HeadCrop:
        """The reach of all organs of all cases, with room. The whole body if more than half of the cases have no crown.

        Args:
            cases: Head and organs, all along `(Z, Y, X)`.
            room_mm: Added on every side.
        """
        cases = list(cases)
        if sum(not place.has_crown for place, _ in cases) > len(cases) / 2:
            return cls(None, ())
        below = HEAD_MM  # a head is seen whole, whatever its organs
        beyond = np.zeros((2, 2))
        for place, organs in cases:
            for organ in organs.values():
                below = max(below, place.top * place.spacing_mm[0] - organ.lower_mm[0])
                for axis, (first, end) in enumerate(place.head):
                    mm = place.spacing_mm[axis + 1]
                    outside = first * mm - organ.lower_mm[axis + 1], organ.upper_mm[axis + 1] - end * mm
                    beyond[axis] = np.maximum(beyond[axis], outside)
        # The margin is there anyway. An organ inside the head asks for no more.
        beyond = np.where(beyond > 0, beyond + room_mm, BODY_MARGIN_MM)
        return cls(float(np.ceil(below + room_mm)), tuple((float(a), float(b)) for a, b in np.ceil(beyond)))

    def box(self, place: HeadPlace) -> Box:
        """Voxels of a volume that the networks see, along `(Z, Y, X)`."""
        if self.below_crown_mm is None:
            return place.whole_box(BODY_MARGIN_MM)
        return place.box(
            below_crown_mm=self.below_crown_mm, beyond_head_mm=self.beyond_head_mm, margin_mm=BODY_MARGIN_MM
        )

    def to_plan(self) -> dict:
        """Its entry in a plan, plain JSON."""
        if self.below_crown_mm is None:
            return {WHOLE_KEY: True}
        beyond = [list(pair) for pair in self.beyond_head_mm]
        return {PLANS_KEY: {"below_crown_mm": self.below_crown_mm, "beyond_head_mm": beyond}}

    @classmethod
    def from_plan(cls, plans: Mapping) -> HeadCrop | None:
        """Of a plan; None if it has none."""
        if plans.get(WHOLE_KEY):
            return cls(None, ())
        entry = plans.get(PLANS_KEY)
        if entry is None:
            return None
        return cls(float(entry["below_crown_mm"]), tuple((float(a), float(b)) for a, b in entry["beyond_head_mm"]))
