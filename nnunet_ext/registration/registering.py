"""MR brought onto CT: rigid, then elastic (B-spline), each kept only where it is better than what it started from.

Transforms map points of the fixed image (the CT) to points of the moving image (an MR), LPS, mm: what `sitk.Resample`
takes to bring the moving image onto the fixed grid. Similarity is mutual information inside the head; couch and
fixation mask, which only a CT shows, are taken out of it first. The optimisers are SimpleITK's, run on one thread per
image so that the same input gives the same transform (to 0.001 mm: N4 adds up on several threads).

How a level is kept. Rigid against the header's alignment: the larger mutual information over voxels that both see.
Elastic against rigid: a fifth of the head, in blocks, is hidden from the elastic fit, and the fit has to raise the
mutual information there; its Jacobian determinant must stay within `JACOBIAN_RANGE`. Images that show the head in
one position (T1 and T2 of one session) share one transform: each fit is judged on all of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage

from nnunet_ext.cleaning.bias_field import n4
from nnunet_ext.cleaning.body import body_mask_array
from nnunet_ext.cleaning.thresholds import AIR_HU
from nnunet_ext.files import check_output_folder, write_json, written_whole
from nnunet_ext.folder_lock import holding, owned_folder
from nnunet_ext.images.channels import voxel_ml
from nnunet_ext.images.checks import SMALLEST_BODY_ML, check_images
from nnunet_ext.images.file_names import ENDINGS, image_stem
from nnunet_ext.images.geometry import resample_to, to_canonical
from nnunet_ext.images.reading import read_image
from nnunet_ext.images.writing import write_image
from nnunet_ext.pictures.overlays import PLANES, picture_spacing_mm, slice_picture
from nnunet_ext.registration import elastix

log = logging.getLogger(__name__)

HEADER, RIGID, ELASTIC = "header", "rigid", "elastic"
BACKENDS = ("simpleitk", "elastix")
#: CT values that tell tissues apart: fat to compact bone. Beyond, MR shows nothing more.
CT_RANGE_HU = (-300.0, 1200.0)
#: The search from afar looks this far beyond the skin, so that the skin itself counts ...
MARGIN_MM = 6.0
#: ... and the rest this far below it: skin and fat are pressed and swollen differently in the two scanners. Halves the
#: error on phantoms, and brings the average heads of the tests from 2.4 to 1.1 mm.
DEPTH_MM = 8.0
#: Below the crown: head and upper neck. Shoulders, in a CT that goes so far down, lie otherwise in the MR scanner, and
#: they cost 1.4 to 3.8 mm of error on three phantoms, 0.4 to 0.6 mm without. The head's width is that of its upper part.
REACH_MM, HEAD_MM = 200.0, 150.0
BINS = 32
#: Images of one session: a rigid T2 -> T1 registration that moves no part of the head further than this.
SAME_POSITION_MM = 4.0
#: Where T2 -> T1 finds less than this, patient and scanner did not move and the header is exact.
STILL_MM = 0.5
#: A registration that moves less than this is noise, and not worth a resampling.
LEAST_MOVE_MM = 0.1
#: Local change of volume that soft tissue and registration error can explain.
JACOBIAN_RANGE = (0.5, 2.0)
#: Edge of the blocks hidden from the elastic fit, and which part of them.
BLOCK_MM, HIDDEN_SHARE = 12.0, 0.2
#: Share of the head that an image has to show to be registered without a warning.
LEAST_OVERLAP = 0.5
#: Squares of the checkerboard picture, the moving image's colour in it, and depths below the crown: what is shown, where
#: the eyes are.
SQUARE_MM = 25.0
AMBER = np.array([1.0, 0.75, 0.35])
SHOWN_MM, EYES_MM = 220.0, 105.0
#: The strongest tenth of gradients counts as edges.
EDGE_SHARE = 0.1
COARSE_MM, MIDDLE_MM, FINE_MM, ELASTIC_MM = 6.0, 4.0, 2.5, 3.0
#: Shifts along the body that the search from afar tries, and from how many of all starts it goes on.
SEARCH_MM, STARTS = tuple(range(-40, 41, 10)), 3
#: Root mean square change of the B-spline's coefficients in the first and the last step of the elastic fit.
FIRST_STEP_MM, LAST_STEP_MM = 0.05, 0.01


@dataclass(frozen=True)
class RegistrationOptions:
    """How images are registered.

    Args:
        elastic: Go on with a B-spline after the rigid step.
        seed: Of the sampling.
        knots_mm: Distance of the B-spline's knots.
        samples: Voxels the metric looks at.
        elastic_iterations: Most iterations of the elastic fit.
        together: Try one transform for all moving images; False registers each on its own.
        backend: Whose optimiser: `simpleitk`, or `elastix` (the package `itk-elastix`; ModuleNotFoundError without).
    """

    elastic: bool = True
    seed: int = 1
    knots_mm: float = 60.0
    samples: int = 100_000
    elastic_iterations: int = 10
    together: bool = True
    backend: str = "simpleitk"

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"registration backend {self.backend!r} is not one of {', '.join(BACKENDS)}")
        if self.backend == "elastix":
            elastix.require_elastix()


@dataclass(frozen=True)
class ChannelRegistration:
    """One moving image.

    Attributes:
        transform: Fixed points -> moving points, LPS, mm.
        kept: `header`, `rigid` or `elastic`.
        reason: Why, in one line.
        quality: Numbers, plain JSON; see `register`.
    """

    transform: sitk.Transform
    kept: str
    reason: str
    quality: dict


@dataclass(frozen=True)
class RegistrationResult:
    """What `register` found: one entry per moving image, groups that share one transform, and the time it took."""

    channels: dict[str, ChannelRegistration]
    together: list[list[str]]
    options: RegistrationOptions
    runtime_s: float

    @property
    def warnings(self) -> list[str]:
        """One line for every image that is not registered as asked for, or that shows less than half of the head."""
        wanted = ELASTIC if self.options.elastic else RIGID
        lines = [
            f"{name}: kept the {_NAMES[found.kept]}: {found.reason}"
            for name, found in self.channels.items()
            if found.kept != wanted
        ]
        return lines + [
            f"{name}: shows {found.quality['overlap']:.0%} of the head, little to register by; check the checkerboard"
            for name, found in self.channels.items()
            if found.quality["overlap"] < LEAST_OVERLAP
        ]

    def as_dict(self) -> dict:
        """Plain JSON."""
        return {
            "options": asdict(self.options),
            "together": self.together,
            "runtime_s": round(self.runtime_s, 1),
            "images": {
                name: {"kept": found.kept, "reason": found.reason, **found.quality}
                for name, found in self.channels.items()
            },
        }


_NAMES = {HEADER: "header's alignment", RIGID: "rigid alignment", ELASTIC: "elastic alignment"}


def register(
    fixed: sitk.Image,
    moving: Mapping[str, sitk.Image],
    *,
    fixed_is_ct: bool = True,
    options: RegistrationOptions | None = None,
    bias_corrected: bool = False,
    bodies: Mapping[str, np.ndarray] | None = None,
    same_frame: Collection[Collection[str]] | None = None,
) -> RegistrationResult:
    """Transforms that bring each moving image onto the fixed one.

    Args:
        fixed: The CT, in HU or not; couch and fixation mask may be in it. Any orientation, oblique too.
        moving: Name -> MR on a grid of its own.
        fixed_is_ct: False where the fixed image is an MR.
        options: See `RegistrationOptions`.
        bias_corrected: The moving images went through N4 already; otherwise a copy does.
        bodies: Name of a moving image -> its body, bool `(Z, Y, X)` on its canonical grid. Found where it is not given.
        same_frame: Groups of names of moving images that share a frame of reference (DICOM); only these may share one
            transform. None where it is not known: then all may. Either way they have to show the head in one position.

    Returns:
        Transforms and, per image, these numbers: `mutual_information` (nats, 32 x 32 bins, voxels inside the head and
        the field of view of every candidate) for `header`, `rigid` and `elastic`; `hidden_mutual_information`, the
        same over the blocks hidden from the elastic fit; `edge_overlap`, Dice (0 to 1) of the voxels of
        about 3 mm that are edges, the strongest tenth of gradients below the skin, in the fixed and in the moving image
        (0.1 by chance; 0.3 to 0.4 for CT and MR that lie truly together);
        `jacobian`, lowest and highest determinant of the kept transform inside the head; `moved_mm`, mean and largest
        distance between header and kept alignment inside the head; `overlap`, the share of the head that the moving
        image's field of view holds.

    Raises:
        ValueError: If there is no moving image, an image holds nothing, no head is in it, or images cannot be
            brought to overlap.
    """
    started = time.perf_counter()
    options = RegistrationOptions() if options is None else options
    if not moving:
        raise ValueError("no moving image: give at least one image to register")
    check_images({"the fixed image": fixed, **moving}, copies=True)
    target = _Target.of(to_canonical(fixed), is_ct=fixed_is_ct)
    with ThreadPoolExecutor(2) as pool:  # ITK leaves Python's lock, so two images use two cores
        found_bodies = bodies or {}
        made = pool.map(lambda m: _Source.of(*m, bias_corrected, found_bodies.get(m[0])), moving.items())
        sources = dict(zip(moving, made, strict=True))
        rigid = dict(zip(moving, pool.map(lambda s: _rigid(target, s, options), sources.values()), strict=True))
        found: dict[str, ChannelRegistration] = {}
        together: list[list[str]] = []
        for names in _frames(moving, same_frame) if options.together else [[name] for name in moving]:
            links = _links({name: sources[name] for name in names}, options)
            together += [list(links)] if len(links) > 1 else []
            for group in [list(links), *([name] for name in names if name not in links)]:
                members = {
                    name: (sources[name], links.get(name, sitk.Transform(3, sitk.sitkIdentity))) for name in group
                }
                found |= _register_group(target, members, {name: rigid[name] for name in group}, options, pool)
    return RegistrationResult({name: found[name] for name in moving}, together, options, time.perf_counter() - started)


def _frames(moving: Collection[str], same_frame: Collection[Collection[str]] | None) -> list[list[str]]:
    """Names in groups that may share one transform, each name once, in the order given."""
    if same_frame is None:
        return [list(moving)]
    groups = [[name for name in moving if name in frame] for frame in same_frame]
    grouped = [name for group in groups for name in group]
    if len(set(grouped)) != len(grouped):
        raise ValueError(f"same_frame {same_frame}: an image has one frame of reference, not two")
    return [group for group in groups if group] + [[name] for name in moving if name not in grouped]


# ---------------------------------------------------------------------------------------------- the two sides


@dataclass(frozen=True)
class _Target:
    """The fixed image as the metric sees it: values limited, couch gone, cropped to the head; and the head."""

    image: sitk.Image
    mask: sitk.Image  # head and a margin: for the search from afar
    core: sitk.Image  # the head below skin and fat: for all that follows
    grid: sitk.Image  # `image` at about 3 mm: where everything is judged
    head: np.ndarray  # head and margin on that grid
    inside: np.ndarray  # the core on that grid
    hidden: np.ndarray  # the blocks of the core that the elastic fit does not see
    fit_masks: tuple[sitk.Image, sitk.Image]  # without these blocks: of the core, of the head and margin
    center_mm: np.ndarray
    top_mm: np.ndarray
    shrunk: dict[float, sitk.Image] = field(default_factory=dict)  # voxel size -> `image`, see `_shrunk`

    @classmethod
    def of(cls, image: sitk.Image, *, is_ct: bool) -> _Target:
        array, body = _values(image, "the fixed image", is_ct=is_ct)
        spacing = np.asarray(image.GetSpacing()[::-1])
        body = _head_only(body, spacing)
        reach = _dilate(body, MARGIN_MM, spacing)
        box = ndimage.find_objects(reach.view(np.uint8))[0]
        region = [s.stop - s.start for s in box[::-1]], [s.start for s in box[::-1]]
        cropped = sitk.RegionOfInterest(_like(array, image), *region)
        mask = sitk.RegionOfInterest(_like(reach.astype(np.uint8), image), *region)
        deep = _deeper_than(DEPTH_MM, body, spacing)
        deep = deep if np.count_nonzero(deep) > 0.2 * np.count_nonzero(body) else body
        core = sitk.RegionOfInterest(_like(deep.astype(np.uint8), image), *region)
        grid = _shrink(cropped, ELASTIC_MM)
        head, inside = (
            sitk.GetArrayFromImage(sitk.Resample(m, grid, sitk.Transform(), sitk.sitkNearestNeighbor)) > 0
            for m in (mask, core)
        )
        hidden_image = _hidden_blocks(mask)
        hidden = sitk.GetArrayFromImage(sitk.Resample(hidden_image, grid, sitk.Transform(), sitk.sitkNearestNeighbor))
        shown = sitk.Cast(hidden_image == 0, sitk.sitkUInt8)
        fit_masks = sitk.And(core, shown), sitk.And(mask, shown)
        return cls(
            cropped, mask, core, grid, head, inside, (hidden > 0) & inside, fit_masks, *_middle_and_top(body, image)
        )


@dataclass(frozen=True)
class _Source:
    """A moving image as the metric sees it."""

    name: str
    image: sitk.Image
    body: np.ndarray
    center_mm: np.ndarray
    top_mm: np.ndarray
    outside: float  # below all values
    shrunk: dict[float, sitk.Image] = field(default_factory=dict)  # voxel size -> `image`, see `_shrunk`

    @classmethod
    def of(cls, name: str, image: sitk.Image, bias_corrected: bool, body: np.ndarray | None = None) -> _Source:
        image = to_canonical(image)
        array, body = _values(image, name, is_ct=False, correct_bias=not bias_corrected, body=body)
        return cls(name, _like(array, image), body, *_middle_and_top(body, image), float(array.min()) - 1.0)


def _values(
    image: sitk.Image, name: str, *, is_ct: bool, correct_bias: bool = True, body: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Values for the metric, 32-bit float, and the body, which is found if None."""
    array = sitk.GetArrayFromImage(image).astype(np.float32)
    if body is None:
        body = body_mask_array(array, spacing_mm=image.GetSpacing()[::-1], is_ct=is_ct)
    if np.count_nonzero(body) * voxel_ml(image) < SMALLEST_BODY_ML:
        raise ValueError(f"{name}: less than {SMALLEST_BODY_ML:g} mL of body found, nothing to register")
    if is_ct:
        in_hu = array.min() <= -500
        low, high = CT_RANGE_HU if in_hu else np.percentile(array[body], (0.5, 99.5))
        array[~body] = AIR_HU if in_hu else array.min()
        return np.clip(array, low, high).astype(np.float32), body
    if correct_bias:
        array = sitk.GetArrayFromImage(n4(image, body=body)).astype(np.float32)
    return np.clip(array, array.min(), np.percentile(array[body], 99.5)).astype(np.float32), body


def _head_only(body: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The body down to `REACH_MM` below the crown and as wide as the head is, to 10 mm."""
    top = int(np.flatnonzero(body.any(axis=(1, 2)))[-1]) + 1
    lowest, head = (max(0, top - round(mm / spacing[0])) for mm in (REACH_MM, HEAD_MM))
    _, *box = ndimage.find_objects(body[head:top].view(np.uint8))[0]
    rows, columns = (
        slice(max(0, s.start - round(10 / mm)), s.stop + round(10 / mm)) for s, mm in zip(box, spacing[1:], strict=True)
    )
    result = np.zeros_like(body)
    result[lowest:top, rows, columns] = body[lowest:top, rows, columns]
    return result


def _middle_and_top(body: np.ndarray, image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """World points: the middle of the body's upper 150 mm, and the same with the height of its top."""
    slices = np.flatnonzero(body.any(axis=(1, 2)))
    depth = max(1, int(150 / image.GetSpacing()[2]))
    upper = np.zeros_like(body)
    upper[max(slices[0], slices[-1] + 1 - depth) : slices[-1] + 1] = True
    z, y, x = (float(c) for c in ndimage.center_of_mass(body & upper))
    middle, top = (image.TransformContinuousIndexToPhysicalPoint(p) for p in ((x, y, z), (x, y, float(slices[-1]))))
    return np.asarray(middle), np.asarray(top)


def _hidden_blocks(mask: sitk.Image) -> sitk.Image:
    """1 in a fixed, evenly spread fifth of the blocks."""
    rng = np.random.default_rng(0)
    blocks = [
        (np.arange(n) * mm / BLOCK_MM).astype(int) for n, mm in zip(mask.GetSize(), mask.GetSpacing(), strict=True)
    ]
    chosen = rng.random([b[-1] + 1 for b in blocks[::-1]]) < HIDDEN_SHARE
    return _like(chosen[np.ix_(*blocks[::-1])].astype(np.uint8), mask)


def _deeper_than(depth_mm: float, body: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Voxels of a body further than so much from its nearest outside voxel, which lies at most one voxel beyond its box."""
    box = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in ndimage.find_objects(body.view(np.uint8))[0])
    deep = np.zeros_like(body)
    deep[box] = ndimage.distance_transform_edt(body[box], sampling=spacing) > depth_mm
    return deep


def _dilate(mask: np.ndarray, distance_mm: float, spacing: np.ndarray) -> np.ndarray:
    radius = np.maximum(1, np.rint(distance_mm / spacing)).astype(int)
    result = mask.view(np.uint8)
    for axis, r in enumerate(radius):
        result = ndimage.maximum_filter1d(result, 2 * r + 1, axis=axis, mode="constant")
    return result.view(bool)


def _shrink(image: sitk.Image, voxel_mm: float) -> sitk.Image:
    """Means over blocks of voxels, of about the size asked for."""
    return sitk.BinShrink(image, [max(1, int(voxel_mm / mm + 0.3)) for mm in image.GetSpacing()])


def _shrunk(side: _Target | _Source, voxel_mm: float) -> sitk.Image:
    """`_shrink` of a side's image, computed once."""
    if voxel_mm not in side.shrunk:
        side.shrunk[voxel_mm] = _shrink(side.image, voxel_mm)
    return side.shrunk[voxel_mm]


def _like(array: np.ndarray, image: sitk.Image) -> sitk.Image:
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(image)
    return result


# ----------------------------------------------------------------------------------------------- the fits


def _method(fixed: sitk.Image, mask: sitk.Image, samples: int, seed: int) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # sums in a fixed order
    method.SetMetricAsMattesMutualInformation(40)
    method.SetMetricFixedMask(mask)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(min(1.0, samples / fixed.GetNumberOfPixels()), seed)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _fit_rigid(
    target: _Target,
    mask: sitk.Image,
    source: _Source,
    start: sitk.Euler3DTransform,
    options: RegistrationOptions,
    *,
    voxel_mm: float,
    samples: int,
    step_mm: float,
    last_step_mm: float,
) -> sitk.Euler3DTransform:
    fixed, moving = _shrunk(target, voxel_mm), _shrunk(source, voxel_mm)
    if options.backend == "elastix":
        return elastix.fit_rigid(
            fixed, mask, moving, start,
            iterations=300, samples=4000, largest_step_mm=step_mm, seed=options.seed,
        )  # fmt: skip
    method = _method(fixed, mask, samples, options.seed)
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


def _rigid(target: _Target, source: _Source, options: RegistrationOptions) -> sitk.Euler3DTransform:
    """The most promising of many starts, refined level by level; a level that is not better is not kept.

    Starts: header, middles of the heads, crowns, each also shifted along the body: of a slab, or of a head that does not
    fill its image, the middle says little.
    """
    base_mm = (np.zeros(3), source.center_mm - target.center_mm, source.top_mm - target.top_mm)
    tried = []
    for shift_mm in [base + np.array([0.0, 0.0, along]) for base in base_mm for along in SEARCH_MM]:
        start = sitk.Euler3DTransform()
        start.SetCenter(target.center_mm.tolist())
        start.SetTranslation(shift_mm.tolist())
        tried.append((_information(target, source, start, target.head), start))
    tried.sort(key=lambda pair: -pair[0])
    starts: list[sitk.Euler3DTransform] = []
    for _, start in tried:
        apart = [np.linalg.norm(np.subtract(start.GetTranslation(), other.GetTranslation())) for other in starts]
        if len(starts) < STARTS and all(mm > 5.0 for mm in apart):
            starts.append(start)
    found = []
    for start in starts:
        try:
            fitted = _fit_rigid(
                target, target.mask, source, start, options,
                voxel_mm=COARSE_MM, samples=20_000, step_mm=2.0, last_step_mm=0.02,
            )  # fmt: skip
        except RuntimeError:  # ITK: all samples map outside the moving image
            continue
        found.append((_information(target, source, fitted, target.head), fitted))
    if not found:
        raise ValueError(f"{source.name} and the fixed image cannot be brought to overlap; check what they show")
    best = max(found, key=lambda pair: pair[0])[1]
    information = _information(target, source, best, target.inside)
    for voxel_mm, samples, step_mm in ((MIDDLE_MM, options.samples // 2, 1.0), (FINE_MM, options.samples, 0.5)):
        fitted = _fit_rigid(
            target, target.core, source, best, options,
            voxel_mm=voxel_mm, samples=samples, step_mm=step_mm, last_step_mm=step_mm / 1000,
        )  # fmt: skip
        if (new := _information(target, source, fitted, target.inside)) > information:
            best, information = fitted, new
    return best


def _links(sources: Mapping[str, _Source], options: RegistrationOptions) -> dict[str, sitk.Transform]:
    """Points of the first moving image -> points of each image that shows the head in the same position, itself first.

    Rigid registration starts from the header, which is right within `SAME_POSITION_MM` where images share a frame of
    reference.
    """
    (first_name, first), *others = sources.items()
    links = {first_name: sitk.Transform(3, sitk.sitkIdentity)}
    if not others:
        return links
    target = _Target.of(first.image, is_ct=False)
    head = _points(target.grid, target.head)
    for name, source in others:
        start = sitk.Euler3DTransform()
        start.SetCenter(target.center_mm.tolist())
        try:
            link = _fit_rigid(
                target, target.core, source, start, options,
                voxel_mm=FINE_MM, samples=options.samples, step_mm=0.5, last_step_mm=5e-4,
            )  # fmt: skip
        except RuntimeError:
            continue
        moved = np.linalg.norm(_apply(link, head) - head, axis=1).max()
        if moved <= STILL_MM:
            links[name] = sitk.Transform(3, sitk.sitkIdentity)
        elif moved <= SAME_POSITION_MM:
            links[name] = link
    return links


def _fit_elastic(
    target: _Target, mask: sitk.Image, source: _Source, start: sitk.Transform, options: RegistrationOptions
) -> sitk.BSplineTransform | None:
    """A B-spline applied before `start`; None where the optimiser gives up."""
    fixed, moving = _shrunk(target, ELASTIC_MM), _shrunk(source, ELASTIC_MM)
    if options.backend == "elastix":
        try:
            return elastix.fit_elastic(
                fixed, mask, moving, _euler(start, target.center_mm),
                knots_mm=options.knots_mm, iterations=100, samples=4000, largest_step_mm=0.5, seed=options.seed,
            )  # fmt: skip
        except RuntimeError as error:
            log.debug("elastic fit of %s: %s", source.name, error)
            return None
    method = _method(fixed, mask, options.samples, options.seed)
    extent_mm = np.asarray(target.image.GetSize()) * target.image.GetSpacing()
    mesh = [max(1, round(float(mm) / options.knots_mm)) for mm in extent_mm]
    spline = sitk.BSplineTransformInitializer(target.image, mesh, 3)
    method.SetMovingInitialTransform(start)
    method.SetInitialTransform(spline, inPlace=True)
    # Steps are lengths of the whole parameter vector in mm: each knot's displacement changes by `FIRST_STEP_MM` at first.
    # LBFGSB was tried and stops at once on some images: the metric's gradient is only approximate.
    size = np.sqrt(spline.GetNumberOfParameters())
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=FIRST_STEP_MM * size,
        minStep=LAST_STEP_MM * size,
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


# ------------------------------------------------------------------------------------- candidates and the choice


def _register_group(
    target: _Target,
    members: Mapping[str, tuple[_Source, sitk.Transform]],
    rigid: Mapping[str, sitk.Euler3DTransform],
    options: RegistrationOptions,
    pool: ThreadPoolExecutor,
) -> dict[str, ChannelRegistration]:
    """One shared transform for images that show the head in one position; `members`: source, and link to it."""

    def score(transform: sitk.Transform, where: np.ndarray) -> float:
        """Mean over the images."""
        return float(np.mean([_information(target, s, _chain(link, transform), where) for s, link in members.values()]))

    shared = [_euler(_chain(link.GetInverse(), rigid[name]), target.center_mm) for name, (_, link) in members.items()]
    if len(shared) > 1:
        shared.append(_mean_euler(shared))
    best_rigid = max(shared, key=lambda t: score(t, target.inside))
    splines = _elastic_candidates(target, members, best_rigid, options, pool) if options.elastic else []
    best_elastic, reason_against = None, "the elastic fit did not converge"
    if splines:
        elastic = [sitk.CompositeTransform([best_rigid, spline]) for spline in splines]  # the last is applied first
        best_elastic = max(elastic, key=lambda t: score(t, target.hidden))
        jacobian = _jacobian_range(best_elastic, target)
        if not (JACOBIAN_RANGE[0] <= jacobian[0] and jacobian[1] <= JACOBIAN_RANGE[1]):
            reason_against = f"the elastic one changes volumes by {jacobian[0]:.2f} to {jacobian[1]:.2f}"
        elif score(best_elastic, target.hidden) <= score(best_rigid, target.hidden):
            reason_against = "the elastic one does not raise the mutual information of the hidden blocks"
        else:
            reason_against = ""
    identity = sitk.Transform(3, sitk.sitkIdentity)
    result = {}
    for name, (source, link) in members.items():
        levels = {HEADER: identity, RIGID: _chain(link, best_rigid)}
        if best_elastic is not None:
            levels[ELASTIC] = _chain(link, best_elastic)
        result[name] = _choose(target, source, levels, reason_against, options)
    return result


def _elastic_candidates(
    target: _Target,
    members: Mapping[str, tuple[_Source, sitk.Transform]],
    rigid: sitk.Transform,
    options: RegistrationOptions,
    pool: ThreadPoolExecutor,
) -> list[sitk.BSplineTransform]:
    """Fits to the core and to the whole head, their mean, and a half and a quarter of each.

    The skin helps in some heads and misleads in others, and a fit overshoots: on phantoms half of the displacement is
    often nearer to the truth. Images that share a transform are fitted one by one and averaged.
    """
    jobs = [(mask, source, _chain(link, rigid)) for mask in target.fit_masks for source, link in members.values()]
    fits = list(pool.map(lambda job: _fit_elastic(target, *job, options), jobs))
    halves = [fits[: len(members)], fits[len(members) :]]
    means = [_mean_spline(found) for half in halves if (found := [fit for fit in half if fit is not None])]
    if len(means) > 1:
        means.append(_mean_spline(means))
    return [_scaled_spline(spline, factor) for factor in (1.0, 0.5, 0.25) for spline in means]


def _choose(
    target: _Target,
    source: _Source,
    levels: Mapping[str, sitk.Transform],
    reason_against_elastic: str,
    options: RegistrationOptions,
) -> ChannelRegistration:
    views = {level: _on_grid(target, source, transform) for level, transform in levels.items()}
    # Where header and registration lie so far apart that they hardly see the same voxels, outside counts as dark.
    seen = np.logical_and.reduce([view[1] for view in views.values()]) & target.inside
    registered = views[RIGID][1] & target.inside
    if np.count_nonzero(seen) < 0.5 * np.count_nonzero(registered):
        seen = target.inside
    fixed = sitk.GetArrayViewFromImage(target.grid)
    information = {level: mutual_information(fixed[seen], view[0][seen]) for level, view in views.items()}
    hidden = {
        level: mutual_information(fixed[seen & target.hidden], view[0][seen & target.hidden])
        for level, view in views.items()
    }
    points = _points(target.grid, target.head)

    def moves_mm(level: str) -> np.ndarray:
        return np.linalg.norm(_apply(levels[level], points) - points, axis=1)

    stays = moves_mm(RIGID).max() < LEAST_MOVE_MM
    if (stays or information[RIGID] <= information[HEADER]) and (
        reason_against_elastic or hidden.get(ELASTIC, -1.0) <= hidden[HEADER]
    ):
        kept = HEADER
        numbers = f"{information[HEADER]:.4f} to {information[RIGID]:.4f}"
        reason = f"registration does not raise the mutual information ({numbers})"
        if stays:
            reason = f"registration moves no part of the head by {LEAST_MOVE_MM:g} mm"
    elif not options.elastic:
        kept, reason = RIGID, "elastic registration was not asked for"
    elif reason_against_elastic:
        kept, reason = RIGID, reason_against_elastic
    else:
        kept = ELASTIC
        reason = f"mutual information of the hidden blocks {hidden[RIGID]:.4f} to {hidden[ELASTIC]:.4f}"
    edges = _edges(fixed, target.inside)
    moved = moves_mm(kept)
    quality = {
        "mutual_information": _rounded(information),
        "hidden_mutual_information": _rounded(hidden),
        "edge_overlap": _rounded({level: _overlap(view, edges, target.inside) for level, view in views.items()}),
        "jacobian": [round(v, 4) for v in _jacobian_range(levels[kept], target)] if kept == ELASTIC else [1.0, 1.0],
        "moved_mm": {"mean": round(float(moved.mean()), 3), "max": round(float(moved.max()), 3)},
        "overlap": round(float(np.count_nonzero(views[kept][1] & target.head) / np.count_nonzero(target.head)), 4),
    }
    return ChannelRegistration(levels[kept], kept, reason, quality)


def mutual_information(a: np.ndarray, b: np.ndarray, *, bins: int = BINS) -> float:
    """Mutual information of two arrays of paired values in nats; 0 where one of them is constant.

    Bins are of equal width between the 1st and 99th percentile; values beyond fall into the first and last bin.
    """
    index = []
    for values in (a, b):
        low, high = np.percentile(values, (1, 99)) if values.size else (0.0, 0.0)
        if not high > low:
            return 0.0
        index.append(np.clip(((values - low) * (bins / (high - low))).astype(int), 0, bins - 1))
    joint = np.bincount(index[0] * bins + index[1], minlength=bins * bins).reshape(bins, bins) / index[0].size
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    used = joint > 0
    return float(np.sum(joint[used] * np.log(joint[used] / product[used])))


def _information(target: _Target, source: _Source, transform: sitk.Transform, where: np.ndarray) -> float:
    values, _ = _on_grid(target, source, transform)
    return mutual_information(sitk.GetArrayViewFromImage(target.grid)[where], values[where])


def _on_grid(target: _Target, source: _Source, transform: sitk.Transform) -> tuple[np.ndarray, np.ndarray]:
    """Moving values on the judging grid, and which of its voxels the moving image's field of view holds."""
    outside, smooth = source.outside, _shrunk(source, ELASTIC_MM)
    values = sitk.GetArrayFromImage(sitk.Resample(smooth, target.grid, transform, sitk.sitkLinear, outside))
    inside = values > outside
    return np.where(inside, values, outside + 1.0), inside


def _edges(values: np.ndarray, head: np.ndarray) -> np.ndarray:
    strength = ndimage.gaussian_gradient_magnitude(values.astype(np.float32), 0.7)
    return head & (strength >= np.quantile(strength[head], 1 - EDGE_SHARE))


def _overlap(view: tuple[np.ndarray, np.ndarray], fixed_edges: np.ndarray, inside: np.ndarray) -> float:
    values, in_view = view
    seen = inside & ndimage.binary_erosion(in_view)  # the border of the field of view is no edge of the head
    if not seen.any():
        return 0.0
    edges = _edges(values, seen)
    both = np.count_nonzero(edges & fixed_edges)
    return float(2 * both / max(1, np.count_nonzero(edges) + np.count_nonzero(fixed_edges)))


def _jacobian_range(transform: sitk.Transform, target: _Target) -> tuple[float, float]:
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, target.grid.GetSize(), target.grid.GetOrigin(), target.grid.GetSpacing(),
        target.grid.GetDirection(),
    )  # fmt: skip
    values = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field))[target.head]
    return float(values.min()), float(values.max())


def _points(grid: sitk.Image, mask: np.ndarray, most: int = 500) -> np.ndarray:
    index = np.argwhere(mask)
    index = index[:: max(1, len(index) // most)]
    return np.array([grid.TransformContinuousIndexToPhysicalPoint([float(v) for v in zyx[::-1]]) for zyx in index])


def _apply(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(point.tolist()) for point in points])


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in values.items()}


# ---------------------------------------------------------------------------------------------- transforms


def _chain(last: sitk.Transform, first: sitk.Transform) -> sitk.Transform:
    """`first`, then `last`, without needless identities."""
    if "Identity" in last.GetName():
        return first
    chain = sitk.CompositeTransform([last, first])
    chain.FlattenTransform()  # a file cannot hold a chain inside a chain
    return chain


def _euler(transform: sitk.Transform, center_mm: np.ndarray) -> sitk.Euler3DTransform:
    """A rigid transform about a given centre."""
    origin = np.asarray(transform.TransformPoint(center_mm.tolist()))
    axes = np.column_stack(
        [np.asarray(transform.TransformPoint((center_mm + 100.0 * e).tolist())) - origin for e in np.eye(3)]
    )
    u, _, vt = np.linalg.svd(axes)
    result = sitk.Euler3DTransform()
    result.SetCenter(center_mm.tolist())
    result.SetMatrix((u @ vt).ravel().tolist(), 1e-8)
    result.SetTranslation((origin - center_mm).tolist())
    return result


def _mean_euler(transforms: Sequence[sitk.Euler3DTransform]) -> sitk.Euler3DTransform:
    """Mean of rigid transforms about one centre that differ by little."""
    result = sitk.Euler3DTransform(transforms[0])
    u, _, vt = np.linalg.svd(np.mean([np.reshape(t.GetMatrix(), (3, 3)) for t in transforms], axis=0))
    result.SetMatrix((u @ vt).ravel().tolist(), 1e-8)
    result.SetTranslation(np.mean([t.GetTranslation() for t in transforms], axis=0).tolist())
    return result


def _mean_spline(splines: Sequence[sitk.BSplineTransform]) -> sitk.BSplineTransform:
    result = sitk.BSplineTransform(splines[0])
    result.SetParameters(np.mean([s.GetParameters() for s in splines], axis=0).tolist())
    return result


def _scaled_spline(spline: sitk.BSplineTransform, factor: float) -> sitk.BSplineTransform:
    result = sitk.BSplineTransform(spline)
    result.SetParameters((factor * np.asarray(spline.GetParameters())).tolist())
    return result


# ------------------------------------------------------------------------------------------ files and the picture


@holding(owned_folder, "out")
def register_files(
    fixed: Path,
    moving: Sequence[Path],
    out: Path,
    *,
    fixed_is_ct: bool = True,
    rigid_only: bool = False,
    seed: int | None = None,
    separate: bool = False,
    backend: str = "simpleitk",
) -> RegistrationResult:
    """Register image files; what `nnunet_ext register` does.

    Writes for each moving image `NAME` into `out`: `NAME_registered.nii.gz` (cubic B-spline, on the fixed grid),
    `NAME.tfm` (fixed points -> moving points), and for all of them `registration.json` and `checkerboard.png`.

    Args:
        fixed: The CT.
        moving: MR images; their file names name the results, so they must differ.
        out: Folder for the results, made if needed.
        fixed_is_ct: False where the fixed image is an MR.
        rigid_only: Leave the elastic step out.
        seed: Of the sampling.
        separate: Do not look for one transform that fits all moving images.
        backend: Whose optimiser, `simpleitk` or `elastix`.

    Raises:
        FileNotFoundError, ValueError: If an image cannot be read or registered.
    """
    check_output_folder(out)
    for path in (fixed, *moving):
        if Path(path).is_dir():
            raise IsADirectoryError(
                f"{path} is a folder, where one image is needed: name a file that ends in {', '.join(ENDINGS)}. DICOM "
                "series are registered by nnunet_ext convert --register, which makes such files of them"
            )
    options = RegistrationOptions(elastic=not rigid_only, together=not separate, backend=backend)
    if seed is not None:
        options = replace(options, seed=seed)
    fixed_image = read_image(Path(fixed))
    names = [image_stem(Path(path)) or Path(path).name for path in moving]
    if len({name.casefold() for name in names}) != len(names):
        raise ValueError(f"moving images {', '.join(names)}: two have one name, so results would overwrite each other")
    images = {name: read_image(Path(path)) for name, path in zip(names, moving, strict=True)}
    check_images({"the fixed image": fixed_image, **images})
    result = register(fixed_image, images, fixed_is_ct=fixed_is_ct, options=options)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    registered = {}
    for name, image in images.items():
        registered[name] = resample_to(image, fixed_image, transform=result.channels[name].transform)
        write_image(registered[name], out / f"{name}_registered.nii.gz")
        with written_whole(out / f"{name}.tfm", ending=".tfm") as temporary:
            sitk.WriteTransform(result.channels[name].transform, str(temporary))
    before = {name: resample_to(image, fixed_image) for name, image in images.items()}
    write_report(result, fixed_image, before, registered, out)
    return result


def write_report(
    result: RegistrationResult,
    fixed: sitk.Image,
    before: Mapping[str, sitk.Image],
    registered: Mapping[str, sitk.Image],
    out: Path,
) -> None:
    """`registration.json` and `checkerboard.png` in the folder `out`; images lie on the grid of `fixed`."""
    out = Path(out)
    write_json({**result.as_dict(), "warnings": result.warnings}, out / "registration.json")
    figure = draw_checkerboard(result, fixed, before, registered)
    with written_whole(out / "checkerboard.png") as temporary:
        figure.savefig(temporary, format="png", facecolor="black")


def draw_checkerboard(
    result: RegistrationResult,
    fixed: sitk.Image,
    before: Mapping[str, sitk.Image],
    registered: Mapping[str, sitk.Image],
) -> Figure:
    """Fixed (grey) and moving (amber) image in turn on a checkerboard: two rows per moving image, before and after.

    Columns: the axial slice near the eyes' height, the same around the orbits in smaller squares, the middle coronal and
    sagittal slices. Radiological view: the patient's right is on the left of axial and coronal pictures. Titles give what
    was kept (red where it is the header's alignment) and the numbers of the report.
    """
    fixed_lps = to_canonical(fixed)
    array = sitk.GetArrayFromImage(fixed_lps).astype(np.float32)
    spacing = fixed_lps.GetSpacing()[::-1]
    body = body_mask_array(array, spacing_mm=spacing, is_ct=float(array.min()) <= -500)
    body = body if body.any() else np.ones_like(body)
    views = _views(body, spacing)
    rows = []
    for name, found in result.channels.items():
        rows += [(name, found, "before", before[name]), (name, found, "after", registered[name])]
    figure = Figure(figsize=(3.4 * len(views) + 0.2, 3.5 * len(rows) + 0.2), dpi=100, facecolor="black")
    FigureCanvasAgg(figure)
    board = figure.subplots(len(rows), len(views), squeeze=False)
    grey_fixed = _grey(array, body)
    for line, (name, found, when, image) in zip(board, rows, strict=True):
        grey_moving = _grey(sitk.GetArrayFromImage(to_canonical(image)).astype(np.float32), body)
        for axes, (plane, index, box, square_mm) in zip(line, views, strict=True):
            pixel_mm = picture_spacing_mm(spacing, plane)
            pair = [slice_picture(volume[box], plane, index) for volume in (grey_fixed, grey_moving)]
            rows_mm, columns_mm = (np.arange(n) * mm for n, mm in zip(pair[0].shape, pixel_mm, strict=True))
            odd = ((rows_mm[:, None] // square_mm + columns_mm[None] // square_mm) % 2).astype(bool)
            height, width = (n * mm for n, mm in zip(pair[0].shape, pixel_mm, strict=True))
            colours = np.where(odd[..., None], pair[1][..., None] * AMBER, pair[0][..., None])
            axes.imshow(colours, extent=(0, width, height, 0))
            axes.set(xticks=[], yticks=[])
            left, right, upper, lower = PLANES[plane][1]
            for letter, x, y in ((left, 0.04, 0.5), (right, 0.96, 0.5), (upper, 0.5, 0.96), (lower, 0.5, 0.04)):
                axes.text(x, y, letter, color="yellow", ha="center", va="center", transform=axes.transAxes)
            scale_mm = 2 * square_mm
            axes.plot([0.03 * width, 0.03 * width + scale_mm], [0.97 * height] * 2, color="yellow", linewidth=2)
            axes.text(0.03 * width, 0.94 * height, f"{scale_mm:g} mm", color="yellow", fontsize=8)
        level = HEADER if when == "before" else found.kept
        line[0].set_title(
            f"{name} {when}: {_NAMES[level]}{' kept' if when == 'after' else ''}; "
            f"mutual information {found.quality['mutual_information'][level]:.3f}, "
            f"edge overlap {found.quality['edge_overlap'][level]:.2f}, "
            f"moved by {found.quality['moved_mm']['mean'] if when == 'after' else 0:.1f} mm on average "
            f"(grey: fixed image, amber: {name})",
            color="tomato" if when == "after" and level == HEADER else "white",
            fontsize=11,
            loc="left",
        )
    # Not `tight_layout`: a title runs over all columns.
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - 0.1 / len(rows), bottom=0.01, wspace=0.03, hspace=0.12)
    return figure


def _views(body: np.ndarray, spacing: Sequence[float]) -> list[tuple[str, int, tuple[slice, slice, slice], float]]:
    """Plane, index inside the box, box to show, edge of the squares in mm; from the body on a canonical grid.

    Only the upper part of the body counts: a CT may go down to the shoulders.
    """
    top = int(np.flatnonzero(body.any(axis=(1, 2)))[-1]) + 1
    depth = [max(0, top - round(mm / spacing[0])) for mm in (SHOWN_MM, HEAD_MM, EYES_MM)]
    head = ndimage.find_objects(body[depth[1] : top].view(np.uint8))[0]
    margin = [round(10.0 / mm) for mm in spacing]
    rows, columns = (
        slice(max(0, s.start - m), min(n, s.stop + m))
        for s, m, n in zip(head[1:], margin[1:], body.shape[1:], strict=True)
    )
    box = slice(depth[0], min(body.shape[0], top + margin[0])), rows, columns
    middle = [(s.start + s.stop) // 2 for s in head[1:]]
    front = np.flatnonzero(body[depth[2], :, head[2]].any(axis=1))
    front = int(front[0]) if front.size else head[1].start
    half = round(60.0 / spacing[2])
    orbits = (
        slice(depth[2], depth[2] + 1),
        slice(max(0, front - margin[1] // 2), front + round(90.0 / spacing[1])),
        slice(max(0, middle[1] - half), middle[1] + half),
    )
    return [
        ("axial", depth[2] - box[0].start, box, SQUARE_MM),
        ("axial", 0, orbits, SQUARE_MM / 2),
        ("coronal", middle[0] - rows.start, box, SQUARE_MM),
        ("sagittal", middle[1] - columns.start, box, SQUARE_MM),
    ]


def _grey(volume: np.ndarray, body: np.ndarray) -> np.ndarray:
    """0..1, with the tissue between its 5th and 98th percentile spread over it."""
    low, high = np.percentile(volume[body], (5, 98))
    return np.clip((volume - low) / max(float(high - low), 1e-6), 0, 1)
