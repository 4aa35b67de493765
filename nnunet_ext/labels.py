"""Organ names, left/right pairs and the table that maps the names users draw with to TG-263."""

from __future__ import annotations

from collections.abc import Mapping

#: Default labels in label order (value = position + 1), TG-263 names; the eye excludes its lens.
ORGANS = ("Eye_L", "Eye_R", "Lens_L", "Lens_R", "OpticNrv_L", "OpticNrv_R", "OpticChiasm")


def left_right_pairs(labels: Mapping[str, int]) -> list[tuple[int, int]]:
    """Label values of organs that come in a left and a right, read from the `_L`/`_R` ending of their names.

    Args:
        labels: nnU-Net's `labels` of a `dataset.json`: name -> label value. Region tuples are not supported.

    Returns:
        `(left, right)` label values, sorted; empty where no name has a partner.
    """
    pairs = []
    for name, left in labels.items():
        if name.endswith("_L"):
            right = labels.get(name[:-2] + "_R")
            if right is not None:
                pairs.append((int(left), int(right)))
    return sorted(pairs)
