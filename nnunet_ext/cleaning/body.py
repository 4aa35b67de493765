"""What is done to an image's values before nnU-Net sees them, for training data and new cases alike.

CT: values checked to be HU, padding below air clipped, couch and fixation mask replaced by air, optionally a window.
MR: bias field removed, by N4 after a first estimate. The body is found by Otsu's threshold and morphology in
`body_mask_array`, which needs arrays only, so that the preprocessor can use it too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from nnunet_ext.images.channels import image_like, is_ct, voxel_ml
from nnunet_ext.images.checks import SMALLEST_BODY_ML, sampled
from nnunet_ext.images.geometry import index_to_world

log = logging.getLogger(__name__)

AIR_HU = -1000.0
#: Scanners and planning systems pad with -1500, -2000 or -3024; nothing measured lies below -1024.
LOWEST_HU = -1024.0
#: What lies below this is padding: noise of air does not reach it, streaks of metal hardly.
PADDING_HU = -1200.0
#: No tissue is denser: enamel reaches 2,500 to 3,000. Most scales end at 3071, extended ones at 30,000 or so.
METAL_HU = 3000.0
#: Less metal than this is noise or enamel; a small filling has more.
LEAST_METAL_ML = 0.03
#: Half-way between air and skin lies -500; partial volume and noise ask for some freedom around it.
BODY_THRESHOLD_HU = (-500.0, -350.0)
#: Above this, two surfaces with a gap of a voxel between them stay apart.
CORE_THRESHOLD_HU = -250.0
#: What is denser than this beside the skin's soft edge is no air: a mask, a couch.
FAINT_HU = -800.0
#: Couch shells and perforated masks: an opening of this width cuts them off. Wider ones cut noses and lids.
SHEET_MM = 3.0
#: What the opening takes off skin and thin walls is given back up to this far.
EDGE_MM = 1.5
#: Up to this far, what is thicker than a mask (2 to 3 mm) is given back too: ears, sinuses behind a thin wall.
REACH_MM = 6.0
THICK_MM = 4.5
#: Found on a grid of about this voxel size first, then refined in the head's box.
COARSE_MM = 2.5

#: A fixation mask and the gap below it are at most this thick; no more is taken off.
SHELL_MM = 7.0
#: For the mass of a sheet: fat and denser count as solid, what is fainter than a tenth of it (hair, foam) as nothing.
SOLID_HU, NOTHING_HU = -150.0, -880.0
#: Rays through the outline: from this far inside to this far outside, in steps; their feet at about this distance.
RAY_IN_MM, RAY_OUT_MM, RAY_STEP_MM, FOOT_MM = 8.0, 8.5, 0.5, 2.0
#: Rays are averaged with a Gaussian of this width along the skin: a perforation repeats every 5 to 8 mm.
ALONG_SKIN_MM = 3.0
#: A sheet that is seen detached weighs this much (mm of solid), with a dip below it by this share of solid.
SHEET_MASS_MM, LEAST_DIP = (0.8, 4.0), 0.2
#: In a dip this deep there is air between sheet and skin.
CLEAR_AIR = 0.25
#: Fewer rays than this that see one detached: there is none.
LEAST_DETACHED = 30
#: Bare skin's faint foot reaches this share of a voxel beyond its half; a sheet's this many mm further.
BARE_FOOT, SHEET_FOOT_MM = 0.36, 0.12
#: How faint: share of solid.
FOOT_LEVEL = 0.25
#: Voxels half air by their HU have this share of the skin's brightness in an MR that lies where the CT lies: 0.21..0.42
#: on phantoms. Beyond, the MR is not trusted with the skin.
HALF_VOXEL_SHARE = (0.10, 0.45)
#: Nor where more of these voxels than this are as bright as skin: 0..0.05 on phantoms, 0.1..0.4 with the MR 2 mm beside.
MOST_BRIGHT = 0.15
#: Of that share, to lose no tissue where the MR is up to a millimetre off.
CAUTION = 0.7
#: Less of the CT's outline than this seen by the MR: it lies elsewhere, or the mask covers everything.
LEAST_BARE_SKIN = 0.4

#: Denser than any mask; with this much skin over it never taken off by the MR.
BONE_HU, SKIN_OVER_BONE_MM = 200.0, 2.0

#: The bias field is smooth over centimetres: estimated on voxels of this size.
FIELD_MM = 5.0
FIELD_LAGS_MM = (5.0, 10.0, 20.0, 30.0, 40.0)
#: Two voxels of one tissue differ less than this, as a share of their brightness.
SAME_TISSUE = 0.1
#: One level: finer splines take anatomy for a field.
N4_ITERATIONS = (30,)
#: Voxels around the image given to N4.
N4_FRAME = 2

_BINS = 128


# ------------------------------------------------------------------------------------------------ the body


def body_mask_array(volume: np.ndarray, *, spacing_mm: Sequence[float], is_ct: bool) -> np.ndarray:
    """The patient: skin and everything inside it, air cavities included; without couch and fixation mask.

    Args:
        volume: CT in HU (or in other units, then the threshold comes from its own histogram) or MR, `(Z, Y, X)`.
        spacing_mm: Voxel size along `(Z, Y, X)`.
        is_ct: Couch and mask are looked for only in CT. In MR the dark skull is bridged.

    Returns:
        Bool `(Z, Y, X)`; all False where no body is found.

    Method: threshold (Otsu), opening by a cube wider than a mask is thick, the component with the deepest inside (a
    couch is wider than a head, never deeper), what the opening took from skin and thick parts given back, holes
    filled slice by slice along each of the three axes. Large volumes are searched on a coarse grid and refined inside
    the head's box. A mask that lies on the skin comes off by its mass, see `_without_sheet`; that needs HU.
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    coarse, factors, (core_level, level) = _coarse(volume, spacing, is_ct)
    find = _find_ct if is_ct else _find_mr
    mask = find(coarse, core_level, level, spacing * factors)
    in_hu = is_ct and float(coarse.min()) <= -500.0
    if np.all(factors == 1):
        return _without_sheet(mask, volume, spacing) if in_hu else mask
    if not mask.any():
        return np.zeros(volume.shape, dtype=bool)

    # The head's box on the fine grid, two coarse voxels wider.
    wide = ndimage.binary_dilation(mask, iterations=2)
    box = tuple(
        slice(int(s.start * f), int(min(s.stop * f, n)))
        for s, f, n in zip(ndimage.find_objects(wide.astype(np.uint8))[0], factors, volume.shape, strict=True)
    )
    near = _enlarge(wide, factors, volume.shape)[box]
    result = np.zeros(volume.shape, dtype=bool)
    if is_ct:
        fine = np.where(near, volume[box], np.asarray(volume[box].min(), dtype=volume.dtype))
        result[box] = find(fine, core_level, level, spacing)
        if in_hu:
            result = _without_sheet(result, volume, spacing)
    else:
        inner = _enlarge(ndimage.binary_erosion(mask, iterations=2, border_value=1), factors, volume.shape)[box]
        close = _enlarge(ndimage.binary_dilation(mask), factors, volume.shape)[box]
        result[box] = _fill_slices(_deepest(_open((volume[box] > level) & close | inner, 3.0, spacing), spacing))
    return result


def body_extent(volume: np.ndarray, *, spacing_mm: Sequence[float], is_ct: bool) -> tuple[tuple[int, int], ...] | None:
    """Where the patient begins and ends along each axis, to `COARSE_MM`: many times faster than `body_mask_array`.

    Args:
        volume, spacing_mm, is_ct: As for `body_mask_array`.

    Returns:
        First voxel and one past the last, per axis of `volume`; None where no body is found.
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    coarse, factors, levels = _coarse(volume, spacing, is_ct)
    found = ndimage.find_objects((_find_ct if is_ct else _find_mr)(coarse, *levels, spacing * factors).view(np.uint8))
    if not found:
        return None
    return tuple(
        (int(s.start * f), int(min(s.stop * f, n))) for s, f, n in zip(found[0], factors, volume.shape, strict=True)
    )


def _coarse(volume: np.ndarray, spacing: np.ndarray, is_ct: bool) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """A volume averaged to about `COARSE_MM`, the voxels averaged along each axis, and the `body_thresholds` of it."""
    if volume.ndim != 3 or spacing.shape != (3,) or not np.all(spacing > 0):
        raise ValueError(
            f"volume of shape {volume.shape} with spacing {spacing.tolist()} mm: three axes and sizes > 0 needed"
        )
    factors = np.maximum(1, (COARSE_MM / spacing + 0.01).astype(int))
    factors = np.minimum(factors, np.maximum(1, np.asarray(volume.shape) // 8))
    coarse = _block_mean(volume, factors)
    return coarse, factors, body_thresholds(coarse, is_ct=is_ct)


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
    deep = _filter(inside, _box_widths(2 * SHELL_MM, spacing), erode=True)
    shell = inside & ~deep
    around = ~_filter(inside, _box_widths(2 * SHELL_MM, spacing), erode=False)
    flesh = _filter(inside, _box_widths(4.0 + spacing.min(), spacing), erode=True) & shell
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
    bone = _grow(inside & (ct > BONE_HU), inside, SKIN_OVER_BONE_MM, spacing)
    kept = _fill_slices(inside & (~dark | bone))
    taken = inside & ~kept
    void = taken & ndimage.binary_dilation(deep)
    if void.any():
        kept |= _grow(void, taken, SHELL_MM, spacing)
    result = np.zeros_like(body)
    result[box] = kept & inside
    return result


def _find_ct(volume: np.ndarray, core_level: float, level: float, spacing: np.ndarray) -> np.ndarray:
    tissue = volume > level
    head = _deepest(_open(volume > core_level, SHEET_MM, spacing), spacing)
    if not head.any():
        head = _deepest(tissue, spacing)
    body = _fill_slices(_grow(head, tissue, EDGE_MM, spacing))
    if core_level == CORE_THRESHOLD_HU:
        # No mask is as dense as bone, and the front wall of a frontal sinus may be thinner than the opening: bone that hangs
        # together with the head's belongs to it, with the skin over it.
        pieces, _ = ndimage.label(volume > BONE_HU, structure=np.ones((3, 3, 3)))
        linked = np.isin(pieces, np.setdiff1d(np.unique(pieces[body]), [0]))
        wall = _grow(linked & ~body, tissue, REACH_MM, spacing)
        head, body = head | wall, _fill_slices(body | wall)
    rest = _fill_slices(_grow(head, tissue, REACH_MM, spacing)) & ~body
    thick = _grow(_open(rest, THICK_MM, spacing), rest, THICK_MM, spacing)
    return _fill_slices(body | thick) if thick.any() else body


def _without_sheet(body: np.ndarray, ct_hu: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The body without the part of a fixation mask that lies on its skin, where CT shows no edge between them.

    What partial volume and perforation cannot change is a sheet's mass per area, in mm of solid: it is read where the
    sheet is seen detached, as what lies beyond the dip. Along a ray through the skin the mass outside a point within is
    the depth of the point below the skin plus the mass of the sheet, whatever the gap between them; so the skin lies
    that mass below the surface that the same mass would have without sheet and gap. There is a sheet where the profile
    reaches further out than that of bare skin, in one piece with a place where it is seen detached: where none is seen,
    nothing is taken. Profiles are averaged along the skin over a period of the perforation.

    Args:
        body: Bool `(Z, Y, X)`.
        ct_hu: The CT.
        spacing: Voxel size along `(Z, Y, X)`, mm.
    """
    if not body.any():
        return body
    margins = np.ceil((RAY_OUT_MM + 3) / spacing).astype(int).tolist()
    box = tuple(
        slice(max(0, s.start - margin), s.stop + margin)
        for s, margin in zip(ndimage.find_objects(body.view(np.uint8))[0], margins, strict=True)
    )
    inside, ct = body[box], ct_hu[box]
    deep = _filter(inside, _box_widths(2 * SHELL_MM, spacing), erode=True)
    mass = np.clip((ct.astype(np.float32) - AIR_HU) / -AIR_HU, 0, 1)
    mass[ct > SOLID_HU] = 1
    mass[ct < NOTHING_HU] = 0
    cavities = _grow(deep & (ct < -300), inside & (ct < -300), 4.0, spacing)
    mass[deep | cavities] = 1

    feet_mm, normals = _outline(inside, spacing)
    if len(feet_mm) < LEAST_DETACHED:
        return body

    def sample(from_mm: np.ndarray, along_mm: np.ndarray) -> np.ndarray:
        points = (from_mm[:, None] + normals[:, None] * along_mm[:, None]) / spacing
        values = ndimage.map_coordinates(mass, points.reshape(-1, 3).T, order=1, mode="nearest")
        return values.reshape(len(from_mm), len(along_mm))

    rays = sample(feet_mm, np.arange(-RAY_IN_MM, RAY_OUT_MM + 0.01, RAY_STEP_MM))
    # A ray that ends in something else (the side of the nose, the volume's border) or begins outside does not count.
    good = (rays[:, -1] < 0.3) & (rays[:, 0] > 0.7)
    if np.count_nonzero(good) < LEAST_DETACHED:
        return body
    level_mm = (rays.sum(axis=1) - 0.5) * RAY_STEP_MM - RAY_IN_MM
    near, weight = _neighbours(feet_mm, normals, good)
    total = weight.sum(axis=1)
    known = total > 1
    total = np.maximum(total, 1e-6)
    # From foot to foot along the mean of the normals: no bias where the skin is curved.
    surface_mm = feet_mm + normals * level_mm[:, None]
    across = _dot(surface_mm[near] - feet_mm[:, None], normals[:, None] + normals[near]) / 2
    level_mm = np.where(known, (weight * across).sum(axis=1) / total, level_mm)

    along_mm = np.arange(-4.0, 8.01, RAY_STEP_MM)
    profiles = sample(feet_mm + normals * level_mm[:, None], along_mm)
    mean = np.zeros_like(profiles, dtype=float)
    for k in range(near.shape[1]):  # of all neighbours at once it would be a large array
        mean += weight[:, k, None] * profiles[near[:, k]]
    profiles = mean / total[:, None]
    mass_mm, lowest, detached = _detached_sheet(profiles)
    detached &= known & good
    if np.count_nonzero(detached) < LEAST_DETACHED:
        return body
    voxel_mm = np.sqrt((normals**2 * spacing**2).sum(axis=1))
    foot_mm = _foot(profiles, along_mm)
    sheet = known & (foot_mm > BARE_FOOT * voxel_mm + SHEET_FOOT_MM)
    for _ in range(2):
        sheet = (weight * sheet[near]).sum(axis=1) > 0.5 * total
    sheet = _pieces_with(detached, sheet, near[:, :8])

    # Where it is seen detached its own mass counts, elsewhere the usual one.
    sheet_mm = np.where(detached, mass_mm, np.median(mass_mm[detached]))
    depth_mm = level_mm - sheet_mm
    # With air in between, skin is where the outline has it: the threshold knows it better than a mass.
    sheet &= ~(detached & (lowest < CLEAR_AIR) & (depth_mm > -voxel_mm))
    skin_mm = feet_mm + normals * depth_mm[:, None]
    kept = inside.copy()
    kept[_above(skin_mm, normals, sheet, feet_mm, inside & ~deep, spacing)] = False
    result = body.copy()
    result[box] = inside & _fill_slices(kept)
    return result


def _above(
    skin_mm: np.ndarray,
    normals: np.ndarray,
    sheet: np.ndarray,
    feet_mm: np.ndarray,
    shell: np.ndarray,
    spacing: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Indices of the voxels of `shell` above the skin, where most of the feet around have a sheet.

    Heights are computed on a lattice of about `FOOT_MM` and interpolated.
    """
    step = np.maximum(1, (FOOT_MM / spacing).astype(int))
    counts = -(-np.asarray(shell.shape) // step) + 1
    voxels = np.argwhere(shell)
    needed = np.zeros(counts, bool)
    needed[tuple((voxels // step).T)] = True
    for axis in range(3):  # the eight nodes around a voxel
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        needed[tuple(ahead)] |= needed[tuple(behind)].copy()
    nodes = np.argwhere(needed)
    nodes_mm = nodes * step * spacing
    distance, nearest = cKDTree(feet_mm).query(nodes_mm, k=6)
    share = 1 / (distance**2 + 1)
    there = share * sheet[nearest]
    heights = (_dot(nodes_mm[:, None] - skin_mm[nearest], normals[nearest]) * there).sum(axis=1)
    most = there.sum(axis=1) > 0.5 * share.sum(axis=1)
    height_mm = np.full(counts, -SHELL_MM, np.float32)
    height_mm[needed] = np.where(most, heights / np.maximum(there.sum(axis=1), 1e-6), -SHELL_MM)
    above = ndimage.map_coordinates(height_mm, (voxels / step).T, order=1, mode="nearest") > 0
    return tuple(voxels[above].T)


def _outline(inside: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels along the outline about `FOOT_MM` apart, and unit vectors outwards there: `(N, 3)` as z, y, x, in mm."""
    feet_mm = np.argwhere(inside & ~ndimage.binary_erosion(inside, border_value=1)) * spacing
    feet_mm = feet_mm[np.unique((feet_mm / FOOT_MM).astype(int), axis=0, return_index=True)[1]]
    smooth = ndimage.gaussian_filter(inside.astype(np.float32), ALONG_SKIN_MM / spacing, mode="nearest")
    steps = np.eye(3) / 2
    at = [
        ndimage.map_coordinates(smooth, (feet_mm / spacing + s).T, order=1, mode="nearest") for s in (*-steps, *steps)
    ]
    normals = np.stack([(at[axis] - at[axis + 3]) / spacing[axis] for axis in range(3)], axis=1)
    length = np.linalg.norm(normals, axis=1)
    clear = length > 0.03
    return feet_mm[clear], normals[clear] / length[clear, None]


def _neighbours(feet_mm: np.ndarray, normals: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of up to 40 good feet around each foot, and their weights: near by, and facing the same way."""
    candidates = np.flatnonzero(good)
    distance, index = cKDTree(feet_mm[good]).query(feet_mm, k=40, distance_upper_bound=2.5 * ALONG_SKIN_MM)
    near = candidates[np.where(np.isfinite(distance), index, 0)]
    same_way = np.clip(_dot(normals[:, None], normals[near]), 0, 1) ** 2
    return near, np.exp(-0.5 * (distance / ALONG_SKIN_MM) ** 2) * same_way


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar products of vectors along the last axis. A sum over so short an axis would take several times as long."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def _detached_sheet(profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mass beyond the deepest dip of each profile (inside first), mm of solid; the dip's value; where it is a sheet's."""
    inwards = profiles[:, ::-1]
    fall = np.maximum.accumulate(inwards, axis=1) - inwards
    dip = fall[:, : round(SHELL_MM * 2 / RAY_STEP_MM)].argmax(axis=1)[:, None]
    lowest = np.take_along_axis(inwards, dip, axis=1)[:, 0]
    mass_mm = (np.take_along_axis(np.cumsum(inwards, axis=1), dip, axis=1)[:, 0] - lowest / 2) * RAY_STEP_MM
    deep_enough = (np.take_along_axis(fall, dip, axis=1)[:, 0] > LEAST_DIP) & (lowest < 0.5)
    return mass_mm, lowest, deep_enough & (mass_mm > SHEET_MASS_MM[0]) & (mass_mm < SHEET_MASS_MM[1])


def _foot(profiles: np.ndarray, along_mm: np.ndarray) -> np.ndarray:
    """How far out each profile falls to `FOOT_LEVEL` for the last time, in mm."""
    row = np.arange(len(profiles))
    last = len(along_mm) - 1 - (profiles > FOOT_LEVEL)[:, ::-1].argmax(axis=1)
    high, low = profiles[row, last], profiles[row, np.minimum(last + 1, len(along_mm) - 1)]
    return along_mm[last] + RAY_STEP_MM * np.clip((high - FOOT_LEVEL) / np.maximum(high - low, 1e-6), 0, 1)


def _pieces_with(seeds: np.ndarray, members: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Members in pieces, linked by their neighbours, that hold at least `LEAST_DETACHED` seeds."""
    link = members[:, None] & members[near]
    row = np.broadcast_to(np.arange(len(near))[:, None], near.shape)[link]
    graph = coo_array((np.ones(row.size, bool), (row, near[link])), shape=(len(near), len(near)))
    piece = connected_components(graph, directed=False)[1]
    return members & (np.bincount(piece, weights=seeds & members)[piece] >= LEAST_DETACHED)


def _find_mr(volume: np.ndarray, core_level: float, level: float, spacing: np.ndarray) -> np.ndarray:
    tissue = _open(volume > level, 0.0, spacing)
    closed = _fill_slices(_close(tissue, 8.0, spacing))
    head = _deepest(_open(closed, 6.0, spacing), spacing)
    return _fill_slices(_grow(head, tissue, REACH_MM, spacing))


def body_thresholds(volume: np.ndarray, *, is_ct: bool) -> tuple[float, float]:
    """Values above which a voxel is solid tissue, and above which it is tissue at all."""
    if is_ct and float(volume.min()) <= -500.0:
        low, high = BODY_THRESHOLD_HU
        level = float(np.clip(otsu_threshold(np.clip(volume, LOWEST_HU, 300.0)), low, high))
        return CORE_THRESHOLD_HU, level
    # Bright tissue (fat, bone) would pull the cut above dim tissue: everything above the usual tissue counts as usual.
    first = otsu_threshold(volume)
    usual = float(np.median(volume[volume > first])) if (volume > first).any() else first
    level = otsu_threshold(np.minimum(volume, usual))
    if not is_ct:
        air = volume[volume <= level]
        noise = float(air.mean() + 3 * air.std())
        level = min(level, max(noise, float(air.mean()) + 0.6 * (level - float(air.mean()))))
    return level, level


def otsu_threshold(values: np.ndarray) -> float:
    """Otsu's threshold: the cut that splits values into two classes with the least variance within.

    Args:
        values: Any shape, finite.

    Returns:
        The cut, on 128 bins; the middle one of equally good cuts; the common value where all are equal.
    """
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return low
    counts, edges = np.histogram(values, bins=_BINS, range=(low, high))
    weight = counts / counts.sum()
    w, m = np.cumsum(weight)[:-1], np.cumsum(weight * (edges[1:] + edges[:-1]) / 2)
    total, m = m[-1], m[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.nan_to_num(m**2 / w) + np.nan_to_num((total - m) ** 2 / (1 - w))
    best = np.flatnonzero(between >= between.max() - 1e-9 * abs(between.max()))
    return float(edges[1:-1][best].mean())


def _box_widths(width_mm: float, spacing: np.ndarray) -> list[int]:
    """Odd number of voxels per axis that is at least the width (1: nothing happens along this axis)."""
    return [int(2 * np.ceil((width_mm / mm - 1) / 2) + 1) if mm < width_mm else 1 for mm in spacing]


def _filter(mask: np.ndarray, widths: Sequence[int], *, erode: bool) -> np.ndarray:
    """Erosion or dilation by a box; beyond the volume lies tissue for an erosion, air for a dilation."""
    combine = np.logical_and if erode else np.logical_or
    result = mask.view(bool)
    for axis, width in enumerate(widths):
        if width == 1:
            continue
        pad = [(width // 2, width // 2) if a == axis else (0, 0) for a in range(3)]
        result, reach = np.moveaxis(np.pad(result, pad, constant_values=erode), axis, 0), 1
        while reach < width:  # entry i holds voxels i to i + reach - 1
            step = min(reach, width - reach)
            result, reach = combine(result[:-step], result[step:]), reach + step
        result = np.moveaxis(result, 0, axis)
    return np.ascontiguousarray(result)


def _open(mask: np.ndarray, width_mm: float, spacing: np.ndarray) -> np.ndarray:
    widths = _box_widths(width_mm, spacing)
    return _filter(_filter(mask, widths, erode=True), widths, erode=False)


def _close(mask: np.ndarray, width_mm: float, spacing: np.ndarray) -> np.ndarray:
    widths = _box_widths(width_mm, spacing)
    return _filter(_filter(mask, widths, erode=False), widths, erode=True)


def _deepest(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The connected component that contains the voxel furthest inside."""
    labels, count = ndimage.label(mask)
    if count <= 1:
        return mask
    volumes = np.bincount(labels.ravel())[1:]
    large = np.flatnonzero(volumes >= 0.02 * volumes.max()) + 1
    if large.size == 1:
        return labels == large[0]
    step = np.maximum(1, (3.0 / spacing).astype(int))  # depth need not be exact
    view = tuple(slice(None, None, s) for s in step)
    depth = ndimage.distance_transform_edt(np.pad(mask[view], 1), sampling=spacing * step)[1:-1, 1:-1, 1:-1]
    depths = ndimage.maximum(depth, labels[view], index=large)
    return labels == large[int(np.argmax(depths * volumes[large - 1] ** (1 / 3)))]


def _grow(seed: np.ndarray, within: np.ndarray, distance_mm: float, spacing: np.ndarray) -> np.ndarray:
    """The seed grown through `within`, voxel by voxel, up to a distance."""
    grown = seed.copy()
    step = float(spacing.min())
    for n in range(1, max(1, int(np.ceil(distance_mm / step))) + 1):
        # An axis takes part in a step whenever the distance walked comes nearer to another of its voxels.
        axes = [a for a in range(3) if int(n * step / spacing[a] + 0.5) > int((n - 1) * step / spacing[a] + 0.5)]
        new = grown.copy()
        for axis in axes:
            ahead, behind = [slice(None)] * 3, [slice(None)] * 3
            ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
            new[tuple(ahead)] |= grown[tuple(behind)]
            new[tuple(behind)] |= grown[tuple(ahead)]
        new &= within
        new |= seed
        grown = new
    return grown


def _fill_slices(mask: np.ndarray) -> np.ndarray:
    """Holes filled that are closed in a slice along any of the three axes: sinuses open to the outside elsewhere."""
    found = ndimage.find_objects(mask.view(np.uint8))
    if not found:
        return mask.copy()
    whole, box = mask.copy(), found[0]  # no hole lies outside the mask's box
    mask, filled = mask[box], whole[box]
    for axis in range(3):
        structure = np.zeros((3, 3, 3), dtype=bool)
        structure[1, 1, 1] = True
        in_plane = [a for a in range(3) if a != axis]
        for a in in_plane:
            index = [1, 1, 1]
            for index[a] in (0, 2):
                structure[tuple(index)] = True
        labels, count = ndimage.label(~mask, structure=structure)
        outside = np.zeros(count + 1, dtype=bool)
        for a in in_plane:
            for end in (0, -1):
                outside[np.take(labels, end, axis=a).ravel()] = True
        outside[0] = True
        filled |= ~outside[labels]
    return whole


def _block_mean(volume: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Mean over blocks of voxels, 32-bit float; the last block of an axis is padded with the edge."""
    pad = [(0, int(-n % f)) for n, f in zip(volume.shape, factors, strict=True)]
    padded = np.pad(volume, pad, mode="edge") if any(after for _, after in pad) else volume
    for axis, f in enumerate(factors):
        if f > 1:
            starts = np.arange(0, padded.shape[axis], f)
            padded = np.add.reduceat(padded, starts, axis=axis, dtype=np.float32)
    return padded.astype(np.float32, copy=False) / np.float32(np.prod(factors))


def _enlarge(mask: np.ndarray, factors: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    for axis, f in enumerate(factors):
        mask = np.repeat(mask, f, axis=axis) if f > 1 else mask
    return mask[tuple(slice(n) for n in shape)]


# ------------------------------------------------------------------------------------------------------ CT


def hu_problem(image: sitk.Image) -> str | None:
    """Why an image cannot be a CT in HU, in one line, or None where it can.

    A CT in HU holds air (measured values down to -500, at least 0.1 % of its voxels near -1000 or padding below). It does
    not fill the 16-bit range, and the median of what is not air lies between -200 and 200 (soft tissue). What lies below
    air is padding, of one value. A few voxels at the end of any range are metal.
    """
    array = sitk.GetArrayViewFromImage(image)
    low, high = float(array.min()), float(array.max())
    found = f"CT is not in HU: values {low:g}..{high:g}"
    remedy = "apply the rescale slope and intercept, or pass --allow-non-hu"
    measured = array if low >= PADDING_HU else array[array >= PADDING_HU]
    if not measured.size or float(measured.min()) > -500:
        return f"{found}, so no air (-1000); {remedy}"
    if high >= 32767 and np.count_nonzero(array >= 32767) > 5e-3 * array.size:
        return f"{found}, the end of the 16-bit range; {remedy}"
    tissue = array[array > -500]
    median = float(np.median(tissue)) if tissue.size else float("nan")
    if not -200 <= median <= 200:
        return f"{found}, and the median of what is not air is {median:g} instead of soft tissue; {remedy}"
    if np.count_nonzero(array < -850) < 1e-3 * array.size:
        return f"{found}, but hardly any air near -1000; {remedy}"
    below = array[array < PADDING_HU]
    if below.size > 1e-2 * array.size and np.unique(below, return_counts=True)[1].max() < 0.5 * below.size:
        return f"{found}, and {below.size / array.size:.0%} of the voxels vary below air (-1000); {remedy}"
    return None


def metal(array: np.ndarray, body: np.ndarray, *, voxel_ml: float) -> list[str]:
    """Lines for a person on metal in a CT: fillings, implants, electrodes.

    Args:
        array: CT in HU, `(Z, Y, X)`, as read: neither padded values clipped nor a window applied.
        body: Bool, same shape. Metal outside, in a couch or frame, does not count.
        voxel_ml: Volume of a voxel.

    Returns:
        A line with its volume and where the scale ends. A second one where values inside metal ran over the end of the
        scale and came out as dark as air. Empty without metal.
    """
    found = (array >= METAL_HU) & body
    ml = np.count_nonzero(found) * voxel_ml
    if ml < LEAST_METAL_ML:
        return []
    high = float(array[found].max())
    at_the_end = np.count_nonzero(array[found] == high) > 0.05 * np.count_nonzero(found)
    where = f"at the end of the scale ({high:g} HU)" if at_the_end else f"above {METAL_HU:g} HU, up to {high:g} HU"
    lines = [f"the CT shows metal: {ml:.2g} ml {where}; streaks may reach the organs"]
    box = tuple(slice(max(0, s.start - 2), s.stop + 2) for s in ndimage.find_objects(found.view(np.uint8))[0])
    # Partial volume around the overflow is as dense as bone.
    dense = array[box] > 1000
    holes = _fill_slices(dense) & (array[box] <= AIR_HU)
    pieces, _ = ndimage.label(holes | found[box])
    overflow = holes & np.isin(pieces, np.setdiff1d(np.unique(pieces[found[box]]), [0]))
    if n := np.count_nonzero(overflow):
        lines.append(f"{n} voxels inside the metal are as dark as air: their values ran over the end of the scale")
    return lines


def clip_padding(image: sitk.Image) -> tuple[sitk.Image, int]:
    """CT with values below -1024 HU set to -1024, and how many voxels that were."""
    array = sitk.GetArrayViewFromImage(image)
    below = int(np.count_nonzero(array < LOWEST_HU))
    if below == 0:
        return image, 0
    return image_like(np.maximum(array, np.asarray(LOWEST_HU, dtype=array.dtype)), image), below


def without_mr_padding(image: sitk.Image) -> tuple[sitk.Image, str]:
    """MR whose padding is set to its lowest measured value, and what was done; the image itself where there is none.

    Padding is one negative value, further below all others than these differ: -2000 or -32768 under 0..900. Otsu's
    threshold would take it for the air, and the air for the body.
    """
    array = sitk.GetArrayViewFromImage(image)
    low = array.min()
    if low >= 0:
        return image, ""
    others = array[array > low]
    share = 1 - others.size / array.size
    if not others.size or share < 1e-3:
        return image, ""
    lowest, highest = float(others.min()), float(others.max())
    if lowest - float(low) <= highest - lowest:
        return image, ""
    done = f"{share:.0%} of the voxels hold {low:g}, far below all others: padding, set to {lowest:g}"
    return image_like(np.maximum(array, others.min()), image), done


def clean_ct(
    image: sitk.Image, *, keep: np.ndarray | None = None, body: np.ndarray | None = None, in_hu: bool = True
) -> tuple[sitk.Image, np.ndarray]:
    """CT with everything outside the body set to air, and the body mask.

    Voxels next to the body that are fainter than tissue stay, so that the skin keeps its soft edge, except beside what
    is taken off: there they hold the fixation mask. Nothing becomes exactly 0, which nnU-Net would take for 'not
    measured' and crop.

    Args:
        image: The CT.
        keep: Bool `(Z, Y, X)`, voxels that are never touched, such as drawn organs.
        body: Bool `(Z, Y, X)` where the body is known already, e.g. from `body_seen_by_mr`.
        in_hu: Whether values are HU: outside becomes -1000. If not, the median of what lies outside.

    Returns:
        The image, and bool `(Z, Y, X)`; the image itself with an all-True mask where less than 20 mL of body is found.
    """
    array = sitk.GetArrayFromImage(image)
    spacing = image.GetSpacing()[::-1]
    mask = body_mask_array(array, spacing_mm=spacing, is_ct=True) if body is None else body
    if np.count_nonzero(mask) * voxel_ml(image) < SMALLEST_BODY_ML:
        log.warning("less than %g mL of body found in a CT: couch and mask are left in it", SMALLEST_BODY_ML)
        return image, np.ones(array.shape, dtype=bool)
    if keep is not None:
        mask = mask | keep
    outside = ~mask
    if not outside.any():
        return image, mask
    level = body_thresholds(_block_mean(array, np.array([1, 2, 2])), is_ct=True)[1]
    ring = ndimage.binary_dilation(mask) & outside
    faint = level if not in_hu else FAINT_HU
    foreign = (outside & ~ring & (array > faint)) | (ring & (array > level))
    edge = ring & (array <= level) & ~_filter(foreign, (3, 3, 3), erode=False)
    outside &= ~edge
    air = AIR_HU if in_hu else float(np.median(array[outside])) if outside.any() else 0.0
    array[outside] = np.asarray(air).astype(array.dtype)
    return image_like(array, image), mask


def window(image: sitk.Image, window_hu: tuple[float, float]) -> sitk.Image:
    """CT with values below and above the window set to its ends, in HU (not rescaled)."""
    low, high = window_hu
    if not low < high:
        raise ValueError(f"window {low:g}..{high:g} HU is empty; give the lower end first, e.g. -160 240")
    array = sitk.GetArrayViewFromImage(image)
    return image_like(np.clip(array, np.asarray(low, dtype=array.dtype), np.asarray(high, dtype=array.dtype)), image)


# ------------------------------------------------------------------------------------------------------ MR


def n4(image: sitk.Image, *, body: np.ndarray | None = None, iterations: Sequence[int] = N4_ITERATIONS) -> sitk.Image:
    """MR without its bias field: estimated on a shrunk image, the field applied at full resolution.

    N4 alone finds a field of +-10..30 % in a whole head only roughly (r = 0.8 on phantoms). So the smooth gradient inside
    tissues is taken out first (`field_from_gradients`), and N4 gets the rest.
    The field is 1 on average over the body, so intensities keep their size. Its logarithm is limited to the range it
    has inside the body, because a B-spline runs away where there is no tissue to fit.

    Args:
        image: MR, arbitrary units. Where values are negative, all are shifted for the estimate and back.
        body: Bool `(Z, Y, X)`; found if None.
        iterations: Most iterations of N4 per level, coarse to fine.

    Returns:
        32-bit float, same grid.

    Raises:
        ValueError: If the estimate is not finite.

    Source:
        Tustison et al. 2010, doi:10.1109/TMI.2010.2046908.
    """
    full = sitk.Cast(image, sitk.sitkFloat32)
    array = sitk.GetArrayFromImage(full)
    if body is None:
        body = body_mask_array(array, spacing_mm=image.GetSpacing()[::-1], is_ct=False)
    shift = max(0.0, -float(array.min()))
    positive = (array + shift) > 0
    body = body & positive
    if np.count_nonzero(body) < 100 or float(array.max()) <= float(array.min()):
        return full
    box = ndimage.find_objects(body.view(np.uint8))[0][::-1]
    region = [s.stop - s.start for s in box], [s.start for s in box]
    shifted = sitk.RegionOfInterest(image_like(array + np.float32(shift), image), *region)
    mask = sitk.RegionOfInterest(image_like(body.astype(np.float32), image), *region)
    factors = [
        int(min(max(1, round(FIELD_MM / mm)), max(1, n // 8)))
        for mm, n in zip(image.GetSpacing(), shifted.GetSize(), strict=True)
    ]
    small = sitk.BinShrink(shifted, factors)
    share = sitk.GetArrayFromImage(sitk.BinShrink(mask, factors))
    if not (share > 0.5).any():
        return full
    values = sitk.GetArrayFromImage(small)
    log_field = field_from_gradients(values, (share > 0.99) & (values > 0), spacing_mm=small.GetSpacing()[::-1])
    if any(iterations):
        # In a frame that is thrown away: ITK may take voxels at the border of the spline's domain for outside, and leaves
        # arbitrary values there, other ones at every run.
        flat = sitk.GetImageFromArray(np.pad(values / np.exp(log_field), N4_FRAME, mode="edge"))
        flat.SetSpacing(small.GetSpacing())
        filter_ = sitk.N4BiasFieldCorrectionImageFilter()
        filter_.SetMaximumNumberOfIterations([int(n) for n in iterations])
        filter_.SetConvergenceThreshold(1e-3)
        filter_.Execute(flat, image_like(np.pad(share > 0.5, N4_FRAME).astype(np.uint8), flat))
        inner = (slice(N4_FRAME, -N4_FRAME),) * 3
        log_field += sitk.GetArrayViewFromImage(filter_.GetLogBiasFieldAsImage(flat))[inner]
    # Evaluating the B-spline at every voxel of a 512 x 512 grid takes a minute; the field bends over centimetres.
    log_field = sitk.GetArrayFromImage(_enlarge_field(image_like(log_field, small), image))
    inside = log_field[body]
    if not np.all(np.isfinite(inside)):
        raise ValueError("the bias field is not finite; convert with --no-n4")
    low, high = float(inside.min()), float(inside.max())
    log_field = np.clip(np.nan_to_num(log_field), low, high) - np.float32(inside.mean())
    return image_like((array + np.float32(shift)) / np.exp(log_field) - np.float32(shift), image)


def field_from_gradients(values: np.ndarray, body: np.ndarray, *, spacing_mm: Sequence[float]) -> np.ndarray:
    """Logarithm of the bias field as a quadratic, from how brightness drifts inside tissues.

    Within one tissue the logarithm of two voxels differs by the field (and noise), across an edge by much more. Pairs
    `FIELD_LAGS_MM` apart along each axis whose path crosses no edge are fitted by least squares with Tukey's weights,
    which forget differences beyond `SAME_TISSUE`. No number of tissues is assumed, nor that each is found everywhere.

    Args:
        values: MR `(Z, Y, X)`, of about 5 mm voxels; noise is averaged by that.
        body: Bool `(Z, Y, X)`, voxels to use; `values` are positive there.
        spacing_mm: Voxel size along `(Z, Y, X)`.

    Returns:
        32-bit float `(Z, Y, X)`; zero where there are too few pairs to tell.

    Source:
        After Hui et al. 2010, doi:10.1002/jmri.22344 (gradient inside tissues, then a surface fitted to it).
    """
    axes = [(np.arange(n) - (n - 1) / 2) * mm / 100 for n, mm in zip(values.shape, spacing_mm, strict=True)]
    points = np.meshgrid(*axes, indexing="ij")
    powers = [(i, j, k) for i in range(3) for j in range(3 - i) for k in range(3 - i - j) if i + j + k]
    terms = np.stack([points[0] ** i * points[1] ** j * points[2] ** k for i, j, k in powers], axis=-1).astype(
        np.float32
    )
    logs = np.log(np.where(body, values, 1)).astype(np.float32)
    differences, slopes = [], []
    for axis, mm in enumerate(spacing_mm):
        ahead = [np.moveaxis(a, axis, 0) for a in (logs, body, terms)]
        for lag in sorted({max(1, round(lag_mm / mm)) for lag_mm in FIELD_LAGS_MM}):
            if lag >= values.shape[axis]:
                continue
            (log_a, log_b), (in_a, in_b), (term_a, term_b) = ((a[:-lag], a[lag:]) for a in ahead)
            use = in_a & in_b & (np.abs(log_b - log_a) < 2 * SAME_TISSUE)
            for step in range(1, lag):
                end = step - lag
                use &= ahead[1][step:end] & (np.abs(ahead[0][step:end] - log_a) < SAME_TISSUE)
            differences.append((log_b - log_a)[use])
            slopes.append(term_b[use] - term_a[use])
    difference, slope = np.concatenate(differences), np.concatenate(slopes)
    coefficients = np.zeros(len(powers), np.float32)
    if difference.size < 50 * len(powers):
        return np.zeros(values.shape, np.float32)
    for _ in range(10):
        residual = (difference - slope @ coefficients) / SAME_TISSUE
        weighted = slope * (np.clip(1 - residual**2, 0, None) ** 2)[:, None]
        ridge = 1e-3 * np.eye(len(powers))  # a flat volume tells nothing about its third axis
        coefficients = np.linalg.solve(weighted.T @ slope + ridge, weighted.T @ difference).astype(np.float32)
    return terms @ coefficients


# ------------------------------------------------------------------------------------------- one case's channels


def _enlarge_field(small: sitk.Image, reference: sitk.Image) -> sitk.Image:
    """A smooth field on a finer grid, linearly; constant beyond its border."""
    to_index = np.linalg.inv(index_to_world(small)) @ index_to_world(reference)
    diagonal = np.diag(to_index)[:3]
    assert np.allclose(to_index[:3, :3], np.diag(diagonal), atol=1e-6), "the grids share their axes"
    field_ = sitk.GetArrayFromImage(small).astype(np.float32)
    for axis, n in enumerate(reference.GetSize()):  # x, y, z are array axes 2, 1, 0
        last = small.GetSize()[axis] - 1
        position = np.clip(np.arange(n) * diagonal[axis] + to_index[axis, 3], 0, last)
        low = np.minimum(position.astype(int), max(last - 1, 0))
        share = (position - low).astype(np.float32).reshape([-1 if a == 2 - axis else 1 for a in range(3)])
        below, above = (np.take(field_, np.minimum(i, last), axis=2 - axis) for i in (low, low + 1))
        field_ = below + share * (above - below)
    return image_like(field_, reference)


#: One value in more than this share of the body: a mask of the head. Real images: 2 to 4 %, in 8 bits too.
LARGEST_SHARE_OF_ONE_VALUE = 0.9
#: More of the body at the highest value: cut off there. An image limited to its 99.5th percentile has about 2 %.
LARGEST_SHARE_AT_THE_TOP = 0.05


def check_body(name: str, array: np.ndarray, body: np.ndarray, *, voxel_ml: float) -> list[str]:
    """Refuse an image that shows no body, or one value all over it; a line where its top is cut off.

    Args:
        name: Channel.
        array: Shape `(Z, Y, X)`.
        body: Bool, same shape: the body that was found in this image.
        voxel_ml: Volume of a voxel.

    Raises:
        ValueError: If less than `SMALLEST_BODY_ML` of body was found, or nearly all of it holds one value in an MR.
    """
    if np.count_nonzero(body) * voxel_ml < SMALLEST_BODY_ML:
        raise ValueError(f"{name} shows no body: less than {SMALLEST_BODY_ML:g} mL found; export it again")
    values, counts = np.unique(sampled(array[body]), return_counts=True)
    shares = counts / counts.sum()
    if shares.max() > LARGEST_SHARE_OF_ONE_VALUE and not is_ct(name):  # a CT may be computed from a few materials
        raise ValueError(
            f"{name} holds one value ({values[shares.argmax()]:g}) in {shares.max():.0%} of the body, as a mask does, no "
            "image; export it again"
        )
    piled_up = len(values) > 1 and counts[-1] > 5 * counts[-2]
    if piled_up and values[-1] == array.max() and shares[-1] > LARGEST_SHARE_AT_THE_TOP:
        return [f"{name}: {shares[-1]:.0%} of the body lies at the highest value ({values[-1]:g}), which cuts it off"]
    return []
