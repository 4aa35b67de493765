"""The rigid and the elastic fit by elastix (package `itk-elastix`, the extra `registration`); SimpleITK images in and out.

Only the optimiser differs from SimpleITK's fits: the same images, masks and knots go in, and transforms of the same
classes come out, so everything behind (which level is kept, report, files) is shared.

Source:
    Klein et al. 2010, elastix, doi:10.1109/TMI.2009.2035616; Klein et al. 2009, its adaptive stochastic gradient descent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from threading import Lock
from typing import Any

import numpy as np
import SimpleITK as sitk

#: What both fits share. New voxels are drawn for every iteration, which is what this optimiser is made for.
COMMON = {
    "Registration": "MultiResolutionRegistration",
    "Metric": "AdvancedMattesMutualInformation",
    "FixedInternalImagePixelType": "float",
    "MovingInternalImagePixelType": "float",
    "FixedImagePyramid": "FixedSmoothingImagePyramid",
    "MovingImagePyramid": "MovingSmoothingImagePyramid",
    "ImageSampler": "RandomCoordinate",
    "NewSamplesEveryIteration": "true",
    "Interpolator": "LinearInterpolator",
    "Optimizer": "AdaptiveStochasticGradientDescent",
    "AutomaticTransformInitialization": "false",
    "NumberOfHistogramBins": "32",
    "ErodeMask": "false",
    "RequiredRatioOfValidSamples": "0.05",  # an MR may show a part of the head only
    "WriteResultImage": "false",
    "WriteTransformParametersEachResolution": "false",
}

_ONE_AT_A_TIME = Lock()  # elastix keeps state that all threads share, and so does the loading of ITK's modules


def require_elastix() -> None:
    """Raise ModuleNotFoundError that says what to install, where elastix is not there."""
    try:
        version("itk-elastix")
    except PackageNotFoundError:
        raise ModuleNotFoundError(
            "the registration backend 'elastix' needs the package itk-elastix, which is not installed: run "
            "`pip install itk-elastix` (the extra `registration` of nnunet-ext), or choose the backend 'simpleitk'"
        ) from None


def fit_rigid(
    fixed: sitk.Image,
    mask: sitk.Image,
    moving: sitk.Image,
    start: sitk.Euler3DTransform,
    *,
    iterations: int,
    samples: int,
    largest_step_mm: float,
    seed: int,
) -> sitk.Euler3DTransform:
    """Rigid transform, fixed points -> moving points, about the centre of `start`.

    Raises:
        RuntimeError: If the images hardly overlap.
    """
    parameters = {
        **COMMON,
        "Transform": "EulerTransform",
        "AutomaticScalesEstimation": "true",
        "CenterOfRotationPoint": _words(start.GetCenter()),
        **_schedule(iterations, samples, largest_step_mm, seed),
    }
    found = _run(fixed, mask, _carried_back(moving, start), parameters)
    result = sitk.Euler3DTransform()
    result.SetCenter(_numbers(found["CenterOfRotationPoint"]))
    result.SetComputeZYX(found["ComputeZYX"][0] == "true")
    result.SetParameters(_numbers(found["TransformParameters"]))
    return _compose(start, result)


def fit_elastic(
    fixed: sitk.Image,
    mask: sitk.Image,
    moving: sitk.Image,
    start: sitk.Euler3DTransform,
    *,
    knots_mm: float,
    iterations: int,
    samples: int,
    largest_step_mm: float,
    seed: int,
) -> sitk.BSplineTransform:
    """Cubic B-spline that is applied before `start`, fixed points -> moving points of the two together.

    Raises:
        RuntimeError: If elastix gives up.
    """
    parameters = {
        **COMMON,
        "Transform": "BSplineTransform",
        "BSplineTransformSplineOrder": "3",
        "FinalGridSpacingInPhysicalUnits": str(knots_mm),
        "HowToCombineTransforms": "Compose",
        **_schedule(iterations, samples, largest_step_mm, seed),
    }
    found = _run(fixed, mask, _carried_back(moving, start), parameters)
    size = [int(n) for n in _numbers(found["GridSize"])]
    values = np.reshape(_numbers(found["TransformParameters"]), (3, *size[::-1]))
    knots = []
    for component in values:
        image = sitk.GetImageFromArray(component)
        image.SetOrigin(_numbers(found["GridOrigin"]))
        image.SetSpacing(_numbers(found["GridSpacing"]))
        image.SetDirection(
            np.reshape(_numbers(found["GridDirection"]), (3, 3)).T.ravel().tolist()
        )  # elastix: by columns
        knots.append(image)
    return sitk.BSplineTransform(knots, 3)


def _schedule(iterations: int, samples: int, largest_step_mm: float, seed: int) -> dict[str, str]:
    return {
        "NumberOfResolutions": "1",  # the caller goes from coarse to fine
        "MaximumNumberOfIterations": str(iterations),
        "NumberOfSpatialSamples": str(samples),
        "MaximumStepLength": str(largest_step_mm),
        "RandomSeed": str(seed),
    }


def _run(
    fixed: sitk.Image, mask: sitk.Image, moving: sitk.Image, parameters: Mapping[str, str | Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """The parameters of the transform that elastix finds, as in its parameter files."""
    words = {name: tuple([value] if isinstance(value, str) else value) for name, value in parameters.items()}
    with _ONE_AT_A_TIME:
        import itk

        chosen = itk.ParameterObject.New()
        chosen.AddParameterMap(words)
        _, found = itk.elastix_registration_method(
            _itk_image(fixed, np.float32),
            _itk_image(moving, np.float32),
            fixed_mask=_itk_image(mask, np.uint8),
            parameter_object=chosen,
            log_to_console=False,
            number_of_threads=1,  # sums in a fixed order
        )
        return dict(found.GetParameterMap(0))


def _itk_image(image: sitk.Image, kind: type) -> Any:
    import itk

    result = itk.image_from_array(np.ascontiguousarray(sitk.GetArrayViewFromImage(image), dtype=kind))
    result.SetOrigin(image.GetOrigin())
    result.SetSpacing(image.GetSpacing())
    result.SetDirection(itk.matrix_from_array(np.reshape(image.GetDirection(), (3, 3))))
    return result


def _carried_back(moving: sitk.Image, start: sitk.Euler3DTransform) -> sitk.Image:
    """The moving image where `start` finds it: the same voxels under another header, so that the fit starts at zero."""
    back = start.GetInverse()
    origin = np.asarray(back.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.column_stack([np.subtract(back.TransformPoint(axis), origin) for axis in np.eye(3).tolist()])
    result = sitk.Image(moving)
    result.SetOrigin(back.TransformPoint(moving.GetOrigin()))
    result.SetDirection((matrix @ np.reshape(moving.GetDirection(), (3, 3))).ravel().tolist())
    return result


def _compose(last: sitk.Euler3DTransform, first: sitk.Euler3DTransform) -> sitk.Euler3DTransform:
    """`first`, then `last`, as one rigid transform about the centre of `last`."""
    center = np.asarray(last.GetCenter())
    matrix = np.reshape(last.GetMatrix(), (3, 3)) @ np.reshape(first.GetMatrix(), (3, 3))
    result = sitk.Euler3DTransform()
    result.SetCenter(center.tolist())
    result.SetMatrix(matrix.ravel().tolist(), 1e-6)
    result.SetTranslation((np.asarray(last.TransformPoint(first.TransformPoint(center.tolist()))) - center).tolist())
    return result


def _words(values: tuple[float, ...]) -> list[str]:
    return [repr(float(value)) for value in values]


def _numbers(words: tuple[str, ...]) -> list[float]:
    return [float(word) for word in words]
