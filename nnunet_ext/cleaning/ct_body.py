"""The patient in a CT, told from couch and fixation mask by morphology."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nnunet_ext.cleaning.morphology import (
    block_mean,
    box_widths,
    close_mask,
    coarse_factors,
    deep_parts,
    deepest,
    enlarge,
    extreme_filter,
    fill_slices,
    flowed,
    grown,
    open_mask,
)
from nnunet_ext.cleaning.thresholds import edge_level

#: A voxel filled with soft tissue or fat, one whose neighbours may be only partly filled, and one that holds tissue.
FULL_HU, CORE_HU, TISSUE_HU = -150.0, -250.0, -300.0
#: Along a way through tissue that fell to partly filled voxels, a rise by more than this leads into something else.
RISE_HU = 100.0
#: Brighter than the air of a measured CT, with its noise and the glow of foam.
FAINT_HU = -700.0
#: Masks and couch shells are 1 to 3.5 mm thick: an opening of this width takes them off, and cuts their contacts.
SHEET_MM = 4.0
#: A second leg is about as deep as the first. No couch, rest or arm is so deep, beside a head or a trunk.
PART_SHARE = 0.7
#: What the opening takes off a rounded or folded skin is given back up to this far.
SKIN_MM = 3.0
#: A mask lies closer to the skin. What hangs together with the skin and stands off further is an ear or the nose.
STAND_OFF_MM = 4.0
#: No ear is longer than this.
EAR_MM = 25.0
#: Pores of the skin, and the slit between a lip or lobe and the skin: up to this wide they are closed within a slice.
PORE_MM = 7.0
#: The soft edge of the skin stays, but not this close to what is taken off, where it holds the mask's own edge.
MASK_EDGE_MM = 7.0
#: A loose piece in a cavity that is smaller than either is a thin wall whose way to the others is too faint to see.
LEAST_PIECE_VOXELS, LEAST_PIECE_ML = 200, 0.4
#: Fine pixels are averaged two by two as long as they stay this small: a gap below a mask must be seen.
LARGEST_WORKING_MM = 1.2
#: The body is looked for on a grid of about this voxel size first.
COARSE_MM = 2.5


@dataclass(frozen=True)
class CtBody:
    """The patient in a CT.

    Attributes:
        body: Bool `(Z, Y, X)`, skin and everything inside it, air cavities included.
        kept: Bool, same shape. The body without foreign pieces in its cavities, and the soft edge of bare skin.
    """

    body: np.ndarray
    kept: np.ndarray


def find_ct_body(ct_hu: np.ndarray, *, spacing_mm: Sequence[float]) -> CtBody:
    """The patient without couch and fixation mask. What touches the skin may stay, because nothing of it may be lost.

    Args:
        ct_hu: CT in HU, `(Z, Y, X)`, with the slices from the feet to the head.
        spacing_mm: Voxel size along `(Z, Y, X)`.

    Returns:
        All False where no body is found.
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    result = CtBody(np.zeros(ct_hu.shape, bool), np.zeros(ct_hu.shape, bool))
    box = _box_around(ct_hu, spacing)
    if box is None:
        return result
    factors = np.array([1, *(2 if 2 * mm <= LARGEST_WORKING_MM else 1 for mm in spacing[1:])])
    fine = ct_hu[box]
    if (factors == 1).all():
        result.body[box], result.kept[box], _ = _find(fine, spacing)
        return result
    body, kept, near = (
        enlarge(one, factors, fine.shape) for one in _find(block_mean(fine, factors), spacing * factors)
    )
    result.body[box] = body | (near & (fine > edge_level(fine)))
    result.kept[box] = kept | (near & (fine > TISSUE_HU))
    return result


def _box_around(ct_hu: np.ndarray, spacing: np.ndarray) -> tuple[slice, ...] | None:
    """The core's box on a coarse grid, wider by the length of an ear."""
    factors = coarse_factors(ct_hu.shape, spacing, COARSE_MM)
    found = ndimage.find_objects(_core(block_mean(ct_hu, factors), spacing * factors).view(np.uint8))
    if not found:
        return None
    margins = np.ceil(EAR_MM / spacing).astype(int)
    return tuple(
        slice(max(0, int(s.start * f) - int(m)), int(min(s.stop * f + m, n)))
        for s, f, m, n in zip(found[0], factors, margins, ct_hu.shape, strict=True)
    )


def _core(ct_hu: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The patient without skin folds, ears and tips: the deepest part after an opening wider than any mask is thick.

    Others that are nearly as deep belong to it, such as the second of two legs.
    """
    core = deep_parts(open_mask(ct_hu > CORE_HU, SHEET_MM, spacing), spacing, least_share=PART_SHARE)
    return core if core.any() else deepest(ct_hu > TISSUE_HU, spacing)


def _find(ct_hu: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Body, what is kept of the CT, and the tissue with one voxel around it."""
    core = _core(ct_hu, spacing)
    slices = np.flatnonzero(core.any(axis=(1, 2)))
    tissue = ct_hu > TISSUE_HU
    if slices.size:  # the crown and a cut neck are blunt, so the core reaches the patient's first and last slice
        tissue[: slices[0]] = False
        tissue[slices[-1] + 1 :] = False
    patient = _patient(ct_hu, core, tissue, spacing)
    inside = fill_slices(patient)

    # Loose pieces in a cavity: thin walls if they are small, else a sheet that somebody put there.
    pieces, count = ndimage.label(inside & tissue & ~patient)
    least = max(LEAST_PIECE_VOXELS, LEAST_PIECE_ML * 1000 / float(np.prod(spacing)))
    small = np.bincount(pieces.ravel(), minlength=count + 1) < least
    small[0] = False
    patient |= small[pieces]
    loose = (pieces > 0) & ~patient

    around = ndimage.binary_dilation(patient)
    outside = ~inside & ~around & (ct_hu > FAINT_HU)
    beside_mask, beside_loose = (_wider(foreign, MASK_EDGE_MM, spacing) for foreign in (outside, loose))
    edge = around & ~inside & ~beside_mask
    kept = patient | (inside & ~beside_loose) | edge
    return inside | (around & (ct_hu > edge_level(ct_hu))), kept, around


def _wider(mask: np.ndarray, margin_mm: float, spacing: np.ndarray) -> np.ndarray:
    return extreme_filter(mask, box_widths(2 * margin_mm, spacing), erode=False)


def _patient(ct_hu: np.ndarray, core: np.ndarray, tissue: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The core with skin, ears and nose: what can be reached from it through full voxels, and the partly filled around."""
    full = tissue & (ct_hu > FULL_HU)
    soft = np.minimum(ct_hu, 0).astype(np.float32)  # bone is no rise
    skin = flowed(core, soft, full, SKIN_MM, spacing, rise=RISE_HU)
    head = fill_slices(skin)
    # Without: ears. A mask in touch leaves patches that stay low.
    reached = grown(skin, full, EAR_MM, spacing) & ~head
    pieces, _ = ndimage.label(reached)
    high = reached & ~_wider(skin, STAND_OFF_MM, spacing)
    patient = skin | np.isin(pieces, np.setdiff1d(pieces[high], [0]))
    # Within: walls and conchae.
    patient |= flowed(skin, soft, full & head, EAR_MM, spacing, rise=RISE_HU)
    patient |= ndimage.binary_dilation(patient & full) & tissue
    inside = fill_slices(patient)
    # A skin full of pores (hair, noise): on within the slice, and closed there.
    in_slice = np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], bool)
    steps = int(SKIN_MM / spacing[1:].min() + 0.01)
    if steps:
        patient |= ndimage.binary_dilation(patient, in_slice, steps, mask=tissue & ~inside)
    return patient | (close_mask(patient, PORE_MM, np.array([np.inf, *spacing[1:]])) & tissue & ~inside)
