"""Both stages of the cascade, loaded once: images of one case in, organ masks on the input's own grid out.

A configuration without a previous stage, such as the whole-volume baseline, predicts the same way in its one stage.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot, determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.plausibility import PLANS_KEY, PlausibleRanges, implausible
from nnunet_ext.cascade.preprocessor import PROPERTIES_KEY, CascadeOARPreprocessor
from nnunet_ext.cascade.resampling import label_map_of_logits
from nnunet_ext.cases.preparing import ChannelOptions, prepare_channels
from nnunet_ext.files import first_line, misfit, read_json
from nnunet_ext.images.channels import reference_channel
from nnunet_ext.images.checks import check_arrays, check_images
from nnunet_ext.images.file_names import ENDINGS, find_channel_files
from nnunet_ext.images.geometry import CANONICAL, back_to_grid, grid_difference, same_grid, to_canonical
from nnunet_ext.images.notes import collected_notes
from nnunet_ext.images.reading import read_image
from nnunet_ext.images.writing import write_image
from nnunet_ext.labels.pairs import old_plan_warning, plan_pairs
from nnunet_ext.labels.table import LEFT_OUT_KEY
from nnunet_ext.labels.values import pair_values
from nnunet_ext.nnunet_folders import need, read_dataset_json
from nnunet_ext.prediction.loading import check_architecture, read_weights
from nnunet_ext.training.checkpoints import different_weights
from nnunet_ext.training.mirroring import swap_channels
from nnunet_ext.training.modality_dropout import optional_channels
from nnunet_ext.training.recipe import TrainingRecipe

log = logging.getLogger(__name__)
#: What a model's plans must have here, and its configuration.
PLANS_JSON = {
    "plans_name": str,
    "dataset_name": str,
    "image_reader_writer": str,
    "transpose_forward": [int] * 3,
    "transpose_backward": [int] * 3,
    "left_right_axis": int,
    "configurations": {str: dict},
}
CONFIGURATION = {
    "patch_size": [int] * 3,
    "spacing": [float] * 3,
    "normalization_schemes": [str],
    "architecture": {"network_class_name": str, "arch_kwargs": dict, "_kw_requires_import": [str]},
    "recipe?": (dict, None),
    "roi?": (dict, None),
    "previous_stage?": (str, None),
}

#: How far a box side is moved out when an organ touches it, and how often: a box that is off by half an eye must reach it.
REGROW_MM = 10.0
REGROW_TIMES = 3


@dataclass(frozen=True)
class PreparedCase:
    """One case as the networks need it, made by `CascadePredictor.prepare`.

    Attributes:
        images: The body, normalised, on the case's voxels; shape `(C, *plan_axes)`, float32.
        localizer_images: The same on the localizer's grid; None without a localizer.
        properties: Of the crop to the body, as nnU-Net's preprocessor gives them.
        channels: The channels the case has; fewer than the model's where it was trained with modality dropout.
        warnings: One line each, for a person.
        grid: The case's own grid, that of its CT (else its first channel) as it was given, with no image in it; None
            where arrays were given.
    """

    images: np.ndarray
    localizer_images: np.ndarray | None
    properties: dict
    channels: list[str]
    warnings: list[str]
    grid: sitk.Image | None = None


@dataclass
class CasePrediction:
    """Result for one case.

    Attributes:
        label_map: Shape `(Z, Y, X)` in the axis order of the training images, uint8 (uint16 from 255 labels on).
        box: ROI in voxels along `(Z, Y, X)`, upper excluded; without a localizer the body's box.
        fallback_whole_volume: The localizer found no organ, so the whole body was segmented.
        regrown: An organ touched the box, which was enlarged, up to `REGROW_TIMES` times, and segmented again.
        missing: Names of organs without a voxel, those that the model leaves out not counted.
        channels: The channels the case had.
        precision: What the networks computed in: `float32`, `bfloat16` or `float16`.
        warnings: One line each, for a person; those of `PreparedCase` first.
    """

    label_map: np.ndarray
    box: roi.Box
    fallback_whole_volume: bool = False
    regrown: bool = False
    missing: list[str] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    precision: str = "float32"
    warnings: list[str] = field(default_factory=list)

    def record(self) -> dict:
        """All but the label map, as plain JSON."""
        return {name: value for name, value in asdict(replace(self, label_map=None)).items() if name != "label_map"}


class CascadePredictor:
    """Localizer and segmenter, loaded once, for any number of cases.

    Both are nnU-Net's predictors: they load the checkpoints, slide the window and average the folds.
    `prepare`, `segment` and `write` are the three steps of one case, which a run over many cases may overlap: only
    `segment` uses the networks. `predict_files`, `predict_folder` and `predict_images` do all of one case.

    Args:
        segmenter_folder: Trained model, e.g. `.../CascadeOARTrainer__CascadeOARPlans__3d_cascade_fullres`. Where its plan
            names no previous stage, it segments the whole body, without a localizer.
        localizer_folder: Trained model; None for the previous stage in the folder beside `segmenter_folder`.
        folds: Folds to average; None for all that are trained.
        checkpoint: File name of the weights in each fold's folder.
        device: Where the networks run.
        use_mirroring: Average with the prediction of the mirrored image, left and right labels exchanged.
        full_precision: Compute in 32 bits on a CPU, as stock nnU-Net does; otherwise in mixed precision (bfloat16) where
            it has instructions for it, which takes half the time. On a GPU nnU-Net always uses mixed precision (float16).

    Raises:
        FileNotFoundError: If a model or a fold is not there.
        ValueError: If it is to mirror and was trained without (`recipe.mirror_left_right`), or its plan is wrong.
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
    ) -> None:
        self.use_mirroring = use_mirroring
        #: What the networks compute in.
        self.precision = "float16" if device.type == "cuda" else "float32"
        if device.type == "cpu" and not full_precision and has_bfloat16():
            self.precision = "bfloat16"
        options = {"folds": folds, "checkpoint": checkpoint, "device": device}
        self.models = [Path(segmenter_folder)]
        self.segmenter = load_stage(segmenter_folder, **options)
        self.localizer = None
        if (previous := self.segmenter.configuration_manager.previous_stage_name) is not None:
            trained_by = Path(segmenter_folder).name.rpartition("__")[0]
            beside = Path(segmenter_folder).with_name(f"{trained_by}__{previous}")
            self.models.insert(0, Path(localizer_folder or beside))
            self.localizer = load_stage(self.models[0], **options)
        self.stages = [stage for stage in (self.localizer, self.segmenter) if stage is not None]
        self.dataset_json = self.segmenter.dataset_json
        if (ending := self.dataset_json["file_ending"]) not in ENDINGS:
            raise ValueError(
                f"{self.models[-1]}: file_ending in dataset.json is {ending!r}, not one of {', '.join(ENDINGS)}"
            )
        plans = self.segmenter.plans_manager.plans
        self.preprocessor = CascadeOARPreprocessor(verbose=False)
        #: The axis order of the arrays the networks were trained on: that of the plan's reader.
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
                        f"{model} was trained without left-right mirroring (mirror_left_right is false in its plan): it "
                        "knows no mirrored heads. Leave out --mirror (use_mirroring)."
                    )
            if warning := old_plan_warning(plans, labels):
                log.warning("mirroring by %s: %s", self.models[-1], warning)
        #: Of volumes and positions, for warnings; None where the plans were made before there were any.
        self.ranges = PlausibleRanges.from_plan(plans[PLANS_KEY]) if PLANS_KEY in plans else None
        self.left_out = tuple(self.dataset_json.get(LEFT_OUT_KEY, ()))
        self.channels = channel_list(self.dataset_json)
        can_lack = all(recipe_of(stage).modality_dropout > 0 for stage in self.stages)
        #: Channels a case may lack: those that modality dropout blanked in the training of both stages.
        self.optional = [self.channels[i] for i in optional_channels(self.channels)] if can_lack else []

    def _logits(self, stage: nnUNetPredictor, data: np.ndarray) -> torch.Tensor:
        """Logits `(labels, *plan_axes)` for preprocessed images `(C, *plan_axes)`."""
        images = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
        logits = self._run(stage, images)
        if not self.use_mirroring:
            return logits
        axis = self.left_right_axis + 1
        images = images.flip(axis)
        n = len(self.channels)
        if len(images) > n:  # guidance: a channel per organ, of which left and right are exchanged too
            organs = [(left - 1, right - 1) for left, right in self.pairs]
            images = torch.cat([images[:n], swap_channels(images[n:], organs)])
        mirrored = self._run(stage, images).flip(axis)
        return (logits + swap_channels(mirrored, self.pairs)) / 2

    def _run(self, stage: nnUNetPredictor, images: torch.Tensor) -> torch.Tensor:
        """nnU-Net's prediction, float32 on the CPU. On a CPU it computes in 32 bits unless it finds itself in autocast."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            return stage.predict_logits_from_preprocessed_data(images).float().cpu()

    def _locate(self, prepared: PreparedCase) -> np.ndarray:
        """The localizer's label map on the body's grid, shape `(1, *plan_axes)`."""
        logits = self._logits(self.localizer, prepared.localizer_images).numpy()
        return label_map_of_logits(
            logits,
            self.localizer.label_manager.convert_logits_to_segmentation,
            prepared.images.shape[1:],
            self.localizer.configuration_manager.spacing,
            [prepared.properties["spacing"][i] for i in self.segmenter.plans_manager.transpose_forward],
        )[None]

    def _segment_box(
        self, prepared: PreparedCase, located: np.ndarray | None, *, box: Sequence[Sequence[int]] | None = None
    ) -> tuple[np.ndarray, dict]:
        """The segmenter's label map `(Z, Y, X)` on the case's whole grid, and the properties of the crop.

        Args:
            prepared: The case.
            located: The localizer's label map, shape `(1, *plan_axes)`. Without it, the whole body is segmented.
            box: See `CascadeOARPreprocessor.crop_to_roi`.
        """
        images, properties = prepared.images, prepared.properties
        stage = self.segmenter
        plans, configuration = stage.plans_manager, stage.configuration_manager
        if located is not None:
            images, located, properties = self.preprocessor.crop_to_roi(
                images, located, properties, plans, configuration, box=box
            )
        grids = self.preprocessor.resampling(images.shape[1:], properties, plans, configuration)
        data = configuration.resampling_fn_data(images, *grids)
        if recipe_of(stage).guidance:
            guide = configuration.resampling_fn_seg(located, *grids)[0]
            labels = stage.label_manager.foreground_labels
            data = np.vstack([data, convert_labelmap_to_one_hot(guide, labels, output_dtype=data.dtype)])
        label_map = convert_predicted_logits_to_segmentation_with_correct_shape(
            self._logits(stage, data),
            plans,
            configuration,
            stage.label_manager,
            properties,
            num_threads_torch=torch.get_num_threads(),
        )
        return label_map, properties

    def segment(self, prepared: PreparedCase) -> CasePrediction:
        """Both stages."""
        located = None if self.localizer is None else self._locate(prepared)
        label_map, used = self._segment_box(prepared, located)
        result = CasePrediction(
            label_map, (), channels=prepared.channels, precision=self.precision, warnings=list(prepared.warnings)
        )
        if located is not None:
            used = self._check_roi(prepared, located, used, result)
        backward = self.segmenter.plans_manager.transpose_backward
        box = used["bbox_used_for_cropping"]
        result.box = tuple((int(box[i][0]), int(box[i][1])) for i in backward)
        present = set(np.unique(result.label_map).tolist())
        organs = {n: v for n, v in self.dataset_json["labels"].items() if n not in ("background", *self.left_out)}
        result.missing = [n for n, v in organs.items() if v not in present]
        if result.missing:
            result.warnings.append(f"no voxel of {', '.join(result.missing)}")
        if self.ranges is not None:
            inside = result.label_map[roi.slices(result.box)]
            found = roi.organ_extents(inside, spacing_mm=prepared.properties["spacing"])
            result.warnings += implausible(found, self.ranges, self.dataset_json["labels"], pairs=self.pair_names)
        return result

    def _check_roi(self, prepared: PreparedCase, located: np.ndarray, used: dict, result: CasePrediction) -> dict:
        """Was there a ROI, is it large enough, which organs were overruled; the properties of the crop in the end."""
        outliers = used[PROPERTIES_KEY]["outliers"]
        result.fallback_whole_volume = not used[PROPERTIES_KEY]["found"]
        if result.fallback_whole_volume:
            result.warnings.append("the localizer found no organ: the whole body was segmented instead of the ROI")
        else:
            used = self._regrow(prepared, located, used, result)
        if outliers:
            names = ", ".join(self.organ_name(v) for v in outliers)
            result.warnings.append(f"the localizer saw {names} far from where the other organs place them: ignored")
        return used

    def _regrow(self, prepared: PreparedCase, located: np.ndarray, used: dict, result: CasePrediction) -> dict:
        """Where an organ touches the box, move those sides out and segment again, until none does or often enough."""
        forward = self.segmenter.plans_manager.transpose_forward
        body = prepared.properties["bbox_used_for_cropping"]
        box = [list(b) for b in used["bbox_used_for_cropping"]]
        moved: Counter[int] = Counter()
        for n_times in range(REGROW_TIMES + 1):
            grown = [list(b) for b in box]
            touched = roi.touches_border(result.label_map.transpose(forward), tuple(tuple(b) for b in box))
            for side in touched:
                axis, upper = divmod(side, 2)
                step = int(np.ceil(REGROW_MM / prepared.properties["spacing"][forward[axis]]))
                outer = body[axis][upper]
                grown[axis][upper] = min(outer, box[axis][1] + step) if upper else max(outer, box[axis][0] - step)
            # None touches it, or the box ends where the body does (nothing more to see), or it has grown often enough.
            if grown == box or n_times == REGROW_TIMES:
                break
            moved.update(side for side in touched if grown[side // 2][side % 2] != box[side // 2][side % 2])
            box = grown
            result.label_map, used = self._segment_box(prepared, located, box=box)
        if moved:
            result.regrown = True
            farthest_mm = REGROW_MM * max(moved.values())
            result.warnings.append(
                f"an organ touched the border of the ROI, which was enlarged by {farthest_mm:g} mm and segmented again"
                + ("; an organ still touches it" if touched else "")
            )
        return used

    def organ_name(self, value: int) -> str:
        names = {v: n for n, v in self.dataset_json["labels"].items() if isinstance(v, int)}
        return names.get(value, str(value))

    # --- one case, step by step --------------------------------------------------------------------------------------

    def recorded_options(self) -> ChannelOptions:
        """What `nnunet_ext convert` did to the training images, as the model's `dataset.json` records it.

        Raises:
            ValueError: If they were not made by `nnunet_ext convert`.
        """
        recorded = self.dataset_json.get("nnunet_ext")
        if recorded is None:
            raise ValueError(
                "the model's dataset.json holds no conversion options: its images were not made by nnunet_ext convert. "
                "Bring yours to the same form and name them <case>_0000, <case>_0001, ..."
            )
        return ChannelOptions(**{f.name: recorded[f.name] for f in fields(ChannelOptions) if f.name in recorded})

    def prepare(
        self,
        images: Mapping[str, Path | sitk.Image],
        *,
        options: ChannelOptions | None = None,
        same_frame: Sequence[Sequence[str]] | None = None,
    ) -> PreparedCase:
        """Read and check a case, and do all that needs no network.

        Args:
            images: Channel name -> file or image. A channel that is not there is left blank if the model was trained
                with modality dropout.
            options: How to bring the images to the form of the training images, mostly `recorded_options()`; None where
                they have that form, as those of an `imagesTs` folder: one grid, couch and mask off, N4, window.
            same_frame: Groups of channels that share a frame of reference, for a registration; see `prepare_channels`.

        Raises:
            ValueError: If a channel is missing, damaged, something else than one 3D image, blank, or on another grid.
        """
        needed = [c for c in self.channels if c not in self.optional and c not in images]
        if needed:
            there = (image.name if isinstance(image, Path) else name for name, image in images.items())
            raise ValueError(
                f"the model was trained on {', '.join(self.channels)}; there is no file of {', '.join(needed)}, only "
                f"{', '.join(there)}"
                + ("" if self.optional else " (with modality dropout in its recipe a model also does without some)")
            )
        present = [c for c in self.channels if c in images]
        odd: list[str] = []
        with collected_notes(odd):
            read = {c: read_image(images[c]) if isinstance(images[c], Path) else images[c] for c in present}
        reference = read[reference_channel(present)]
        grid = sitk.Image(reference.GetSize(), sitk.sitkUInt8)
        grid.CopyInformation(reference)
        warnings = odd
        if options is not None:
            cleaned = prepare_channels(read, options, same_frame=same_frame, optional=self.optional)
            read, warnings = cleaned.images, [*odd, *cleaned.warnings]
        else:
            check_images(read, optional=self.optional)
        for channel, image in read.items():
            if not same_grid(image, read[present[0]]):
                raise ValueError(
                    f"{channel} and {present[0]} lie on different grids: {grid_difference(image, read[present[0]])}. "
                    "Convert the case with nnunet_ext convert, or give it as a folder with one image per channel."
                )
        del images, image, reference  # so that each image is freed as soon as it is turned
        for channel in present:
            read[channel] = sitk.DICOMOrient(read.pop(channel), self.orientation)
        first = read[present[0]]
        blank = np.broadcast_to(np.float32(0), first.GetSize()[::-1])
        arrays = [sitk.GetArrayViewFromImage(read[c]) if c in read else blank for c in self.channels]
        if lacking := [c for c in self.channels if c not in present]:
            warnings = [*warnings, f"predicted from {' and '.join(present)} alone, without {', '.join(lacking)}"]
        return self._prepare_arrays(arrays, {"spacing": first.GetSpacing()[::-1]}, present, warnings, grid)

    def _prepare_arrays(
        self,
        arrays: Sequence[np.ndarray],
        properties: Mapping,
        channels: list[str],
        warnings: list[str],
        grid: sitk.Image | None = None,
    ) -> PreparedCase:
        stage = self.segmenter
        images, properties = self.preprocessor.crop_to_body(
            arrays, properties, stage.plans_manager, stage.configuration_manager, self.dataset_json
        )
        small = None
        if self.localizer is not None:
            plans, configuration = self.localizer.plans_manager, self.localizer.configuration_manager
            grids = self.preprocessor.resampling(images.shape[1:], properties, plans, configuration)
            small = configuration.resampling_fn_data(images, *grids)
        return PreparedCase(images, small, properties, channels, warnings, grid)

    def mask(self, prediction: CasePrediction, prepared: PreparedCase) -> sitk.Image:
        """The label map on the case's own grid."""
        mask = sitk.GetImageFromArray(prediction.label_map)
        mask.CopyInformation(sitk.DICOMOrient(prepared.grid, self.orientation))
        return back_to_grid(to_canonical(mask), prepared.grid)

    def write(self, prediction: CasePrediction, prepared: PreparedCase, file: Path) -> None:
        """Write the label map on the case's own grid, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        write_image(self.mask(prediction, prepared), file)

    # --- one case, all of it -----------------------------------------------------------------------------------------

    def predict_folder(self, case_folder: Path, output_file: Path) -> CasePrediction:
        """Segment one case given as a folder of channels (`CT.nii.gz`, `T1.nrrd`, ...), as `nnunet_ext convert` reads it.

        The images get what the training images got (one grid, couch and mask off, N4, window), by the options recorded
        in the model's `dataset.json`.

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
        """Segment one case given as images (channel name -> image): the label map on the CT's own grid, and the rest.

        Args:
            images, options: See `prepare`.
        """
        prepared = self.prepare(images, options=options)
        prediction = self.segment(prepared)
        return self.mask(prediction, prepared), prediction


def channel_list(dataset_json: Mapping) -> list[str]:
    """Channel names of a `dataset.json`, in the order of their numbers."""
    names = dataset_json["channel_names"]
    return [names[k] for k in sorted(names, key=int)]


def recipe_of(stage: nnUNetPredictor) -> TrainingRecipe:
    """How the loaded configuration was trained."""
    return TrainingRecipe.from_plan(stage.configuration_manager.configuration.get("recipe"))


def load_stage(
    folder: Path, *, folds: Sequence[int | str] | None, checkpoint: str, device: torch.device
) -> nnUNetPredictor:
    """nnU-Net's predictor for one trained configuration, loaded so that no code in the model can run.

    Raises:
        FileNotFoundError: Naming the folder, fold or file that is not there, and how to train it.
        ValueError: See `read_weights` and `check_architecture`; or if weights and plan don't fit.
    """
    folder = Path(folder)
    if not folder.is_dir():
        there = sorted(file.parent.name for file in folder.parent.glob("*__*__*/plans.json"))
        raise FileNotFoundError(
            f"no {checkpoint} of {folder.name}: {folder.parent} has no such model. There is "
            f"{', '.join(there) or 'no trained model'}. Train it with nnUNetv2_train, or name another trainer (-tr), plans "
            "(-p) or configuration (-c)."
        )
    files = checkpoint_files(folder, folds, checkpoint)
    plans_file, dataset_file = folder / "plans.json", folder / "dataset.json"
    plans = PlansManager(
        read_json(
            plans_file,
            PLANS_JSON,
            remedy="only models planned with CascadeOARPlanner are loaded; others predict with nnUNetv2_predict",
        )
    )
    dataset_json = read_dataset_json(dataset_file)
    for key in ("labels", "channel_names", "file_ending"):
        need(dataset_json, key, dataset_file)
    checkpoints = [read_weights(file) for file in files]
    trainer_name = checkpoints[0]["trainer_name"]
    configuration = _configuration(plans, checkpoints[0]["init_args"], plans_file)
    check_architecture(configuration)
    try:
        trainer = recursive_find_trainer_class_by_name(trainer_name)
    except RuntimeError as error:
        raise ValueError(
            f"{folder} was trained with {trainer_name}, which is not installed here; install the package it is from"
        ) from error
    try:
        network = without_initial_weights(
            lambda: trainer.build_network_architecture(
                plans,
                configuration,
                determine_num_input_channels(plans, configuration, dataset_json),
                plans.get_label_manager(dataset_json).num_segmentation_heads,
                enable_deep_supervision=False,
            )
        )
    except (
        TypeError,
        ValueError,
        KeyError,
        IndexError,
        AssertionError,
    ) as error:  # whatever the plan's numbers make of it
        raise ValueError(
            f"{plans_file}: its network can't be built ({type(error).__name__}: {first_line(error)}); put back the "
            "plans.json it was trained with"
        ) from error
    weights = [c["network_weights"] for c in checkpoints]
    for file, state in zip(files, weights, strict=True):
        if difference := different_weights(network.state_dict(), state):
            raise ValueError(f"{file} holds the weights of another network than its plans.json: {difference}.")
    if len(weights) == 1:  # the network's values are the checkpoint's, not a copy of them
        network.load_state_dict(weights[0], assign=True)
    with contextlib.redirect_stdout(None):  # it prints that a CPU is no GPU
        predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False, verbose=False)
    predictor.manual_initialization(network, plans, configuration, weights, dataset_json, trainer_name, None)
    return predictor


def _configuration(plans: PlansManager, trained_with: Mapping, plans_file: Path) -> ConfigurationManager:
    """The configuration that a checkpoint was trained with, as a plans file has it.

    Raises:
        ValueError: If the plans file does not have it, or not whole.
    """
    name = trained_with.get("configuration")
    remedy = "put back the plans.json it was trained with"
    try:
        configuration = plans.get_configuration(name)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{plans_file} has no whole configuration '{name}' ({first_line(error)}); {remedy}") from error
    if wrong := misfit(configuration.configuration, CONFIGURATION):
        raise ValueError(f"{plans_file}, configuration '{name}': {wrong}; {remedy}")
    return configuration


def without_initial_weights(build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """A network whose values are still to be loaded, without the second that initial ones take.

    Where it holds values that no checkpoint does (rotary position embeddings), it is built as usual.
    """
    with torch.device("meta"):
        network = build()
    if {name for name, _ in network.named_buffers()} <= network.state_dict().keys():
        return network.to_empty(device="cpu")
    return build()


def checkpoint_files(folder: Path, folds: Sequence[int | str] | None, checkpoint: str) -> list[Path]:
    """The weights of some folds of a trained configuration, without a choice of all.

    Raises:
        FileNotFoundError: Naming what is not there.
    """
    if folds is None:
        folds = [f.parent.name.removeprefix("fold_") for f in sorted(folder.glob(f"fold_*/{checkpoint}"))]
        # A model trained on all cases is not averaged with those of the cross-validation unless asked for.
        folds = [f for f in folds if f != "all"] or folds
    files = [folder / f"fold_{fold}" / checkpoint for fold in folds]
    missing = [file.parent.name.removeprefix("fold_") for file in files if not file.is_file()]
    if missing or not files:
        what = f"folds {', '.join(missing)}" if missing else "any fold"
        there = sorted(
            f"{f.parent.name.removeprefix('fold_')} ({f.name})" for f in folder.glob("fold_*/checkpoint_*.pth")
        )
        raise FileNotFoundError(
            f"no {checkpoint} for {what} in {folder}. There is {', '.join(there) or 'no trained fold'}. Train it with "
            "nnUNetv2_train, or name other folds (-f), another checkpoint (-chk), plans (-p) or trainer (-tr)."
        )
    return files


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 numbers by itself, not by emulation."""
    if not hasattr(torch.cpu, "get_capabilities"):  # of an older torch
        return False
    return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def choose_device(name: str | None) -> torch.device:
    """The named device, or the GPU if there is one.

    Raises:
        ValueError: If it is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        name = "cuda" if there["cuda"] else "cpu"
    if not there.get(name.partition(":")[0], False):
        raise ValueError(
            f"device '{name}' is not there: {', '.join(one for one, works in there.items() if works)} can be used. "
            "nnunet_ext doctor says more"
        )
    return torch.device(name)
