"""A thermoplastic mask told from skin by its mass."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from nnunet_ext.cleaning.morphology import box_widths, extreme_filter, fill_slices, grown
from nnunet_ext.images.channels import AIR_HU

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

#: A fixation mask and the gap below it are at most this thick; no more is taken off.
SHELL_MM = 7.0


def without_sheet(body: np.ndarray, ct_hu: np.ndarray, spacing: np.ndarray) -> np.ndarray:
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
    deep = extreme_filter(inside, box_widths(2 * SHELL_MM, spacing), erode=True)
    mass = np.clip((ct.astype(np.float32) - AIR_HU) / -AIR_HU, 0, 1)
    mass[ct > SOLID_HU] = 1
    mass[ct < NOTHING_HU] = 0
    cavities = grown(deep & (ct < -300), inside & (ct < -300), 4.0, spacing)
    mass[deep | cavities] = 1

    feet_mm, normals = outline_of(inside, spacing)
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
    kept[above_skin(skin_mm, normals, sheet, feet_mm, inside & ~deep, spacing)] = False
    result = body.copy()
    result[box] = inside & fill_slices(kept)
    return result


def above_skin(
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


def outline_of(inside: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
