"""nnU-Net preprocessor that crops to the body, and to the ROI if it is given a localizer's label map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.head_crop import BODY_MARGIN_MM, HeadCrop
from nnunet_ext.cascade.organ_crops import crop_size_of, without_crop
from nnunet_ext.cleaning.body import coarse_body_mask
from nnunet_ext.cleaning.earlier_body import earlier_body_mask
from nnunet_ext.cleaning.head import HeadPlace, image_region
from nnunet_ext.images.channels import ct_channels
from nnunet_ext.nnunet_folders import read_dataset_json

#: nnU-Net's scheme whose mean and standard deviation are those of the image itself.
Z_SCORE = "ZScoreNormalization"
#: nnU-Net's scheme that brings an image to 0..1 by its lowest and highest value.
RESCALED = "RescaleTo01Normalization"
#: A body seen in fewer voxels tells no mean.
FEWEST_VOXELS = 100
#: Key under which a case's `properties` say how it was cropped.
PROPERTIES_KEY = "cascade_oar"


def stored_extents(properties: Mapping) -> dict[int, roi.OrganExtent]:
    """Extents of the reference organs of a preprocessed training case, from its `properties`.

    Raises:
        KeyError: If the case was not preprocessed by `CascadeOARPreprocessor`.
    """
    return roi.extents_from_numbers(properties[PROPERTIES_KEY]["organ_extents"])


def find_body(
    images: Sequence[np.ndarray] | np.ndarray,
    *,
    spacing_mm: Sequence[float],
    channel_names: Mapping[str, str],
    earlier: bool = False,
) -> np.ndarray:
    """The patient, found on the CT, or on the first MR if there is no CT. A channel of one value is none.

    Args:
        images: Of every channel, shape `(Z, Y, X)`, as read.
        spacing_mm: Voxel size along `(Z, Y, X)`.
        channel_names: nnU-Net's `channel_names` of `dataset.json`.
        earlier: As plans without a `head_crop` were made with.

    Returns:
        Bool `(Z, Y, X)`, to some millimetres. All False if no body is found.
    """
    ct = ct_channels(channel_names)
    find = earlier_body_mask if earlier else coarse_body_mask
    order = [*ct[:1], *(c for c in range(len(images)) if c not in ct)]
    channel = next((c for c in order if not is_blank(images[c])), order[0])
    return find(images[channel], spacing_mm=spacing_mm, is_ct=channel in ct)


def is_blank(image: np.ndarray) -> bool:
    """Whether an image is of one value, which stands for a channel that a case lacks."""
    return bool(image.min() == image.max())


def body_box(body: np.ndarray, *, spacing_mm: Sequence[float], head_crop: HeadCrop | None) -> roi.Box:
    """The part of a volume that the networks see.

    nnU-Net's crop to nonzero does nothing for a CT, in which air is -1000. It removes the whole background of an image if
    that was set to zero. This box depends on the patient only.

    Args:
        body: What `find_body` found.
        spacing_mm: Voxel size along `(Z, Y, X)`.
        head_crop: The plan's. Without one, the box holds the whole body.

    Returns:
        Box along `(Z, Y, X)` with `BODY_MARGIN_MM` around the body, or the whole volume if there is no body.
    """
    place = HeadPlace.of(body, spacing_mm)
    if place is None:
        return roi.whole(body.shape)
    return place.whole_box(BODY_MARGIN_MM) if head_crop is None else head_crop.box(place)


def standardise(image: np.ndarray, body: np.ndarray) -> None:
    """Give the voxels of the body that an image shows a mean of 0 and a standard deviation of 1, in place.

    Args:
        image: Float, any axes.
        body: Bool, same shape.
    """
    seen = body & image_region(image)
    if np.count_nonzero(seen) < FEWEST_VOXELS:
        return
    values = image[seen].astype(np.float64)
    image -= np.float32(values.mean())
    image /= np.float32(max(values.std(), 1e-8))


def shift(box: roi.Box, origin: roi.Box) -> roi.Box:
    """A box relative to the lower corner of `origin`, moved to the coordinates of `origin`."""
    return tuple((lower + o, upper + o) for (lower, upper), (o, _) in zip(box, origin, strict=True))


def clip(box: Sequence[Sequence[int]], origin: roi.Box) -> roi.Box:
    """The part of a box inside `origin`, relative to its lower corner. Undoes `shift`."""
    return tuple((max(lower, o) - o, min(upper, end) - o) for (lower, upper), (o, end) in zip(box, origin, strict=True))


class CascadeOARPreprocessor(DefaultPreprocessor):
    """`DefaultPreprocessor` with another crop, recorded the way nnU-Net records its own.

    Every configuration is cropped to the patient's body down to the reach of the organs (`body_box`). At prediction, a
    configuration with a previous stage is cropped further to the ROI that the previous stage's label map votes for
    (`roi.find_roi`). Intensities are normalised with the statistics of the body, then only the crop is resampled.

    If the plan has a `head_crop`, the z-score of an image runs over the voxels of the body that lie in its field of view
    (`image_region`). So it does not depend on how far a CT goes down, nor on how much air is around a head.

    The box is stored as `properties['bbox_used_for_cropping']`, so nnU-Net's own export pastes the result back.
    `properties['cascade_oar']` says which organs placed the box. Without any, the segmenter runs over the whole body.

    In training, a cascaded configuration uses the data of its parent. `cascade/roi_dataset.py` cuts the jittered box out.
    """

    def run_case_npy(
        self,
        data: np.ndarray,
        seg: np.ndarray | None,
        properties: dict,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: dict,
    ) -> tuple[np.ndarray, np.ndarray, dict]:
        """Crop, normalise and resample one case.

        Args:
            data: Images, shape `(C, Z, Y, X)`.
            seg: Label map, shape `(1, Z, Y, X)`, or None. The reference in training, the localizer's at prediction of a
                configuration with a previous stage.
            properties: From the reader, with `spacing` in mm along `(Z, Y, X)`. Not modified.

        Returns:
            Images `(C, *plan_axes)` float32, label map `(1, *plan_axes)` (zeros without `seg`), new properties.

        Raises:
            ValueError: If the sizes of images and label map differ, or a value is not finite.
        """
        if seg is not None and seg.shape[1:] != data.shape[1:]:
            raise ValueError(
                f"images have size {data.shape[1:]} (Z, Y, X), the label map {seg.shape[1:]}. Both must lie on one grid: "
                "run nnUNetv2_plan_and_preprocess with --verify_dataset_integrity, or convert with nnunet_ext convert."
            )
        images, properties = self.crop_to_body(data, properties, plans_manager, configuration_manager, dataset_json)
        if seg is None:
            seg = np.zeros((1, *images.shape[1:]), dtype=np.int8)
        else:
            seg = seg.transpose([0, *[i + 1 for i in plans_manager.transpose_forward]])
            seg = seg[(slice(None), *roi.slices(properties["bbox_used_for_cropping"]))]
        if configuration_manager.previous_stage_name is not None:
            images, seg, properties = self.crop_to_roi(images, seg, properties, plans_manager, configuration_manager)
        grids = self.resampling(images.shape[1:], properties, plans_manager, configuration_manager)
        images = configuration_manager.resampling_fn_data(images, *grids)
        seg = configuration_manager.resampling_fn_seg(seg, *grids)
        return images, seg.astype(np.int16 if seg.max() > 127 else np.int8), properties

    def crop_to_body(
        self,
        images: Sequence[np.ndarray] | np.ndarray,
        properties: Mapping,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: Mapping,
    ) -> tuple[np.ndarray, dict]:
        """Normalised images of the body or its upper part, the same for all configurations of a plan that normalise alike.

        Args:
            images: Of every channel, shape `(Z, Y, X)`. Not modified.
            properties: With `spacing`. Not modified.

        Returns:
            Shape `(C, *plan_axes)`, float32, and properties that name the crop as nnU-Net does.

        Raises:
            ValueError: If a value is not finite.
        """
        if bad := [c for c, image in enumerate(images) if not np.isfinite(image).all()]:
            raise ValueError(f"channels {bad} hold NaN or infinite values. Replace them, or leave the case out.")
        forward = plans_manager.transpose_forward
        spacing_mm, channel_names = properties["spacing"], dataset_json["channel_names"]
        head_crop = HeadCrop.from_plan(plans_manager.plans)
        patient = find_body(images, spacing_mm=spacing_mm, channel_names=channel_names, earlier=head_crop is None)
        body = body_box(patient, spacing_mm=spacing_mm, head_crop=head_crop)
        body = tuple(body[i] for i in forward)
        cropped = np.empty((len(images), *(upper - lower for lower, upper in body)), np.float32)
        for channel, image in zip(cropped, images, strict=True):
            channel[...] = image.transpose(forward)[roi.slices(body)]
        everywhere = np.broadcast_to(np.int8(0), (1, *cropped.shape[1:]))
        cropped = self._normalize(
            cropped, everywhere, configuration_manager, plans_manager.foreground_intensity_properties_per_channel
        )
        if head_crop is not None:
            patient = patient.transpose(forward)[roi.slices(body)]
            for channel, scheme in zip(cropped, configuration_manager.normalization_schemes, strict=True):
                if scheme == Z_SCORE:
                    standardise(channel, patient)
        for channel in cropped:
            if is_blank(channel):
                channel[...] = 0.0  # as modality dropout blanks it, also a CT, whose scheme has a fixed mean
        return cropped, {
            **properties,
            "shape_before_cropping": tuple(images[0].shape[i] for i in forward),
            "bbox_used_for_cropping": [list(b) for b in body],
            "shape_after_cropping_and_before_resampling": cropped.shape[1:],
        }

    def crop_to_roi(
        self,
        images: np.ndarray,
        seg: np.ndarray,
        properties: Mapping,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        *,
        box: Sequence[Sequence[int]] | None = None,
    ) -> tuple[np.ndarray, np.ndarray, dict]:
        """The ROI of the images that `crop_to_body` returned, as views.

        Intensities keep the statistics of the whole body. An MR z-score of the crop alone would shift with the crop.

        Args:
            images: Shape `(C, *plan_axes)`.
            seg: The localizer's label map, shape `(1, *plan_axes)`.
            properties: Not modified.
            box: Replaces the box that the organs vote for. In voxels of the volume before the crop to the body, along the
                plan's axes. It is clipped to the body.
        """
        properties = dict(properties)
        body = tuple(tuple(b) for b in properties["bbox_used_for_cropping"])
        rule = roi.RoiRule.from_plan(configuration_manager.configuration["roi"])
        spacing = [properties["spacing"][i] for i in plans_manager.transpose_forward]
        decision = roi.find_roi(seg[0], rule, spacing_mm=spacing)
        if box is not None:
            decision = replace(decision, box=clip(box, body))
        images, seg = (a[(slice(None), *roi.slices(decision.box))] for a in (images, seg))
        if crop_size_of(configuration_manager) is not None:  # organs left out have no crop
            seg = roi.without(seg, rule.left_out)
        properties[PROPERTIES_KEY] = {
            "found": decision.found,
            "voters": list(decision.voters),
            "outliers": list(decision.outliers),
        }
        properties["bbox_used_for_cropping"] = [list(b) for b in shift(decision.box, body)]
        properties["shape_after_cropping_and_before_resampling"] = images.shape[1:]
        return images, seg, properties

    @staticmethod
    def resampling(
        shape: Sequence[int],
        properties: Mapping,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
    ) -> tuple[np.ndarray, list[float], list[float]]:
        """New shape, current spacing and new spacing, as nnU-Net's resampling functions take them."""
        spacing = [properties["spacing"][i] for i in plans_manager.transpose_forward]
        return (
            compute_new_shape(shape, spacing, configuration_manager.spacing),
            spacing,
            configuration_manager.spacing,
        )

    def run_case_save(
        self,
        output_filename_truncated: str,
        image_files: list[str],
        seg_file: str,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: dict | str,
    ) -> None:
        """Preprocess and save one training case, cropped to the body. `properties` hold the organ extents."""
        whole_body = ConfigurationManager({**configuration_manager.configuration, "previous_stage": None})
        try:
            super().run_case_save(
                output_filename_truncated, image_files, seg_file, plans_manager, whole_body, dataset_json
            )
        except ValueError as e:
            raise ValueError(f"{image_files[0]} (and its other channels): {e}") from e

    def run_case(
        self,
        image_files: list[str],
        seg_file: str | None,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: dict | str,
    ) -> tuple[np.ndarray, np.ndarray, dict]:
        """Read the files with the plan's reader, then `run_case_npy`. Warns if the localizer found no organ."""
        if isinstance(dataset_json, str):
            dataset_json = read_dataset_json(Path(dataset_json))
        data, seg, properties = super().run_case(
            image_files, seg_file, plans_manager, configuration_manager, dataset_json
        )
        crops = crop_size_of(configuration_manager) is not None
        if crops and seg_file is not None and PROPERTIES_KEY in properties:
            if lost := without_crop(seg, configuration_manager.configuration, dataset_json["labels"]):
                print(
                    f"WARNING: {seg_file}: the localizer did not find {', '.join(lost)}: no crop, so not segmented. Check "
                    "the images and the result."
                )
        elif not properties.get(PROPERTIES_KEY, {}).get("found", True):
            print(
                f"WARNING: {seg_file}: the localizer found no organ; the segmenter runs over the whole body instead of the "
                "ROI. Check the images and the result."
            )
        if seg_file is not None and configuration_manager.previous_stage_name is None:
            labels = plans_manager.get_label_manager(dataset_json)
            properties["class_locations"] = self._sample_foreground_locations(
                seg, labels.foreground_regions if labels.has_regions else labels.foreground_labels
            )
            extents = roi.organ_extents(seg[0], spacing_mm=configuration_manager.spacing)
            properties[PROPERTIES_KEY] = {"organ_extents": roi.extents_to_numbers(extents)}
        return data, seg, properties
