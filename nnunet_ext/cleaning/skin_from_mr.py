"""The skin as the MR shows it, where a fixation mask lies on the skin of the CT."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from nnunet_ext.cleaning.fixation_mask import SHELL_MM
from nnunet_ext.cleaning.morphology import box_widths, extreme_filter, fill_slices, grown
from nnunet_ext.cleaning.thresholds import BONE_HU

#: Voxels half air by their HU have this share of the skin's brightness in an MR that lies where the CT lies: 0.21..0.42
#: on phantoms. Beyond, the MR is not trusted with the skin.
HALF_VOXEL_SHARE = (0.10, 0.45)
#: Nor where more of these voxels than this are as bright as skin: 0..0.05 on phantoms, 0.1..0.4 with the MR 2 mm beside.
MOST_BRIGHT = 0.15
#: Of that share, to lose no tissue where the MR is up to a millimetre off.
CAUTION = 0.7
#: Less of the CT's outline than this seen by the MR: it lies elsewhere, or the mask covers everything.
LEAST_BARE_SKIN = 0.4
#: Bone with this much skin over it is never taken off by the MR.
SKIN_OVER_BONE_MM = 2.0


def body_seen_by_mr(
    body: np.ndarray,
    ct_hu: np.ndarray,
    mr: Sequence[tuple[np.ndarray, np.ndarray | None]],
    *,
    spacing_mm: Sequence[float],
) -> np.ndarray | None:
    """The body without the part of a fixation mask that lies on the skin: no MR shows it.

    On the CT alone such a sheet is skin. Here voxels up to `SHELL_MM` below the outline are taken off where the MR is as
    dark as air; how dark is learnt from this case, from voxels that are half air by their HU on bare skin. A hole as
    deep as the shell is no mask but a signal void (metal, the end of the coil) and is left; so are bone, which is dark in
    MR too, and the skin over it.

    Args:
        body: Bool `(Z, Y, X)`, from the CT.
        ct_hu: The CT.
        mr: One or more MR images on the grid of the CT, each with its field of view (None: everywhere).
        spacing_mm: Voxel size along `(Z, Y, X)`.

    Returns:
        Bool `(Z, Y, X)`, a part of `body`, or `body` where no skin is soft enough to learn from. None where the MR does
        not lie where the CT lies, to about 2 mm sideways (a shift along the body's axis moves little skin, and shows
        later).
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    if not body.any() or not mr:
        return None
    box = tuple(
        slice(max(0, s.start - margin), s.stop + margin)
        for s, margin in zip(
            ndimage.find_objects(body.view(np.uint8))[0],
            np.ceil(2 * SHELL_MM / spacing).astype(int).tolist(),
            strict=True,
        )
    )
    inside, ct = body[box], ct_hu[box]
    deep = extreme_filter(inside, box_widths(2 * SHELL_MM, spacing), erode=True)
    shell = inside & ~deep
    around = ~extreme_filter(inside, box_widths(2 * SHELL_MM, spacing), erode=False)
    flesh = extreme_filter(inside, box_widths(4.0 + spacing.min(), spacing), erode=True) & shell
    brightness, seen = np.zeros(inside.shape, np.float32), np.zeros(inside.shape, np.float32)
    for image, covered in mr:
        view = np.ones(inside.shape, bool) if covered is None else covered[box]
        if not (flesh & view).any():
            continue
        values = image[box].astype(np.float32)
        air = float(np.median(values[around & view])) if (around & view).any() else float(values[view].min())
        tissue = float(np.median(values[flesh & view]))
        if tissue > air:
            brightness += np.clip((values - air) / (tissue - air), 0, 1) * view
            seen += view
    brightness /= np.maximum(seen, 1)
    outline = ndimage.binary_dilation(inside) & ~ndimage.binary_erosion(inside)
    half = brightness[outline & (ct > -700) & (ct < -300) & (seen > 0)]
    bare = half[half > 0.1]
    if half.size < 50:  # no soft edge to learn from
        return body
    if bare.size < LEAST_BARE_SKIN * half.size:
        return None
    share = float(np.median(bare))
    if not HALF_VOXEL_SHARE[0] <= share <= HALF_VOXEL_SHARE[1] or float(np.mean(bare > 0.8)) > MOST_BRIGHT:
        return None
    dark = shell & (seen > 0) & (brightness < CAUTION * share)
    # Bone is as dark as air in MR, and so may be the thin skin over it.
    bone = grown(inside & (ct > BONE_HU), inside, SKIN_OVER_BONE_MM, spacing)
    kept = fill_slices(inside & (~dark | bone))
    taken = inside & ~kept
    void = taken & ndimage.binary_dilation(deep)
    if void.any():
        kept |= grown(void, taken, SHELL_MM, spacing)
    result = np.zeros_like(body)
    result[box] = kept & inside
    return result
