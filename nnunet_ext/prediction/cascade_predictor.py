"""Both stages of the cascade, loaded once. They turn the images of a case into organ masks on the case's own grid.

A configuration without a previous stage, such as the whole-volume baseline, predicts in one stage.
"""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.localizers import check_localizer
from nnunet_ext.cascade.organ_crops import crop_size_of, organ_boxes
from nnunet_ext.cascade.plausibility import PLANS_KEY, PlausibleRanges, implausible
from nnunet_ext.cascade.preprocessor import PROPERTIES_KEY, CascadeOARPreprocessor
from nnunet_ext.cascade.resampling import label_map_of_logits
from nnunet_ext.cases.prediction_cases import check_channels
from nnunet_ext.cases.preparing import ChannelOptions, prepare_channels
from nnunet_ext.cases.training_form import check_one_grid, learned_resampling, recorded_options, refuse_non_hu
from nnunet_ext.cleaning.ct import HU_REMEDY_AT_PREDICTION
from nnunet_ext.cleaning.head_checks import check_head
from nnunet_ext.images.channels import is_ct, reference_channel
from nnunet_ext.images.checks import check_arrays, check_images
from nnunet_ext.images.file_names import ENDINGS, find_channel_files
from nnunet_ext.images.geometry import CANONICAL, back_to_grid, to_canonical
from nnunet_ext.images.notes import collected_notes
from nnunet_ext.images.reading import read_image
from nnunet_ext.images.writing import write_image
from nnunet_ext.labels.pairs import old_plan_warning, plan_pairs
from nnunet_ext.labels.table import LEFT_OUT_KEY
from nnunet_ext.labels.values import pair_values
from nnunet_ext.messages import Message, in_english
from nnunet_ext.nnunet_folders import dataset_folder
from nnunet_ext.postprocessing.choice import KEY, read_postprocessing
from nnunet_ext.prediction.bfloat16 import has_bfloat16, wrong_in_bfloat16
from nnunet_ext.prediction.loading import load_stage
from nnunet_ext.prediction.stage_predictor import Place, StagePredictor, is_out_of_memory
from nnunet_ext.steps import step
from nnunet_ext.superresolution.weights import LearnedResampling
from nnunet_ext.training.mirroring import swap_channels
from nnunet_ext.training.modality_dropout import optional_channels
from nnunet_ext.training.recipe import TRAINED_WITH_KEY, TrainingRecipe

log = logging.getLogger(__name__)

#: Distance by which a side of the box is moved out if an organ touches it, and how often. A box that is off by half an eye
#: must reach it.
REGROW_MM = 10.0
REGROW_TIMES = 3


@dataclass(frozen=True)
class PreparedCase:
    """One case in the form of the networks' input, made by `CascadePredictor.prepare`.

    Attributes:
        images: Normalised images of the body on the case's voxels, shape `(C, *plan_axes)`, float32.
        localizer_images: The same on the localizer's grid, or None without a localizer.
        properties: Of the crop to the body, as nnU-Net's preprocessor gives them.
        channels: The channels the case has. A model trained with modality dropout does without some.
        warnings: Messages for the user.
        grid: The grid of the case's CT, or of its first channel, as it was given. It is an image without content. None if
            arrays were given.
    """

    images: np.ndarray
    localizer_images: np.ndarray | None
    properties: dict
    channels: list[str]
    warnings: list[Message]
    grid: sitk.Image | None = None


@dataclass
class CasePrediction:
    """Result for one case.

    Attributes:
        label_map: Shape `(Z, Y, X)` in the axis order of the training images, uint8 (uint16 from 255 labels on).
        box: ROI in voxels along `(Z, Y, X)`, upper excluded. Without a localizer, the box of the body.
        crops: Organ -> its crop, in voxels as `box`, of a model with one crop per organ. Else None.
        fallback_whole_volume: The localizer found no organ, so the whole body was segmented.
        regrown: An organ touched the box. It was enlarged, up to `REGROW_TIMES` times, and segmented again.
        missing: Names of organs without a voxel, except those that the model leaves out.
        channels: The channels the case had.
        precision: Number format of the segmenter: `float32`, `bfloat16` or `float16`.
        postprocessed: Organ -> voxels gained and lost and whether it was emptied, for organs that postprocessing changed.
        warnings: Messages for the user. Those of `PreparedCase` come first.
    """

    label_map: np.ndarray
    box: roi.Box
    crops: dict[str, roi.Box] | None = None
    fallback_whole_volume: bool = False
    regrown: bool = False
    missing: list[str] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    precision: str = "float32"
    postprocessed: dict[str, dict] = field(default_factory=dict)
    warnings: list[Message] = field(default_factory=list)

    def record(self) -> dict:
        """All but the label map, as plain JSON."""
        apart = ("label_map", "warnings")
        record = {name: deepcopy(value) for name, value in vars(self).items() if name not in apart}
        messages = [warning.to_json() for warning in self.warnings]
        return {**record, "warnings": in_english(self.warnings), "messages": messages}


#: A network and the images that it is to see, shape `(C, *plan_axes)`. The answer is its logits `(labels, *plan_axes)`.
_Asked = tuple[StagePredictor, np.ndarray]


class CaseInSteps:
    """One case on its way to and fro between networks and processor, made by `CascadePredictor.begin`.

    Only `use_networks` uses the networks. So another case may use them during `export`.

    Attributes:
        prediction: The result, None until `export` returns True.
    """

    def __init__(self, predictor: CascadePredictor, prepared: PreparedCase) -> None:
        self.prediction: CasePrediction | None = None
        self._predictor = predictor
        self._places: dict[StagePredictor, Place] = {}
        self._steps = predictor._steps(prepared, self._places)
        self._asked = next(self._steps)
        self._logits: torch.Tensor | None = None

    def use_networks(self) -> None:
        """Compute logits up to the segmenter's. Two cases must not do so at the same time."""
        with step("windows" if self._asked[0] is self._predictor.segmenter else "localizer"):
            self._logits = self._predictor._logits(*self._asked, self._places)
        if self._asked[0] is not self._predictor.segmenter:
            self._go_on()
            self.use_networks()

    def export(self) -> bool:
        """Put the logits onto the case's grid and check the result. False if the networks are needed again.

        They are if an organ touches the box. Then call `use_networks`, and this again.
        """
        try:
            self._go_on()
        except StopIteration as end:
            self.prediction = end.value
        return self.prediction is not None

    def _go_on(self) -> None:
        assert self._logits is not None  # `use_networks` comes first
        logits, self._logits = self._logits, None
        self._asked = self._steps.send(logits)


class CascadePredictor:
    """Localizer and segmenter, loaded once, for any number of cases.

    Both are nnU-Net's predictors, which slide the window and average the folds. They keep their weights on the device.
    `prepare`, `segment` and `write` are the three steps of one case. A run over many cases may overlap them. `begin` and
    the steps it returns do what `segment` does, and tell the networks' part from the rest. `predict_files`,
    `predict_folder` and `predict_images` do all steps of one case.

    If a device's memory is too small for a case, the case is computed with less of it, in the end on the CPU. A warning
    says so.

    Args:
        segmenter_folder: Trained model, e.g. `.../CascadeOARTrainer__CascadeOARPlans__3d_cascade_fullres`. If its plan
            names no previous stage, it segments the whole body without a localizer.
        localizer_folder: Trained model. None means the previous stage in the folder beside `segmenter_folder`.
        folds: Folds to average. None means all that are trained.
        checkpoint: File name of the weights in each fold's folder.
        device: Device of the networks.
        use_mirroring: Average with the prediction of the mirrored image, left and right labels exchanged.
        full_precision: Compute in 32 bits on a CPU, as stock nnU-Net does. Otherwise a CPU with bfloat16 instructions
            computes in mixed precision, in half the time. It stays with 32 bits for a model of which it would compute a
            layer wrongly, and `messages` says so. On a GPU, nnU-Net always uses mixed precision (float16).
        check_heads: Expect whole heads and a CT in HU, whatever is on record of the training images.
        use_postprocessing: Apply the postprocessing that the model brings (`postprocessing.choice`), if it brings any.

    Raises:
        FileNotFoundError: If a model or a fold is not there.
        ValueError: If a plan or the postprocessing is wrong, or `use_mirroring` meets a model trained without
            (`recipe.mirror_left_right`).
    """

    def __init__(
        self,
        segmenter_folder: Path,
        *,
        localizer_folder: Path | None = None,
        folds: Sequence[int | str] | None = None,
        checkpoint: str = "checkpoint_final.pth",
        device: torch.device,
        use_mirroring: bool = False,
        full_precision: bool = False,
        check_heads: bool = False,
        use_postprocessing: bool = True,
    ) -> None:
        self.use_mirroring, self.device, self.check_heads = use_mirroring, device, check_heads
        #: Number format of the networks.
        self.precision = "float16" if device.type == "cuda" else "float32"
        #: What there is to say about the models, whatever the case.
        self.messages: list[Message] = []
        load = partial(load_stage, folds=folds, checkpoint=checkpoint, device=device)
        self.models = [Path(segmenter_folder)]
        self.segmenter = load(segmenter_folder)
        self.localizer = None
        if (previous := self.segmenter.configuration_manager.previous_stage_name) is not None:
            trained_by = Path(segmenter_folder).name.rpartition("__")[0]
            configurations = self.segmenter.plans_manager.plans["configurations"]
            previous = check_localizer(configurations, previous, where=str(Path(segmenter_folder, "plans.json")))
            beside = Path(segmenter_folder).with_name(f"{trained_by}__{previous}")
            self.models.insert(0, Path(localizer_folder or beside))
            self.localizer = load(self.models[0])
        self.stages = [stage for stage in (self.localizer, self.segmenter) if stage is not None]
        if device.type == "cpu" and not full_precision and has_bfloat16():
            self._use_bfloat16()
        #: Of the segmenter, without its postprocessing, which is not that of the predictions it is written beside.
        self.dataset_json = {key: value for key, value in self.segmenter.dataset_json.items() if key != KEY}
        #: What the segmenter brings, or None.
        self.postprocessing = (
            read_postprocessing(self.models[-1], self.segmenter.dataset_json) if use_postprocessing else None
        )
        #: Voxels of the segmenter's crops, one per organ. None if its patches slide over the ROI.
        self.crop_size = crop_size_of(self.segmenter.configuration_manager)
        if (ending := self.dataset_json["file_ending"]) not in ENDINGS:
            raise ValueError(
                f"{self.models[-1]}: file_ending in dataset.json is {ending!r}, not one of {', '.join(ENDINGS)}"
            )
        plans = self.segmenter.plans_manager.plans
        self.preprocessor = CascadeOARPreprocessor(verbose=False)
        #: Axis order of the arrays the networks were trained on, which the plan's reader sets.
        self.orientation = "RAS" if plans["image_reader_writer"] == "NibabelIOWithReorient" else CANONICAL
        self.left_right_axis = int(plans["left_right_axis"])
        labels = self.dataset_json["labels"]
        #: Left and right names, and their label values.
        self.pair_names = plan_pairs(plans, labels)
        self.pairs = pair_values(self.pair_names, labels)
        if use_mirroring:
            for model, stage in zip(self.models, self.stages, strict=True):
                if not recipe_of(stage).mirror_left_right:
                    raise ValueError(
                        f"{model} was trained without left-right mirroring (mirror_left_right is false in its recipe): it "
                        "knows no mirrored heads. Leave out --mirror (use_mirroring)."
                    )
            if warning := old_plan_warning(plans, labels):
                log.warning("mirroring by %s: %s", self.models[-1], warning)
        #: Ranges of volumes and positions, for warnings. None if the plans are older than these ranges.
        self.ranges = PlausibleRanges.from_plan(plans[PLANS_KEY]) if PLANS_KEY in plans else None
        self.left_out = tuple(self.dataset_json.get(LEFT_OUT_KEY, ()))
        self.channels = channel_list(self.dataset_json)
        #: Channels a case may lack, because modality dropout blanked them in the training of both stages.
        self.optional = [channel for channel in self.channels if all(channel in can_lack(s) for s in self.stages)]

    def _use_bfloat16(self) -> None:
        """Compute both stages in bfloat16, unless this processor gives wrong values for a layer of one of them."""
        for model, stage in zip(self.models, self.stages, strict=True):
            if (layer := wrong_in_bfloat16(stage)) is not None:
                self.messages.append(Message("wrong_in_bfloat16", {"model": model.name, "layer": layer}))
                return
        self.precision = "bfloat16"

    def _logits(
        self, stage: StagePredictor, data: np.ndarray, places: dict[StagePredictor, Place] | None = None
    ) -> torch.Tensor:
        """Logits `(labels, *plan_axes)`, float16, for preprocessed images `(C, *plan_axes)`.

        They have nnU-Net's precision, so that equal ones go to the label that its commands choose.

        Args:
            stage, data: The network and its input.
            places: Of the case. Stages that had too little memory for it on the device, and where they computed instead.
        """
        places = {} if places is None else places
        images = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
        logits = self._run(stage, images, places)
        if not self.use_mirroring:
            return logits
        axis = self.left_right_axis + 1
        images = images.flip(axis)
        n = len(self.channels)
        if len(images) > n:  # guidance: a channel per organ, of which left and right are exchanged too
            organs = [(left - 1, right - 1) for left, right in self.pairs]
            images = torch.cat([images[:n], swap_channels(images[n:], organs)])
        mirrored = self._run(stage, images, places).flip(axis)
        return ((logits.float() + swap_channels(mirrored, self.pairs).float()) / 2).half()

    def _run(self, stage: StagePredictor, images: torch.Tensor, places: dict[StagePredictor, Place]) -> torch.Tensor:
        """nnU-Net's prediction as float16 on the CPU. On a CPU, nnU-Net computes in 32 bits unless autocast is on."""
        stage.place = places.get(stage, Place.DEVICE)
        rounded = self.device.type == "cpu" and self.precision != "float32"
        while True:
            try:
                with torch.autocast("cpu", getattr(torch, self.precision) if rounded else None, enabled=rounded):
                    return stage.predict_logits_from_preprocessed_data(images).half().cpu()
            except RuntimeError as error:
                if self.device.type == "cpu" or stage.place is Place.CPU or not is_out_of_memory(error):
                    raise
            # Not within `except`: the error would hold the values of all layers on the device. So would one in a cycle.
            gc.collect()
            freed = [other.free_memory(network=other is not stage) for other in self.stages]
            if not any(freed):
                stage.place = places[stage] = Place(stage.place + 1)
            log.info("%s: too little memory, tried again at %s", self.device, stage.place.name)

    def _locate(self, prepared: PreparedCase) -> Generator[_Asked, torch.Tensor, np.ndarray]:
        """The localizer's label map on the body's grid, shape `(1, *plan_axes)`."""
        assert self.localizer is not None
        assert prepared.localizer_images is not None  # made if there is a localizer
        logits = yield self.localizer, prepared.localizer_images
        configuration = self.localizer.configuration_manager
        with step("box"):
            return label_map_of_logits(
                logits.numpy(),
                self.localizer.label_manager.convert_logits_to_segmentation,
                prepared.images.shape[1:],
                configuration.spacing,
                [prepared.properties["spacing"][i] for i in self.segmenter.plans_manager.transpose_forward],
                configuration.configuration["resampling_fn_probabilities_kwargs"]["force_separate_z"],
            )[None]

    def _segment_box(
        self, prepared: PreparedCase, located: np.ndarray | None, *, box: Sequence[Sequence[int]] | None = None
    ) -> Generator[_Asked, torch.Tensor, tuple[np.ndarray, dict]]:
        """The segmenter's label map `(Z, Y, X)` on the case's whole grid, and the properties of the crop.

        Args:
            prepared: The case.
            located: The localizer's label map, shape `(1, *plan_axes)`. Without it, the whole body is segmented.
            box: See `CascadeOARPreprocessor.crop_to_roi`.
        """
        images, properties = prepared.images, prepared.properties
        stage = self.segmenter
        plans, configuration = stage.plans_manager, stage.configuration_manager
        with step("box"):
            if located is not None:
                images, located, properties = self.preprocessor.crop_to_roi(
                    images, located, properties, plans, configuration, box=box
                )
            grids = self.preprocessor.resampling(images.shape[1:], properties, plans, configuration)
            data = configuration.resampling_fn_data(images, *grids)
            if recipe_of(stage).guidance or self.crop_size is not None:
                guide = configuration.resampling_fn_seg(located, *grids)[0]
                labels = stage.label_manager.foreground_labels
                data = np.vstack([data, convert_labelmap_to_one_hot(guide, labels, output_dtype=data.dtype)])
            if self.crop_size is not None:
                properties[PROPERTIES_KEY]["crops"] = self._crops(guide, properties)
        logits = yield stage, data
        with step("export"):
            label_map = convert_predicted_logits_to_segmentation_with_correct_shape(
                logits.numpy(),
                plans,
                configuration,
                stage.label_manager,
                properties,
                num_threads_torch=torch.get_num_threads(),
            )
        return label_map, properties

    def segment(self, prepared: PreparedCase) -> CasePrediction:
        """Locate the organs, segment the ROI and check the result."""
        steps = self.begin(prepared)
        while not steps.export():
            steps.use_networks()
        assert steps.prediction is not None
        return steps.prediction

    def begin(self, prepared: PreparedCase) -> CaseInSteps:
        """The networks' part of `segment`, up to the first logits of the segmenter. `export` of what it returns is next."""
        steps = CaseInSteps(self, prepared)
        steps.use_networks()
        return steps

    def _steps(
        self, prepared: PreparedCase, places: Mapping[StagePredictor, Place]
    ) -> Generator[_Asked, torch.Tensor, CasePrediction]:
        """`segment`, which asks for logits where it needs them. `places` are those of `_logits`."""
        located = None if self.localizer is None else (yield from self._locate(prepared))
        label_map, used = yield from self._segment_box(prepared, located)
        result = CasePrediction(
            label_map, (), channels=prepared.channels, precision=self.precision, warnings=list(prepared.warnings)
        )
        if located is not None and self.crop_size is not None:
            self._check_crops(used, result)
        elif located is not None:
            used = yield from self._check_roi(prepared, located, used, result)
        for model, stage in zip(self.models, self.stages, strict=True):
            name, device = model.name, str(self.device)
            if places.get(stage) is Place.PATCHES:
                result.warnings.append(Message("too_little_device_memory", {"model": name, "device": device}))
            elif places.get(stage) is Place.CPU:
                result.warnings.append(Message("computed_on_the_cpu", {"model": name, "device": device}))
        if places.get(self.segmenter) is Place.CPU:
            result.precision = "float32"
        backward = self.segmenter.plans_manager.transpose_backward
        box = used["bbox_used_for_cropping"]
        result.box = tuple((int(box[i][0]), int(box[i][1])) for i in backward)
        with step("checks"):
            self._postprocess(result, prepared.properties["spacing"])
            present = set(np.unique(result.label_map).tolist())
            organs = {n: v for n, v in self.dataset_json["labels"].items() if n not in ("background", *self.left_out)}
            result.missing = [n for n, v in organs.items() if v not in present]
            if result.missing:
                result.warnings.append(Message("no_voxel", {"organs": result.missing}))
            if self.ranges is not None:
                inside = result.label_map[roi.slices(result.box)]
                found = roi.organ_extents(inside, spacing_mm=prepared.properties["spacing"])
                result.warnings += implausible(found, self.ranges, self.dataset_json["labels"], pairs=self.pair_names)
        return result

    def _postprocess(self, result: CasePrediction, spacing_mm: Sequence[float]) -> None:
        """Put the label map of a case through the model's postprocessing, and name the organs that it empties."""
        if self.postprocessing is None:
            return
        result.label_map, changes = self.postprocessing.apply(
            result.label_map, self.dataset_json["labels"], spacing_mm=spacing_mm
        )
        result.postprocessed = {organ: change.to_json() for organ, change in changes.items()}
        if emptied := [organ for organ, change in changes.items() if change.emptied]:
            result.warnings.append(Message("emptied_by_postprocessing", {"organs": emptied}))

    def _crops(self, guide: np.ndarray, properties: Mapping) -> dict[str, roi.Box]:
        """Organ -> its crop in voxels of the case's whole grid, along the plan's axes.

        Args:
            guide: The localizer's label map as the network sees it.
            properties: Of the box that it covers.
        """
        assert self.crop_size is not None  # else there are none
        box = properties["bbox_used_for_cropping"]
        step = [(upper - lower) / n for (lower, upper), n in zip(box, guide.shape, strict=True)]
        return {
            self.organ_name(organ): tuple(
                (int(start + round(a * mm)), int(start + round(b * mm)))
                for (start, _), (a, b), mm in zip(box, crop, step, strict=True)
            )
            for organ, crop in organ_boxes(guide, self.crop_size).items()
        }

    def _check_crops(self, used: Mapping, result: CasePrediction) -> None:
        """Record the crop of every organ, and name the organs without one. Crops have their size and do not grow."""
        backward = self.segmenter.plans_manager.transpose_backward
        result.crops = {
            organ: tuple(crop[i] for i in backward) for organ, crop in used[PROPERTIES_KEY]["crops"].items()
        }
        wanted = [n for n in self.dataset_json["labels"] if n not in ("background", *self.left_out)]
        if lost := [organ for organ in wanted if organ not in result.crops]:
            result.warnings.append(Message("organs_without_crop", {"organs": lost}))

    def _check_roi(
        self, prepared: PreparedCase, located: np.ndarray, used: dict, result: CasePrediction
    ) -> Generator[_Asked, torch.Tensor, dict]:
        """Check that the ROI was found and is large enough, and name the overruled organs.

        Returns:
            Properties of the last crop.
        """
        outliers = used[PROPERTIES_KEY]["outliers"]
        result.fallback_whole_volume = not used[PROPERTIES_KEY]["found"]
        if result.fallback_whole_volume:
            result.warnings.append(Message("no_organ_located"))
        else:
            used = yield from self._regrow(prepared, located, used, result)
        if outliers:
            names = [self.organ_name(v) for v in outliers]
            result.warnings.append(Message("organs_overruled", {"organs": names}))
        return used

    def _regrow(
        self, prepared: PreparedCase, located: np.ndarray, used: dict, result: CasePrediction
    ) -> Generator[_Asked, torch.Tensor, dict]:
        """Move the sides of the box that an organ touches outwards and segment again, at most `REGROW_TIMES` times.

        A box never becomes larger than the training labels make believable. So a segmenter that sees organs everywhere
        does not segment all of the body again and again.
        """
        forward = self.segmenter.plans_manager.transpose_forward
        outer = tuple((int(b[0]), int(b[1])) for b in prepared.properties["bbox_used_for_cropping"])
        spacing = [prepared.properties["spacing"][i] for i in forward]
        step = [int(np.ceil(REGROW_MM / mm)) for mm in spacing]
        largest_mm = roi.largest_size_mm(self.segmenter.configuration_manager.configuration["roi"])
        most = None if largest_mm is None else [int(np.ceil(a / b)) for a, b in zip(largest_mm, spacing, strict=True)]
        box: roi.Box = tuple((int(b[0]), int(b[1])) for b in used["bbox_used_for_cropping"])
        moved: Counter[int] = Counter()
        for n_times in range(REGROW_TIMES + 1):
            label_map = result.label_map.transpose(forward)
            touched = roi.touches_border(label_map, box)
            inside = [side for side in touched if box[side // 2][side % 2] != outer[side // 2][side % 2]]
            grown = roi.grown(box, inside, roi.occupied(label_map, box), step=step, outer=outer, most=most)
            # No organ touches it, or the box ends where the body does, or it has grown often or far enough.
            if grown == box or n_times == REGROW_TIMES:
                break
            moved.update(side for side in touched if grown[side // 2][side % 2] != box[side // 2][side % 2])
            box = grown
            result.label_map, used = yield from self._segment_box(prepared, located, box=box)
        if moved:
            result.regrown = True
            farthest_mm = REGROW_MM * max(moved.values())
            result.warnings.append(
                Message("roi_enlarged_in_vain", {"mm": farthest_mm})
                if touched
                else Message("roi_enlarged", {"mm": farthest_mm})
            )
        elif inside:
            result.warnings.append(Message("roi_not_enlarged"))
        return used

    def organ_name(self, value: int) -> str:
        names = {v: n for n, v in self.dataset_json["labels"].items() if isinstance(v, int)}
        return names.get(value, str(value))

    # --- one case, step by step --------------------------------------------------------------------------------------

    def recorded_options(self) -> ChannelOptions:
        """Options by which `nnunet_ext convert` made the training images, as the model's `dataset.json` records them.

        Raises:
            ValueError: If they were not made by `nnunet_ext convert`.
        """
        return recorded_options(self.dataset_json)

    def learned_resampling(self, options: ChannelOptions) -> LearnedResampling | None:
        """The learned resampling that the training images were brought onto one grid by, from the model's folder.

        Or from that of the raw data set. None if the options name none.

        Raises:
            FileNotFoundError: If it lies in neither.
            ValueError: If it is damaged.
        """
        raw = dataset_folder("nnUNet_raw", self.segmenter.plans_manager.dataset_name)
        return learned_resampling(options, [*reversed(self.models), *([raw] if raw else [])])

    def prepare(
        self,
        images: Mapping[str, Path | sitk.Image],
        *,
        options: ChannelOptions | None = None,
        same_frame: Sequence[Sequence[str]] | None = None,
    ) -> PreparedCase:
        """Read and check a case, and do all steps that need no network.

        Args:
            images: Channel name -> file or image. A channel that is not there is left blank if the model was trained
                with modality dropout.
            options: How to bring the images to the form of the training images, mostly `recorded_options()`. None if they
                have that form, as those of an `imagesTs` folder. They lie on one grid, without couch and mask, after N4.
            same_frame: Groups of channels that share a frame of reference, for a registration. See `prepare_channels`.

        Raises:
            ValueError: If a channel is missing, damaged, no single 3D image, blank, or on another grid.
        """
        there = {name: image.name if isinstance(image, Path) else name for name, image in images.items()}
        check_channels(there, self.channels, self.optional)
        present = [c for c in self.channels if c in images]
        odd: list[Message] = []
        with collected_notes(odd):
            read = {channel: as_image(images[channel]) for channel in present}
        reference = read[reference_channel(present)]
        grid = sitk.Image(reference.GetSize(), sitk.sitkUInt8)
        grid.CopyInformation(reference)
        warnings = odd
        if options is not None:
            cleaned = prepare_channels(
                read,
                options,
                same_frame=same_frame,
                optional=self.optional,
                hu_remedy=self._hu_remedy(),
                learned=self.learned_resampling(options),
            )
            read, warnings = cleaned.images, [*odd, *cleaned.warnings]
        else:
            with step("checks"):
                check_images(read, optional=self.optional)
                recorded = self.dataset_json.get("nnunet_ext", {} if self.check_heads else {"allow_non_hu": True})
                refuse_non_hu(read, recorded, remedy=self._hu_remedy())
        if self.check_heads:
            channel = reference_channel(present)
            # A cleaned MR has no padding any more. A CT may have got a window that takes its bone.
            with step("checks"):
                warnings = [*warnings, *check_head_in(channel, reference if is_ct(channel) else read[channel])]
        check_one_grid(read)
        del images, reference  # so that each image is freed as soon as it is turned
        for channel in present:
            read[channel] = sitk.DICOMOrient(read.pop(channel), self.orientation)
        first = read[present[0]]
        blank = np.broadcast_to(np.float32(0), first.GetSize()[::-1])
        arrays = [sitk.GetArrayViewFromImage(read[c]) if c in read else blank for c in self.channels]
        if lacking := [c for c in self.channels if c not in present]:
            warnings = [*warnings, Message("channels_lacking", {"channels": present, "lacking": lacking})]
        return self._prepare_arrays(arrays, {"spacing": first.GetSpacing()[::-1]}, present, warnings, grid)

    def _hu_remedy(self) -> str:
        left_out = ", or leave its file out" if any(map(is_ct, self.optional)) else ""
        return f"{HU_REMEDY_AT_PREDICTION}{left_out}"

    def _prepare_arrays(
        self,
        arrays: Sequence[np.ndarray] | np.ndarray,
        properties: Mapping,
        channels: list[str],
        warnings: list[Message],
        grid: sitk.Image | None = None,
    ) -> PreparedCase:
        stage = self.segmenter
        small = None
        with step("body"):
            images, properties = self.preprocessor.crop_to_body(
                arrays, properties, stage.plans_manager, stage.configuration_manager, self.dataset_json
            )
            if self.localizer is not None:
                plans, configuration = self.localizer.plans_manager, self.localizer.configuration_manager
                grids = self.preprocessor.resampling(images.shape[1:], properties, plans, configuration)
                small = configuration.resampling_fn_data(images, *grids)
        return PreparedCase(images, small, properties, channels, warnings, grid)

    def mask(self, prediction: CasePrediction, prepared: PreparedCase) -> sitk.Image:
        """The label map on the case's own grid."""
        assert prepared.grid is not None  # only a case of arrays has none, and of that no mask is made
        mask = sitk.GetImageFromArray(prediction.label_map)
        mask.CopyInformation(sitk.DICOMOrient(prepared.grid, self.orientation))
        return back_to_grid(to_canonical(mask), prepared.grid)

    def write(self, prediction: CasePrediction, prepared: PreparedCase, file: Path) -> None:
        """Write the label map on the case's own grid, whole or not at all."""
        with step("writing"):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_image(self.mask(prediction, prepared), file)

    # --- one case, all of it -----------------------------------------------------------------------------------------

    def predict_folder(self, case_folder: Path, output_file: Path) -> CasePrediction:
        """Segment one case given as a folder of channels (`CT.nii.gz`, `T1.nrrd`, ...), as `nnunet_ext convert` reads it.

        The images are prepared as the training images were (one grid, couch and mask off, N4, window). The options are
        those recorded in the model's `dataset.json`.

        Raises:
            ValueError: See `prepare` and `recorded_options`.
        """
        files = find_channel_files(case_folder, self.channels, optional=self.optional)
        prepared = self.prepare(files, options=self.recorded_options())
        return self._segment_and_write(prepared, output_file)

    def predict_files(self, image_files: Mapping[str, Path], output_file: Path) -> CasePrediction:
        """Segment one case given as one file per channel (name -> file), in the form of the training images.

        Raises:
            ValueError: See `prepare`.
        """
        return self._segment_and_write(self.prepare(image_files), output_file)

    def _segment_and_write(self, prepared: PreparedCase, output_file: Path) -> CasePrediction:
        prediction = self.segment(prepared)
        self.write(prediction, prepared, output_file)
        return prediction

    def predict_array(self, images: np.ndarray, properties: Mapping) -> CasePrediction:
        """Segment one case given as arrays in the form and the axis order of the training images.

        Args:
            images: Shape `(C, Z, Y, X)`, channels in the order of `dataset.json`.
            properties: With `spacing` in mm along `(Z, Y, X)`, as nnU-Net's reader gives them.

        Raises:
            ValueError: If a channel holds nothing, or two channels hold the same image.
        """
        named = dict(zip(self.channels, images, strict=True))
        check_arrays(named, spacing_mm=properties["spacing"], optional=self.optional)
        return self.segment(self._prepare_arrays(images, properties, self.channels, []))

    def predict_images(
        self, images: Mapping[str, sitk.Image], *, options: ChannelOptions | None = None
    ) -> tuple[sitk.Image, CasePrediction]:
        """Segment one case given as images (channel name -> image).

        Args:
            images, options: See `prepare`.

        Returns:
            The label map on the CT's own grid, and the other results.
        """
        prepared = self.prepare(images, options=options)
        prediction = self.segment(prepared)
        return self.mask(prediction, prepared), prediction


def as_image(image: Path | sitk.Image) -> sitk.Image:
    """The image itself, or the one read from the file."""
    return read_image(image) if isinstance(image, Path) else image


def check_head_in(channel: str, image: sitk.Image) -> list[Message]:
    """`check_head` of an image in any orientation."""
    canonical = to_canonical(image)
    array, spacing_mm = sitk.GetArrayViewFromImage(canonical), canonical.GetSpacing()[::-1]
    return check_head(channel, array, spacing_mm=spacing_mm, is_ct=is_ct(channel))


def channel_list(dataset_json: Mapping) -> list[str]:
    """Channel names of a `dataset.json`, in the order of their numbers."""
    names = dataset_json["channel_names"]
    return [names[k] for k in sorted(names, key=int)]


def can_lack(stage: StagePredictor) -> list[str]:
    """Channels that modality dropout blanked in the training of a stage."""
    recipe, channels = recipe_of(stage), channel_list(stage.dataset_json)
    if not recipe.modality_dropout:
        return []
    return [channels[i] for i in optional_channels(channels, spares=recipe.dropout_spares)]


def recipe_of(stage: StagePredictor) -> TrainingRecipe:
    """Recipe by which the loaded configuration was trained. Models without a record of it were trained by their plan's."""
    recorded = stage.dataset_json.get(TRAINED_WITH_KEY, stage.configuration_manager.configuration)
    return TrainingRecipe.from_plan(recorded.get("recipe"))
