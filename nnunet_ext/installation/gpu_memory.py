"""Which `-gpu_memory_target` of nnU-Net's planning suits which graphics card."""

from __future__ import annotations

import math

#: Memory in GiB that a training takes beside what grows with the target. nnU-Net publishes for its residual networks
#: (documentation/resenc_presets.md, by nvidia-smi) 9.1 at a target of 8, 22.7 at 24 and 36.6 at 40. They lie on the line
#: 2.2 + 0.86 x target to 0.2. AdamW keeps one more value per weight than SGD, 0.4 for 102 million weights. The
#: other 0.2 are room for what augmentation computes on the GPU, which was not measured.
BESIDE_THE_TARGET_GIB = 2.8
PER_TARGET_GB = 0.86
#: Share of a card's memory that a training may count on. A display, other programs and gaps between tensors take the rest.
USABLE_SHARE = 0.94
#: Below this target, the full planner has no room for patches of a useful size.
LEAST_TARGET_GB = 4


def training_memory_gib(target_gb: float) -> float:
    """Memory in GiB that a training takes, if its plan fills the target."""
    return BESIDE_THE_TARGET_GIB + PER_TARGET_GB * target_gb


def memory_target_gb(card_gib: float) -> int | None:
    """The largest whole `-gpu_memory_target` whose training fits a card. None if it is below `LEAST_TARGET_GB`.

    Args:
        card_gib: All memory of the card in GiB of 1024^3 bytes, as `nvidia-smi` counts it.
    """
    usable_gib = USABLE_SHARE * card_gib
    # The line ends at 40. Above it, the target stays below the memory itself.
    target = math.floor(min((usable_gib - BESIDE_THE_TARGET_GIB) / PER_TARGET_GB, usable_gib))
    return target if target >= LEAST_TARGET_GB else None
