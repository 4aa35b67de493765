"""A case's channels as read -> as nnU-Net gets them: on one canonical grid, aligned, clean.

One place for conversion and prediction, so that a new case is treated as the training cases were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from nnunet_ext.cleaning.bias_field import n4
from nnunet_ext.cleaning.body import body_mask_array, check_body
from nnunet_ext.cleaning.ct import HU_REMEDY, clean_ct, clip_padding, hu_problem, metal, window
from nnunet_ext.cleaning.ct_body import TISSUE_HU
from nnunet_ext.cleaning.mr_padding import without_mr_padding
from nnunet_ext.cleaning.thresholds import otsu_threshold
from nnunet_ext.images.channels import image_like, is_ct, reference_channel, voxel_ml
from nnunet_ext.images.checks import SMALLEST_BODY_ML, check_images, lost_slices, report_lost_slices, shown
from nnunet_ext.images.geometry import describe_grid, field_of_view, resample_to, same_grid, to_canonical
from nnunet_ext.messages import Message
from nnunet_ext.registration.options import RegistrationOptions
from nnunet_ext.registration.registering import register
from nnunet_ext.registration.result import HEADER
from nnunet_ext.steps import step

if TYPE_CHECKING:  # it needs torch, which few cases do
    from nnunet_ext.superresolution.weights import LearnedResampling

#: Two images are not of one patient if the MR shows less than this share of the reference's body, and the reference's body
#: holds less than this share of the MR's body.
LEAST_OVERLAP = 0.5
#: Below this share of the body inside an MR's field of view the case is converted with a warning.
FULL_COVERAGE = 0.95
_IN_IMAGE, _IN_BODY, _IN_VIEW = 1, 2, 4
#: Steps of a CT: cleaned, clipped to a window.
CANONICAL, CLEANED, WINDOWED = "canonical", "cleaned", "windowed"
#: Steps of other channels after `CANONICAL`: bias field removed, placed on the reference's grid.
CORRECTED, PLACED = "corrected", "placed"


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
        learned_resampling: SHA-256 of the weights that make thin slices of thick ones before other channels are placed on
            the reference's grid. None is cubic splines alone.
    """

    clean_ct: bool = True
    n4: bool = True
    window_hu: tuple[float, float] | None = None
    allow_non_hu: bool = False
    register: bool = False
    register_backend: str = "simpleitk"
    learned_resampling: str | None = None


@dataclass(frozen=True)
class Step:
    """One channel after one step of its preparation.

    Attributes:
        name: `CANONICAL`, `CLEANED`, `WINDOWED`, `CORRECTED` or `PLACED`.
        image: On the channel's own canonical grid. From `PLACED` on, on the reference's.
        body: Bool `(Z, Y, X)` on the same grid.
        view: Bool, same shape: voxels that hold an image. None if all do.
        record: What was done and found, plain JSON.
        warnings: What the user should know.
    """

    name: str
    image: sitk.Image
    body: np.ndarray
    view: np.ndarray | None = None
    record: dict = field(default_factory=dict)
    warnings: list[Message] = field(default_factory=list)

    @property
    def array(self) -> np.ndarray:
        """The image's values `(Z, Y, X)`, to read only and while this step is held."""
        return sitk.GetArrayViewFromImage(self.image)

    @property
    def body_ml(self) -> float:
        return round(float(np.count_nonzero(self.body)) * voxel_ml(self.image), 1)


@dataclass(frozen=True)
class Channels:
    """A case's channels on one canonical grid.

    Attributes:
        images: Channel name -> image, in the order given.
        body: Bool `(Z, Y, X)` on that grid.
        fields_of_view: Channel name -> bool `(Z, Y, X)`, for the channels that were resampled or have blank slices.
        record: What was done and found per channel, plain JSON.
        warnings: What the user should know.
        steps: Channel name -> its steps in order, if they were asked for.
    """

    images: dict[str, sitk.Image]
    body: np.ndarray
    fields_of_view: dict[str, np.ndarray]
    record: dict[str, dict]
    warnings: list[Message]
    steps: dict[str, list[Step]] = field(default_factory=dict)

    def step(self, channel: str, name: str) -> Step | None:
        """The last step of a name that a channel went through. None if there is none."""
        return next((one for one in reversed(self.steps.get(channel, ())) if one.name == name), None)

    def done(self, channel: str, name: str) -> Step:
        """A step of a channel that went through it.

        Raises:
            KeyError: If it did not, or no steps were kept.
        """
        if (found := self.step(channel, name)) is None:
            raise KeyError(f"{channel} has no step {name!r}")
        return found


@dataclass(frozen=True)
class _Moves:
    """What a registration found: transforms of the channels that it moves, and what to say about each channel."""

    transforms: dict[str, sitk.Transform] = field(default_factory=dict)
    record: dict[str, dict] = field(default_factory=dict)
    warnings: list[Message] = field(default_factory=list)


def prepare_channels(
    images: Mapping[str, sitk.Image],
    options: ChannelOptions,
    *,
    keep: np.ndarray | None = None,
    same_frame: Sequence[Sequence[str]] | None = None,
    optional: Sequence[str] = (),
    hu_remedy: str = HU_REMEDY,
    keep_steps: bool = False,
    learned: LearnedResampling | None = None,
) -> Channels:
    """Channels as read -> channels as nnU-Net gets them: one canonical grid, clean CT, MR without bias field.

    The reference channel is made canonical and cleaned. Each other channel is made canonical, its body is found and its
    bias field removed, all on its own grid. Then they are registered if asked, and placed on the reference's grid.

    Args:
        images: Channel name -> image as read, in channel order. The CT (else the first) gives the grid.
        options: What to do.
        keep: Bool `(Z, Y, X)` on the canonical reference grid, voxels the CT cleaning never touches.
        same_frame: Groups of channels that share a frame of reference; None where it is not known. See `register`.
        optional: Channels that a case may lack, for the message where one is blank.
        hu_remedy: What helps where a CT is not in HU, for the message.
        keep_steps: Whether the result holds every step of every channel. Pictures need them.
        learned: What `options.learned_resampling` names (`training_form.learned_resampling`).

    Raises:
        ValueError: If a channel holds nothing or is the copy of another, a CT is not in HU, or a channel lies elsewhere
            in space than the reference.
    """
    if options.learned_resampling != (None if learned is None else learned.sha256):
        raise ValueError(
            "the options name another learned resampling than the one given; read it with training_form.learned_resampling"
        )
    check_images(images, optional=optional)
    images, padding = _without_padding(images)
    name = reference_channel(list(images))
    others = [channel for channel in images if channel != name]

    found = {name: _reference_steps(name, images[name], options, keep, hu_remedy)}
    if not keep_steps:
        found[name] = _without_earlier_images(found[name])
    found |= {channel: _own_steps(channel, images[channel], options) for channel in others}
    n_apart = {channel: len(steps) for channel, steps in found.items()}  # before the channels meet
    reference = found[name][-1]
    moves = _Moves()
    if options.register and others:
        with step("register"):
            fixed = images[name] if is_ct(name) else reference.image  # a window would take the CT's bone
            moves = _register(name, fixed, reference, {c: found[c][-1] for c in others}, options, same_frame)
    for channel in others:
        found[channel].append(
            _place(channel, found[channel][-1], name, reference, moves.transforms.get(channel), learned)
        )
        if not keep_steps:
            found[channel] = _without_earlier_images(found[channel])

    last = {channel: found[channel][-1] for channel in images}
    record: dict[str, dict] = {}
    for channel in images:
        record[channel] = {"registration": moves.record[channel]} if channel in moves.record else {}
        for one in found[channel]:
            record[channel] |= one.record
    record[name]["body_ml"] = last[name].body_ml
    apart = [line for channel in (name, *others) for one in found[channel][: n_apart[channel]] for line in one.warnings]
    joined = [
        line for channel in (*others, name) for one in found[channel][n_apart[channel] :] for line in one.warnings
    ]
    return Channels(
        {channel: last[channel].image for channel in images},
        last[name].body,
        {channel: view for channel in images if (view := last[channel].view) is not None},
        record,
        [*padding, *apart, *moves.warnings, *joined],
        found if keep_steps else {},
    )


def _without_earlier_images(steps: Sequence[Step]) -> list[Step]:
    """Steps that hold no image but the last, so that the memory of the others is free."""
    last = steps[-1]
    return [*(replace(one, image=last.image, body=last.body, view=None) for one in steps[:-1]), last]


# ------------------------------------------------------------------------------------------- on a channel's own grid


def _without_padding(images: Mapping[str, sitk.Image]) -> tuple[dict[str, sitk.Image], list[Message]]:
    """Images with the padding of MR replaced, and a message for each that had some."""
    result: dict[str, sitk.Image] = dict(images)
    messages = []
    for channel, image in images.items():
        if not is_ct(channel):
            result[channel], filled = without_mr_padding(image)
            if filled is not None:
                messages.append(Message("of_channel", {"channel": channel, "message": filled}))
    return result, messages


def _reference_steps(
    name: str, image: sitk.Image, options: ChannelOptions, keep: np.ndarray | None, hu_remedy: str
) -> list[Step]:
    if not is_ct(name):
        return _own_steps(name, image, options)
    canonical = to_canonical(image)
    with step("clean CT"):
        cleaned = _clean_ct(canonical, options, keep, hu_remedy)
    # Metal, a top that is cut off and lost slices show in the values as read.
    view, warnings = _look_at_ct(name, canonical, cleaned.body, cleaned.record["in_hu"])
    cleaned = replace(cleaned, view=view, warnings=[*cleaned.warnings, *warnings])
    return [Step(CANONICAL, canonical, cleaned.body, view), cleaned, *_windowed(cleaned, options)]


def _windowed(cleaned: Step, options: ChannelOptions) -> list[Step]:
    """The step of a CT that is clipped to a window, if the options ask for one."""
    if options.window_hu is None:
        return []
    record = {**cleaned.record, "window_hu": list(options.window_hu)}
    image = window(cleaned.image, options.window_hu)
    return [replace(cleaned, name=WINDOWED, image=image, record=record, warnings=[])]


def _clean_ct(canonical: sitk.Image, options: ChannelOptions, keep: np.ndarray | None, hu_remedy: str) -> Step:
    """Padding clipped, couch and mask taken off if the options say so."""
    image, warnings = canonical, []
    record: dict[str, Any] = {}
    problem = hu_problem(image)
    record["in_hu"] = problem is None
    if problem is not None:
        if not options.allow_non_hu:
            raise ValueError(f"{problem}; {hu_remedy}")
        warnings.append(Message("non_hu_accepted", {"message": problem}))
    else:
        image, below = clip_padding(image)
        if below:
            record["voxels_clipped_to_-1024_hu"] = below
    array = sitk.GetArrayViewFromImage(image)
    if options.clean_ct:
        tissue = array > (TISSUE_HU if problem is None else otsu_threshold(array))
        cleaned, body = clean_ct(image, keep=keep, in_hu=problem is None)
        taken = tissue & (sitk.GetArrayViewFromImage(cleaned) != array)
        record["couch_and_mask_removed_ml"] = round(float(np.count_nonzero(taken)) * voxel_ml(image), 1)
        if body.all():
            warnings.append(Message("no_body_in_ct"))
        image = cleaned
    else:
        body = body_mask_array(array, spacing_mm=image.GetSpacing()[::-1], is_ct=True)
    return Step(CLEANED, image, body, None, record, warnings)


def _look_at_ct(
    name: str, canonical: sitk.Image, body: np.ndarray, in_hu: bool
) -> tuple[np.ndarray | None, list[Message]]:
    """Field of view of a CT and what is wrong with it, from its values as read."""
    if body.all() or np.count_nonzero(body) * voxel_ml(canonical) < SMALLEST_BODY_ML:  # none was found
        return None, []
    array = sitk.GetArrayViewFromImage(canonical)
    warnings = check_body(name, array, body, voxel_ml=voxel_ml(canonical))
    if in_hu:
        warnings += metal(array, body, voxel_ml=voxel_ml(canonical))
        body = array > TISSUE_HU  # a body that blank slices cut is found in part only
    view, lost = _view(name, array, body)
    return view, [*warnings, *lost]


def _own_steps(channel: str, image: sitk.Image, options: ChannelOptions) -> list[Step]:
    """A channel that is no CT: canonical, its body found, its bias field removed."""
    canonical = to_canonical(image)
    array = sitk.GetArrayViewFromImage(canonical)
    with step("MR body"):
        body = body_mask_array(array, spacing_mm=canonical.GetSpacing()[::-1], is_ct=False)
    warnings = check_body(channel, array, body, voxel_ml=voxel_ml(canonical))
    view, lost = _view(channel, array, body)
    steps = [Step(CANONICAL, canonical, body, view, {}, [*warnings, *lost])]
    if options.n4:
        with step("N4"):
            corrected = n4(canonical, body=body)
        record = {"n4": True, "n4_field": _field_range(canonical, corrected, body)}
        steps.append(Step(CORRECTED, corrected, body, view, record))
    return steps


def _view(channel: str, array: np.ndarray, body: np.ndarray) -> tuple[np.ndarray | None, list[Message]]:
    """Voxels in no lost slice, None if no slice is lost; and messages about the lost ones."""
    lost = lost_slices(array, body)
    if not any(one.any() for one in lost):
        return None, []
    return shown(lost), report_lost_slices(channel, lost)


def _field_range(before: sitk.Image, after: sitk.Image, body: np.ndarray) -> list[float]:
    """1st and 99th percentile of the factor that N4 took out of the body."""
    old, new = (sitk.GetArrayViewFromImage(image)[body].astype(np.float32) for image in (before, after))
    factor = old[new > 0] / new[new > 0]
    return [1.0, 1.0] if not factor.size else [round(float(v), 3) for v in np.percentile(factor, (1, 99))]


# ------------------------------------------------------------------------------------------- on the reference's grid


def _register(
    name: str,
    fixed: sitk.Image,
    reference: Step,
    moving: Mapping[str, Step],
    options: ChannelOptions,
    same_frame: Sequence[Sequence[str]] | None,
) -> _Moves:
    """How the other channels have to move to lie on `fixed`, the image of the step `reference`."""
    result = register(
        fixed,
        {channel: one.image for channel, one in moving.items()},
        fixed_is_ct=is_ct(name),
        options=RegistrationOptions(backend=options.register_backend),
        bias_corrected=options.n4,
        fixed_body=reference.body,
        bodies={channel: one.body for channel, one in moving.items()},
        same_frame=same_frame,
    )
    found = result.as_dict()
    record = {}
    for channel in moving:
        shared = [group for group in found["together"] if channel in group]
        record[channel] = {**found["images"][channel], "together": shared[0] if shared else [channel]}
    transforms = {c: one.transform for c, one in result.channels.items() if one.kept != HEADER}
    return _Moves(transforms, record, list(result.warnings))


def _place(
    channel: str,
    own: Step,
    reference_name: str,
    reference: Step,
    transform: sitk.Transform | None,
    learned: LearnedResampling | None,
) -> Step:
    """A channel on the grid of the reference. Thick slices become thin ones first, if that was learned.

    Raises:
        ValueError: If it does not lie where the reference lies.
    """
    if transform is None and same_grid(own.image, reference.image):
        image = sitk.Image(own.image)
        image.CopyInformation(reference.image)
        return Step(PLACED, image, reference.body, own.view, {"resampled": False})
    with step("resample"):
        seen = _on_reference(own.image, own.body, own.view, reference.image, transform)
    inside = field_of_view(own.image, reference.image) if transform is None else (seen & _IN_IMAGE) > 0
    coverage, warnings = _overlap(channel, own, reference_name, reference, inside, (seen & _IN_BODY) > 0)
    if own.view is not None:
        inside &= (seen & _IN_VIEW) > 0
    record: dict[str, Any] = {"resampled": True, "coverage": coverage}
    with step("resample"):
        thin = own.image if learned is None else _with_thin_slices(channel, own.image, reference.image, learned)
        if thin is not own.image:
            sides = zip(thin.GetSpacing(), own.image.GetSpacing(), strict=True)
            record["thin_slices_mm"] = next(round(new, 6) for new, old in sides if new != old)
        image = resample_to(thin, reference.image, interpolation="bspline", transform=transform)
    return Step(PLACED, image, reference.body, inside, record, warnings)


def _with_thin_slices(channel: str, image: sitk.Image, reference: sitk.Image, learned: LearnedResampling) -> sitk.Image:
    """An image with slices half as thick as the reference's voxels are long in that direction.

    They are placed on its grid by a spline afterwards, which blurs what is as short as the voxels.
    """
    from nnunet_ext.superresolution.thinning import slice_axis, thin_image

    column = 2 - slice_axis(image.GetSpacing()[::-1])
    across = np.reshape(image.GetDirection(), (3, 3))[:, column]
    along = int(np.argmax(np.abs(np.reshape(reference.GetDirection(), (3, 3)).T @ across)))
    return thin_image(image, learned, channel, thinnest_mm=reference.GetSpacing()[along] / 2)


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


def _overlap(
    channel: str, own: Step, reference_name: str, reference: Step, inside: np.ndarray, seen_body: np.ndarray
) -> tuple[float, list[Message]]:
    """Share of the reference's body inside the image's field of view, and a message if it is small.

    A planning CT down to the shoulders holds much more than an MR of the head. So an MR that covers less than half of
    the CT's body passes, with a warning, if at least half of its own body lies within the CT's.

    Args:
        channel, own: The image, on its own grid.
        reference_name, reference: What it is placed on.
        inside: Bool on the reference's grid: its field of view.
        seen_body: Bool on the reference's grid: its body.

    Raises:
        ValueError: If the two hardly meet.
    """
    coverage = float(np.count_nonzero(inside & reference.body)) / max(1, int(np.count_nonzero(reference.body)))
    if coverage >= FULL_COVERAGE:
        return round(coverage, 4), []
    shared = np.count_nonzero(seen_body & reference.body) * voxel_ml(reference.image)
    total = np.count_nonzero(own.body) * voxel_ml(own.image)
    if coverage < LEAST_OVERLAP and shared < LEAST_OVERLAP * total:
        raise ValueError(
            f"{channel} does not lie where the {reference_name} lies: its field of view holds {coverage:.0%} of the "
            f"{reference_name}'s body ({channel}: {describe_grid(own.image)}; {reference_name}: "
            f"{describe_grid(reference.image)}); register it first"
        )
    message = Message("covers_part_of_the_body", {"channel": channel, "share": coverage, "ct": reference_name})
    return round(coverage, 4), [message]
