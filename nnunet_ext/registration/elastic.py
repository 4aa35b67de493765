"""The elastic fit by B-splines."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import SimpleITK as sitk

from nnunet_ext.images.displacements import looked_up
from nnunet_ext.registration import elastix
from nnunet_ext.registration.options import RegistrationOptions
from nnunet_ext.registration.rigid import new_method
from nnunet_ext.registration.transforms import as_euler, chained
from nnunet_ext.registration.volumes import ELASTIC_MM, Source, Target, shrunk_image

log = logging.getLogger(__name__)
#: Root mean square change of the B-spline's coefficients in the first and the last step of the elastic fit.
FIRST_STEP_MM, LAST_STEP_MM = 0.05, 0.01


def fit_elastic(
    target: Target,
    mask: sitk.Image,
    source: Source,
    start: sitk.Transform,
    options: RegistrationOptions,
    *,
    first_step_mm: float | None = None,
    last_step_mm: float | None = None,
    smoothed_gradient: bool = True,
) -> sitk.BSplineTransform | None:
    """A B-spline applied before `start`; None where the optimiser gives up.

    Args:
        target, mask: The fixed image, and where the metric looks.
        source: The moving image.
        start: Fixed points -> moving points.
        options: Knots, samples, iterations and backend.
        first_step_mm, last_step_mm: Root mean square change of the coefficients in the first and the last step. None are
            those within a patient. elastix has steps of its own.
        smoothed_gradient: See `new_method`.
    """
    fixed, moving = shrunk_image(target, ELASTIC_MM), shrunk_image(source, ELASTIC_MM)
    if options.backend == "elastix":
        try:
            return elastix.fit_elastic(
                fixed, mask, moving, as_euler(start, target.center_mm),
                knots_mm=options.knots_mm, iterations=100, samples=4000, largest_step_mm=0.5, seed=options.seed,
            )  # fmt: skip
        except RuntimeError as error:
            log.debug("elastic fit of %s: %s", source.name, error)
            return None
    method = new_method(fixed, mask, options.elastic_samples, options.seed, smoothed_gradient=smoothed_gradient)
    extent_mm = np.asarray(target.image.GetSize()) * target.image.GetSpacing()
    mesh = [max(1, round(float(mm) / options.knots_mm)) for mm in extent_mm]
    spline = sitk.BSplineTransformInitializer(target.image, mesh, 3)
    method.SetMovingInitialTransform(start)
    method.SetInitialTransform(spline, inPlace=True)
    # Steps are lengths of the whole parameter vector in mm: each knot's displacement changes by `first_step_mm` at first.
    # LBFGSB was tried and stops at once on some images: the metric's gradient is only approximate.
    size = np.sqrt(spline.GetNumberOfParameters())
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=(FIRST_STEP_MM if first_step_mm is None else first_step_mm) * size,
        minStep=(LAST_STEP_MM if last_step_mm is None else last_step_mm) * size,
        numberOfIterations=options.elastic_iterations,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-10,
    )
    try:
        method.Execute(fixed, moving)
    except RuntimeError as error:
        log.debug("elastic fit of %s: %s", source.name, error)
        return None
    return spline


def elastic_candidates(
    target: Target,
    members: Mapping[str, tuple[Source, sitk.Transform]],
    rigid: sitk.Transform,
    options: RegistrationOptions,
    pool: ThreadPoolExecutor,
) -> list[sitk.BSplineTransform]:
    """Fits to the core and to the whole head, their mean, and a half and a quarter of each.

    The skin helps in some heads and misleads in others, and a fit overshoots: on phantoms half of the displacement is
    often nearer to the truth. Images that share a transform are fitted one by one and averaged.
    """
    jobs = [(mask, source, chained(link, rigid)) for mask in target.fit_masks for source, link in members.values()]
    fits = list(pool.map(lambda job: fit_elastic(target, job[0], job[1], job[2], options), jobs))
    halves = [fits[: len(members)], fits[len(members) :]]
    means = [_mean_spline(found) for half in halves if (found := [fit for fit in half if fit is not None])]
    if len(means) > 1:
        means.append(_mean_spline(means))
    return [_scaled_spline(spline, factor) for factor in (1.0, 0.5, 0.25) for spline in means]


def jacobian_range(transform: sitk.Transform, target: Target) -> tuple[float, float]:
    field = sitk.TransformToDisplacementField(
        looked_up(transform, target.grid), sitk.sitkVectorFloat64, target.grid.GetSize(), target.grid.GetOrigin(),
        target.grid.GetSpacing(), target.grid.GetDirection(),
    )  # fmt: skip
    values = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field))[target.head]
    return float(values.min()), float(values.max())


def _mean_spline(splines: Sequence[sitk.BSplineTransform]) -> sitk.BSplineTransform:
    result = sitk.BSplineTransform(splines[0])
    result.SetParameters(np.mean([s.GetParameters() for s in splines], axis=0).tolist())
    return result


def _scaled_spline(spline: sitk.BSplineTransform, factor: float) -> sitk.BSplineTransform:
    result = sitk.BSplineTransform(spline)
    result.SetParameters((factor * np.asarray(spline.GetParameters())).tolist())
    return result
