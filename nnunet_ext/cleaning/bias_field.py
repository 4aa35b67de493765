"""An MR without its bias field, by N4 after a first estimate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.cleaning.body import body_mask_array
from nnunet_ext.images.channels import image_like
from nnunet_ext.images.geometry import index_to_world

#: The bias field is smooth over centimetres: estimated on voxels of this size.
FIELD_MM = 5.0
FIELD_LAGS_MM = (5.0, 10.0, 20.0, 30.0, 40.0)
#: Two voxels of one tissue differ less than this, as a share of their brightness.
SAME_TISSUE = 0.1
#: One level: finer splines take anatomy for a field.
N4_ITERATIONS = (30,)
#: Voxels around the image given to N4.
N4_FRAME = 2


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
        log, term = np.moveaxis(logs, axis, 0), np.moveaxis(terms, axis, 0)
        inside = np.moveaxis(body, axis, 0)
        for lag in sorted({max(1, round(lag_mm / mm)) for lag_mm in FIELD_LAGS_MM}):
            if lag >= values.shape[axis]:
                continue
            log_a, log_b, term_a, term_b = log[:-lag], log[lag:], term[:-lag], term[lag:]
            use = inside[:-lag] & inside[lag:] & (np.abs(log_b - log_a) < 2 * SAME_TISSUE)
            for step in range(1, lag):
                end = step - lag
                use &= inside[step:end] & (np.abs(log[step:end] - log_a) < SAME_TISSUE)
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
