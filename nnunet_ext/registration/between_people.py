"""The head of one person brought onto that of another: rigid, affine, then elastic.

Within one patient a rigid fit and a small B-spline suffice (`registering`). Heads of two people differ in size and shape, so
an affine fit comes between, and the B-spline moves much further. The optimisers are SimpleITK's.

The metric's gradient is that of the images as they are. With ITK's smoothed gradient, an affine fit of two phantoms grew one
head by a fifth and lost half of the mutual information. Without it, it found their sizes to the percent.
"""

from __future__ import annotations

import SimpleITK as sitk

from nnunet_ext.registration.elastic import fit_elastic, jacobian_range
from nnunet_ext.registration.options import RegistrationOptions
from nnunet_ext.registration.rigid import best_rigid, new_method
from nnunet_ext.registration.similarity import information_of
from nnunet_ext.registration.transforms import chained
from nnunet_ext.registration.volumes import (
    COARSE_LEVEL_MM,
    MIDDLE_LEVEL_MM,
    Source,
    Target,
    shrunk_image,
)

#: Of the B-spline: distance of its knots, iterations, and how far they move a knot on average in the first and last step.
OPTIONS = RegistrationOptions(samples=30_000, knots_mm=40.0, elastic_samples=20_000, elastic_iterations=30)
FIRST_STEP_MM, LAST_STEP_MM = 1.0, 0.02
#: Voxel size and step of the levels of the affine fit.
_AFFINE_LEVELS_MM = ((COARSE_LEVEL_MM, 2.0), (MIDDLE_LEVEL_MM, 1.0))


def fit_linear(target: Target, source: Source, options: RegistrationOptions = OPTIONS) -> sitk.AffineTransform:
    """The best affine transform, fixed points -> moving points. It is the rigid one if nothing better is found.

    Raises:
        ValueError: If the two heads cannot be brought to overlap.
    """
    rigid = best_rigid(target, source, options)
    best = sitk.AffineTransform(3)
    best.SetCenter(rigid.GetCenter())
    best.SetMatrix(rigid.GetMatrix())
    best.SetTranslation(rigid.GetTranslation())
    information = information_of(target, source, best, target.head)
    for voxel_mm, step_mm in _AFFINE_LEVELS_MM:
        fitted = _fit_affine(target, source, best, options, voxel_mm=voxel_mm, step_mm=step_mm)
        if fitted is not None and (new := information_of(target, source, fitted, target.head)) > information:
            best, information = fitted, new
    return best


def _fit_affine(
    target: Target,
    source: Source,
    start: sitk.AffineTransform,
    options: RegistrationOptions,
    *,
    voxel_mm: float,
    step_mm: float,
) -> sitk.AffineTransform | None:
    """One level of the affine fit. None if the optimiser gives up."""
    fixed, moving = shrunk_image(target, voxel_mm), shrunk_image(source, voxel_mm)
    # With the margin: the skin says how large a head is.
    method = new_method(fixed, target.mask, options.samples, options.seed, smoothed_gradient=False)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step_mm,
        minStep=step_mm / 200,
        numberOfIterations=200,
        relaxationFactor=0.7,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    transform = sitk.AffineTransform(start)
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:  # ITK: all samples map outside the moving image
        return None
    return transform


def fit_between_people(
    target: Target, source: Source, linear: sitk.AffineTransform, options: RegistrationOptions = OPTIONS
) -> sitk.Transform:
    """A B-spline, then `linear`. It is `linear` alone if the B-spline folds space or finds no more information."""
    spline = fit_elastic(
        target, target.mask, source, linear, options,
        first_step_mm=FIRST_STEP_MM, last_step_mm=LAST_STEP_MM, smoothed_gradient=False,
    )  # fmt: skip
    if spline is None:
        return linear
    both = chained(linear, spline)
    folded = jacobian_range(both, target)[0] <= 0.0
    more = information_of(target, source, both, target.head) > information_of(target, source, linear, target.head)
    return both if more and not folded else linear
