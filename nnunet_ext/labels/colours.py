"""The colour of each organ, the same in every picture, page and RTSTRUCT."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.labels.sides import organ_word, side_of
from nnunet_ext.labels.values import organ_values

#: The colours of `ORGANS`. All are bright on grey images. Neighbours and left/right partners differ clearly.
COLOURS = ("#35d0ff", "#ff9a1f", "#fff04d", "#ff6ad5", "#5cff6a", "#ff5a4f", "#b98cff")
#: Further labels take the palette `tab20` of matplotlib. It is copied here, so that matplotlib need not be imported.
FURTHER_COLOURS = (
    "#1f77b4", "#aec7e8", "#ff7f0e", "#ffbb78", "#2ca02c", "#98df8a", "#d62728",
    "#ff9896", "#9467bd", "#c5b0d5", "#8c564b", "#c49c94", "#e377c2", "#f7b6d2",
    "#7f7f7f", "#c7c7c7", "#bcbd22", "#dbdb8d", "#17becf", "#9edae5",
)  # fmt: skip


def colours(labels: Mapping[str, int]) -> dict[str, str]:
    """Organ -> colour. Each of `ORGANS` has its own, whatever its place in `labels` and the spelling of its name.

    Other organs take the colours that are free, in label order.
    """
    fixed = dict(zip(ORGANS, COLOURS, strict=True))
    found: dict[str, str | None] = {}
    for organ in organ_values(labels):
        colour = fixed.get(_standard_name(organ))
        found[organ] = None if colour in found.values() else colour
    free = cycle([colour for colour in (*COLOURS, *FURTHER_COLOURS) if colour not in found.values()])
    return {organ: colour or next(free) for organ, colour in found.items()}


def _standard_name(organ: str) -> str:
    """TG-263 name of an organ that the package knows, `Eye_L` for `left_eye`. Any other name has its side at its end too."""
    side = side_of(organ)
    return organ_word(organ) if side is None else f"{organ_word(organ)}_{side.side}"
