"""A case's channels as read -> as nnU-Net gets them: on one canonical grid, aligned, clean.

One place for conversion and prediction, so that a new case is treated as the training cases were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk

from nnunet_ext.cleaning.body import (
    CORE_THRESHOLD_HU,
    body_mask_array,
    body_seen_by_mr,
    body_thresholds,
    check_body,
    clean_ct,
    clip_padding,
    hu_problem,
    metal,
    n4,
    window,
    without_mr_padding,
)
from nnunet_ext.images.channels import image_like, is_ct, reference_channel, voxel_ml
from nnunet_ext.images.checks import SMALLEST_BODY_ML, check_images, lost_slices, report_lost_slices, shown
from nnunet_ext.images.geometry import describe_grid, field_of_view, resample_to, same_grid, to_canonical
from nnunet_ext.registration.registering import HEADER, RegistrationOptions, register
from nnunet_ext.steps import step

#: Two images are not of one patient if the MR shows less than this share of the reference's body, and the reference's body
#: holds less than this share of the MR's body.
LEAST_OVERLAP = 0.5
#: Below this share of the body inside an MR's field of view the case is converted with a warning.
FULL_COVERAGE = 0.95
_IN_IMAGE, _IN_BODY, _IN_VIEW = 1, 2, 4


@dataclass(frozen=True)
class ChannelOptions:
    """What is done to the channels of every case; prediction repeats what the training data got.

    Args:
        clean_ct: Replace couch and mask by air.
        n4: Remove the bias field of channels that are not CT.
        window_hu: Clip the CT to this window; None leaves it.
        allow_non_hu: Accept a CT whose values are not HU.
        register: Register the other channels to the reference channel before they are resampled.
        register_backend: Whose optimiser, `simpleitk` or `elastix` (the package `itk-elastix`).
    """

    clean_ct: bool = True
    n4: bool = True
    window_hu: tuple[float, float] | None = None
    allow_non_hu: bool = False
    register: bool = False
    register_backend: str = "simpleitk"


@dataclass(frozen=True)
class Channels:
    """A case's channels on one canonical grid.

    Attributes:
        images: Channel name -> image, in the order given.
        body: Bool `(Z, Y, X)` on that grid.
        fields_of_view: Channel name -> bool `(Z, Y, X)`, for the channels that were resampled or have blank slices.
        record: What was done and found per channel, plain JSON.
        warnings: One line each, for the user.
        n4_pairs: Channel name -> image before and after N4, on its own canonical grid.
        n4_bodies: Channel name -> body that N4 looked at, bool `(Z, Y, X)` on that grid.
    """

    images: dict[str, sitk.Image]
    body: np.ndarray
    fields_of_view: dict[str, np.ndarray]
    record: dict[str, dict]
    warnings: list[str]
    n4_pairs: dict[str, tuple[sitk.Image, sitk.Image]] = field(default_factory=dict)
    n4_bodies: dict[str, np.ndarray] = field(default_factory=dict)


def prepare_channels(
    images: Mapping[str, sitk.Image],
    options: ChannelOptions,
    *,
    keep: np.ndarray | None = None,
    same_frame: Sequence[Sequence[str]] | None = None,
    optional: Sequence[str] = (),
) -> Channels:
    """Channels as read -> channels as nnU-Net gets them: one canonical grid, clean CT, MR without bias field.

    Args:
        images: Channel name -> image as read, in channel order; the CT (else the first) gives the grid.
        options: What to do.
        keep: Bool `(Z, Y, X)` on the canonical reference grid, voxels the CT cleaning never touches.
        same_frame: Groups of channels that share a frame of reference; None where it is not known. See `register`.
        optional: Channels that a case may lack, for the message where one is blank.

    Raises:
        ValueError: If a channel holds nothing or is the copy of another, a CT is not in HU, or a channel lies elsewhere
            in space than the reference.
    """
    check_images(images, optional=optional)
    name = reference_channel(list(images))
    record: dict[str, dict] = {modality: {} for modality in images}
    warnings: list[str] = []
    images = dict(images)
    for modality in images:
        if not is_ct(modality):
            images[modality], filled = without_mr_padding(images[modality])
            warnings += [f"{modality}: {filled}"] if filled else []
    reference = to_canonical(images[name])
    done, n4_pairs = {}, {}
    fields_of_view: dict[str, np.ndarray] = {}
    if is_ct(name):
        original = reference
        with step("clean CT"):
            reference, body = _prepare_ct(original, options, keep, record[name], warnings)
        _check_ct(name, original, body, record[name]["in_hu"], fields_of_view, warnings)
        done[name] = reference
        del original
    else:
        body = body_mask_array(
            sitk.GetArrayViewFromImage(reference), spacing_mm=reference.GetSpacing()[::-1], is_ct=False
        )
        warnings += check_body(name, sitk.GetArrayViewFromImage(reference), body, voxel_ml=voxel_ml(reference))
        _find_lost_slices(name, sitk.GetArrayViewFromImage(reference), body, fields_of_view, warnings)
        if options.n4:
            with step("N4"):
                done[name] = n4(reference, body=body)
            n4_pairs[name] = reference, done[name]
            record[name] |= {"n4": True, "n4_field": _field_range(*n4_pairs[name], body)}
        else:
            done[name] = reference
    record[name]["body_ml"] = round(float(np.count_nonzero(body)) * voxel_ml(reference), 1)

    moving = {modality: to_canonical(image) for modality, image in images.items() if modality not in done}
    bodies = {}
    for modality, image in moving.items():
        with step("MR body"):
            array = sitk.GetArrayViewFromImage(image)
            bodies[modality] = body_mask_array(array, spacing_mm=image.GetSpacing()[::-1], is_ct=False)
        if options.n4:
            with step("N4"):
                n4_pairs[modality] = image, n4(image, body=bodies[modality])
    registered: dict[str, sitk.Transform] = {}
    if options.register and moving:
        corrected = {modality: n4_pairs[modality][1] for modality in moving} if options.n4 else moving
        with step("register"):
            registered = _register(images[name], corrected, bodies, name, options, same_frame, record, warnings)
    for modality, image in moving.items():
        entry, own_body, transform = record[modality], bodies[modality], registered.get(modality)
        warnings += check_body(modality, sitk.GetArrayViewFromImage(image), own_body, voxel_ml=voxel_ml(image))
        own_view: dict[str, np.ndarray] = {}
        _find_lost_slices(modality, sitk.GetArrayViewFromImage(image), own_body, own_view, warnings)
        on_grid = transform is None and same_grid(image, reference)
        entry["resampled"] = not on_grid
        if not on_grid:
            with step("resample"):
                seen = _on_reference(image, own_body, own_view.get(modality), reference, transform)
            inside = fields_of_view[modality] = (
                field_of_view(image, reference) if transform is None else (seen & _IN_IMAGE) > 0
            )
            entry["coverage"] = _check_overlap(
                modality, image, own_body, name, reference, body, inside, (seen & _IN_BODY) > 0, warnings
            )
            if own_view:
                inside &= (seen & _IN_VIEW) > 0
        else:
            fields_of_view |= own_view
        if options.n4:
            entry |= {"n4": True, "n4_field": _field_range(*n4_pairs[modality], own_body)}
            image = sitk.Image(n4_pairs[modality][1])
        if on_grid:
            image.CopyInformation(reference)
        else:
            with step("resample"):
                image = resample_to(image, reference, interpolation="bspline", transform=transform)
        done[modality] = image
    if is_ct(name) and options.clean_ct and record[name]["in_hu"] and not body.all():
        with step("clean CT"):
            body = _clean_again(images[name], done, body, fields_of_view, options, keep, record[name], warnings)
    images = {modality: done[modality] for modality in images}
    n4_bodies = {modality: bodies.get(modality, body) for modality in n4_pairs}
    return Channels(images, body, fields_of_view, record, warnings, n4_pairs, n4_bodies)


def _register(
    fixed: sitk.Image,
    moving: Mapping[str, sitk.Image],
    bodies: Mapping[str, np.ndarray],
    name: str,
    options: ChannelOptions,
    same_frame: Sequence[Sequence[str]] | None,
    record: dict[str, dict],
    warnings: list[str],
) -> dict[str, sitk.Transform]:
    """Transforms of the channels that registration moves; what was kept goes to the record and the warnings."""
    result = register(
        fixed,
        moving,
        fixed_is_ct=is_ct(name),
        options=RegistrationOptions(backend=options.register_backend),
        bias_corrected=options.n4,
        bodies=bodies,
        same_frame=same_frame,
    )
    warnings += result.warnings
    found = result.as_dict()
    for modality in moving:
        shared = [group for group in found["together"] if modality in group]
        record[modality]["registration"] = {
            **found["images"][modality],
            "together": shared[0] if shared else [modality],
        }
    return {m: channel.transform for m, channel in result.channels.items() if channel.kept != HEADER}


def _field_range(before: sitk.Image, after: sitk.Image, body: np.ndarray) -> list[float]:
    """1st and 99th percentile of the factor that N4 took out of the body."""
    old, new = (sitk.GetArrayViewFromImage(image)[body].astype(np.float32) for image in (before, after))
    factor = old[new > 0] / new[new > 0]
    return [1.0, 1.0] if not factor.size else [round(float(v), 3) for v in np.percentile(factor, (1, 99))]


def _clean_again(
    original: sitk.Image,
    done: dict[str, sitk.Image],
    body: np.ndarray,
    fields_of_view: Mapping[str, np.ndarray],
    options: ChannelOptions,
    keep: np.ndarray | None,
    entry: dict,
    warnings: list[str],
) -> np.ndarray:
    """Replace the CT in `done` by one without what the MR shows to be fixation mask on the skin; returns the body."""
    name = reference_channel(list(done))
    mr = {modality: image for modality, image in done.items() if modality != name}
    if not mr:
        return body
    image = clip_padding(to_canonical(original))[0]
    views = [(sitk.GetArrayViewFromImage(mr[m]), fields_of_view.get(m)) for m in mr]
    seen = body_seen_by_mr(body, sitk.GetArrayViewFromImage(image), views, spacing_mm=image.GetSpacing()[::-1])
    entry["skin_from_mr"] = seen is not None
    if seen is None:
        warnings.append(
            f"the skin on {' and '.join(mr)} does not lie where it lies on the {name}: a fixation mask on the skin may "
            "be left; check the registration"
        )
        return body
    cleaned, seen = clean_ct(image, keep=keep, body=seen)
    taken_ml = float(np.count_nonzero(body & ~seen)) * voxel_ml(image)
    entry["couch_and_mask_removed_ml"] = round(entry["couch_and_mask_removed_ml"] + taken_ml, 1)
    entry["mask_on_skin_removed_ml"] = round(taken_ml, 1)
    entry["body_ml"] = round(float(np.count_nonzero(seen)) * voxel_ml(image), 1)
    done[name] = cleaned if options.window_hu is None else window(cleaned, options.window_hu)
    return seen


def _prepare_ct(
    image: sitk.Image, options: ChannelOptions, keep: np.ndarray | None, entry: dict, warnings: list[str]
) -> tuple[sitk.Image, np.ndarray]:
    problem = hu_problem(image)
    entry["in_hu"] = problem is None
    if problem is not None:
        if not options.allow_non_hu:
            raise ValueError(problem)
        warnings.append(problem.split(";")[0] + ", accepted by --allow-non-hu")
    else:
        image, below = clip_padding(image)
        if below:
            entry["voxels_clipped_to_-1024_hu"] = below
    array = sitk.GetArrayViewFromImage(image)
    body = body_mask_array(array, spacing_mm=image.GetSpacing()[::-1], is_ct=True)
    if options.clean_ct:
        tissue = array > (CORE_THRESHOLD_HU if problem is None else body_thresholds(array, is_ct=True)[1])
        cleaned, body = clean_ct(image, keep=keep, body=body, in_hu=problem is None)
        entry["couch_and_mask_removed_ml"] = round(float(np.count_nonzero(tissue & ~body)) * voxel_ml(image), 1)
        if body.all():
            warnings.append("no body was found in the CT, couch and mask are left in it")
        image = cleaned
    if options.window_hu is not None:
        image = window(image, options.window_hu)
        entry["window_hu"] = list(options.window_hu)
    return image, body


def _check_ct(
    name: str,
    original: sitk.Image,
    body: np.ndarray,
    in_hu: bool,
    fields_of_view: dict[str, np.ndarray],
    warnings: list[str],
) -> None:
    """Metal, a top that is cut off and lost slices of a CT, from its values as read."""
    if body.all() or np.count_nonzero(body) * voxel_ml(original) < SMALLEST_BODY_ML:  # none was found
        return
    array = sitk.GetArrayViewFromImage(original)
    warnings += check_body(name, array, body, voxel_ml=voxel_ml(original))
    if in_hu:
        warnings += metal(array, body, voxel_ml=voxel_ml(original))
        body = array > CORE_THRESHOLD_HU  # a body that blank slices cut is found in part only
    _find_lost_slices(name, array, body, fields_of_view, warnings)


def _find_lost_slices(
    name: str, array: np.ndarray, body: np.ndarray, fields_of_view: dict[str, np.ndarray], warnings: list[str]
) -> None:
    """Report lost slices and take them out of the channel's field of view."""
    lost = lost_slices(array, body)
    if any(one.any() for one in lost):
        fields_of_view[name] = shown(lost)
        warnings += report_lost_slices(name, lost)


def _on_reference(
    image: sitk.Image,
    body: np.ndarray,
    view: np.ndarray | None,
    reference: sitk.Image,
    transform: sitk.Transform | None,
) -> np.ndarray:
    """Bits per voxel of the reference: in the image, in its body, in its view, by the nearest voxel.

    All at once, because a B-spline transform at every voxel of a CT takes longer than anything else here.
    """
    bits = np.where(body, np.uint8(_IN_IMAGE | _IN_BODY), np.uint8(_IN_IMAGE))
    bits |= np.uint8(_IN_VIEW) if view is None else np.where(view, np.uint8(_IN_VIEW), np.uint8(0))
    there = resample_to(
        image_like(bits, image), reference, interpolation="nearest", outside_value=0, transform=transform
    )
    return sitk.GetArrayFromImage(there)


def _check_overlap(
    modality: str,
    image: sitk.Image,
    own_body: np.ndarray,
    reference_name: str,
    reference: sitk.Image,
    body: np.ndarray,
    inside: np.ndarray,
    seen_body: np.ndarray,
    warnings: list[str],
) -> float:
    """Share of the reference's body inside the image's field of view; ValueError where the two hardly meet.

    A planning CT down to the shoulders holds much more than an MR of the head. So an MR that covers less than half of
    the CT's body passes, with a warning, if at least half of its own body lies within the CT's.
    """
    coverage = float(np.count_nonzero(inside & body)) / max(1, np.count_nonzero(body))
    if coverage < FULL_COVERAGE:
        shared = np.count_nonzero(seen_body & body) * voxel_ml(reference)
        total = np.count_nonzero(own_body) * voxel_ml(image)
        if coverage < LEAST_OVERLAP and shared < LEAST_OVERLAP * total:
            raise ValueError(
                f"{modality} does not lie where the {reference_name} lies: its field of view holds {coverage:.0%} of the "
                f"{reference_name}'s body ({modality}: {describe_grid(image)}; {reference_name}: "
                f"{describe_grid(reference)}); register it first"
            )
        warnings.append(
            f"{modality} covers {coverage:.0%} of the {reference_name}'s body; voxels beyond get its minimum"
        )
    return round(coverage, 4)
