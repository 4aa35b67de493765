"""The rigid fit, and what several moving images of one position tell each other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import SimpleITK as sitk

from nnunet_ext.registration import elastix
from nnunet_ext.registration.options import RegistrationOptions
from nnunet_ext.registration.similarity import information_of
from nnunet_ext.registration.transforms import apply, points_of
from nnunet_ext.registration.volumes import (
    COARSE_LEVEL_MM,
    FINE_LEVEL_MM,
    MIDDLE_LEVEL_MM,
    Source,
    Target,
    shrunk_image,
)

#: Images of one session: a rigid T2 -> T1 registration that moves no part of the head further than this.
SAME_POSITION_MM = 4.0
#: Where T2 -> T1 finds less than this, patient and scanner did not move and the header is exact.
STILL_MM = 0.5
#: Shifts along the body that the search from afar tries, and from how many of all starts it goes on at least.
SEARCH_MM, STARTS = tuple(range(-40, 41, 10)), 3
#: A fit has surely found the head if its information is so many times that of a start on average (median). On ten phantoms,
#: T1 and T2, right fits of whole heads had 3.1 and more, wrong ones 1.2 and less. Of slabs of 60 mm these ranges overlap
#: (1.4 and more, 1.9 and less), so more of their starts are tried, and the best fit is taken.
STANDS_OUT = 2.5
#: Two starts are one if they lie nearer to each other.
APART_MM = 5.0


def new_method(
    fixed: sitk.Image, mask: sitk.Image, samples: int, seed: int, *, smoothed_gradient: bool = True
) -> sitk.ImageRegistrationMethod:
    """Mattes' mutual information inside a mask.

    Args:
        fixed: The fixed image.
        mask: Where it counts.
        samples: Voxels that the metric looks at.
        seed: Of the sampling.
        smoothed_gradient: The gradient is that of smoothed images, which is not that of the metric.
    """
    method = sitk.ImageRegistrationMethod()
    method.SetMetricUseMovingImageGradientFilter(smoothed_gradient)
    method.SetMetricUseFixedImageGradientFilter(smoothed_gradient)
    method.SetNumberOfThreads(1)  # sums in a fixed order
    method.SetMetricAsMattesMutualInformation(40)
    method.SetMetricFixedMask(mask)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(min(1.0, samples / fixed.GetNumberOfPixels()), seed)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _fit_rigid(
    target: Target,
    mask: sitk.Image,
    source: Source,
    start: sitk.Euler3DTransform,
    options: RegistrationOptions,
    *,
    voxel_mm: float,
    samples: int,
    step_mm: float,
    last_step_mm: float,
) -> sitk.Euler3DTransform:
    fixed, moving = shrunk_image(target, voxel_mm), shrunk_image(source, voxel_mm)
    if options.backend == "elastix":
        return elastix.fit_rigid(
            fixed, mask, moving, start,
            iterations=300, samples=4000, largest_step_mm=step_mm, seed=options.seed,
        )  # fmt: skip
    method = new_method(fixed, mask, samples, options.seed)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step_mm,
        minStep=last_step_mm,
        numberOfIterations=200,
        relaxationFactor=0.7,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    transform = sitk.Euler3DTransform(start)
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)
    return transform


def best_rigid(target: Target, source: Source, options: RegistrationOptions) -> sitk.Euler3DTransform:
    """The most promising of many starts, refined level by level; a level that is not better is not kept.

    Starts are the header, the middles of the heads and the crowns, each also shifted along the body. Of a slab, or of a
    head that does not fill its image, the middle says little. The information of a start tells little too, so more of
    them are tried until a fit stands out.
    """
    base_mm = (np.zeros(3), source.center_mm - target.center_mm, source.top_mm - target.top_mm)
    tried = []
    for shift_mm in [base + np.array([0.0, 0.0, along]) for base in base_mm for along in SEARCH_MM]:
        start = sitk.Euler3DTransform()
        start.SetCenter(target.center_mm.tolist())
        start.SetTranslation(shift_mm.tolist())
        tried.append((information_of(target, source, start, target.head), start))
    tried.sort(key=lambda pair: -pair[0])
    stands_out = STANDS_OUT * float(np.median([information for information, _ in tried]))
    starts: list[sitk.Euler3DTransform] = []
    found: list[tuple[float, sitk.Euler3DTransform]] = []
    for _, start in tried:
        if len(starts) >= STARTS and any(information >= stands_out for information, _ in found):
            break
        apart_mm = [np.linalg.norm(np.subtract(start.GetTranslation(), other.GetTranslation())) for other in starts]
        if any(mm <= APART_MM for mm in apart_mm):
            continue
        starts.append(start)
        try:
            fitted = _fit_rigid(
                target, target.mask, source, start, options,
                voxel_mm=COARSE_LEVEL_MM, samples=20_000, step_mm=2.0, last_step_mm=0.02,
            )  # fmt: skip
        except RuntimeError:  # ITK: all samples map outside the moving image
            continue
        found.append((information_of(target, source, fitted, target.head), fitted))
    if not found:
        raise ValueError(f"{source.name} and the fixed image cannot be brought to overlap; check what they show")
    best = max(found, key=lambda pair: pair[0])[1]
    information = information_of(target, source, best, target.inside)
    for voxel_mm, samples, step_mm in (
        (MIDDLE_LEVEL_MM, options.samples // 2, 1.0),
        (FINE_LEVEL_MM, options.samples, 0.5),
    ):
        fitted = _fit_rigid(
            target, target.core, source, best, options,
            voxel_mm=voxel_mm, samples=samples, step_mm=step_mm, last_step_mm=step_mm / 1000,
        )  # fmt: skip
        if (new := information_of(target, source, fitted, target.inside)) > information:
            best, information = fitted, new
    return best


def links_between(sources: Mapping[str, Source], options: RegistrationOptions) -> dict[str, sitk.Transform]:
    """Points of the first moving image -> points of each image that shows the head in the same position, itself first.

    Rigid registration starts from the header, which is right within `SAME_POSITION_MM` where images share a frame of
    reference.
    """
    (first_name, first), *others = sources.items()
    links = {first_name: sitk.Transform(3, sitk.sitkIdentity)}
    if not others:
        return links
    target = Target.of(first.image, is_ct=False, bias_corrected=True, body=first.body)
    head = points_of(target.grid, target.head)
    for name, source in others:
        start = sitk.Euler3DTransform()
        start.SetCenter(target.center_mm.tolist())
        try:
            link = _fit_rigid(
                target, target.core, source, start, options,
                voxel_mm=FINE_LEVEL_MM, samples=options.samples, step_mm=0.5, last_step_mm=5e-4,
            )  # fmt: skip
        except RuntimeError:
            continue
        moved = np.linalg.norm(apply(link, head) - head, axis=1).max()
        if moved <= STILL_MM:
            links[name] = sitk.Transform(3, sitk.sitkIdentity)
        elif moved <= SAME_POSITION_MM:
            links[name] = link
    return links
