"""The colour of each organ, the same in every picture, page and RTSTRUCT."""

from __future__ import annotations

from collections.abc import Mapping

from nnunet_ext.labels.values import organ_values

#: One colour per label in label order. All are bright on grey images. Neighbours and left/right partners differ clearly.
COLOURS = ("#35d0ff", "#ff9a1f", "#fff04d", "#ff6ad5", "#5cff6a", "#ff5a4f", "#b98cff")
#: Further labels take the palette `tab20` of matplotlib. It is copied here, so that matplotlib need not be imported.
FURTHER_COLOURS = (
    "#1f77b4", "#aec7e8", "#ff7f0e", "#ffbb78", "#2ca02c", "#98df8a", "#d62728",
    "#ff9896", "#9467bd", "#c5b0d5", "#8c564b", "#c49c94", "#e377c2", "#f7b6d2",
    "#7f7f7f", "#c7c7c7", "#bcbd22", "#dbdb8d", "#17becf", "#9edae5",
)  # fmt: skip


def colours(labels: Mapping[str, int]) -> dict[str, str]:
    """Organ -> colour, fixed by the organ's place in `labels`."""
    palette = (*COLOURS, *FURTHER_COLOURS)
    return {organ: palette[i % len(palette)] for i, organ in enumerate(organ_values(labels))}
