"""Planner of a training that starts from a model, for few patients.

Run by `nnunet_ext finetune -d ID --from MODEL`, which puts a copy of the model beside the preprocessed data first. After
that also by `nnUNetv2_plan_experiment -d ID -pl CascadeOARPlannerFinetuned`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

from nnunet_ext.cascade.roi import RoiRule
from nnunet_ext.cascade.roi_fitting import RoiFit, fit_roi
from nnunet_ext.cascade.start_checks import check_names
from nnunet_ext.cascade.start_model import START_KEY, StartModel, copy_folder
from nnunet_ext.nnunet_folders import LOCALIZER, SEGMENTER, WHOLE_VOLUME
from nnunet_ext.plans.cascade_oar_planner import INTENSITIES_KEY, CascadeOARPlanner
from nnunet_ext.plans.training_set import transposed
from nnunet_ext.training.schedule import REFERENCE_KEY, TrainingSchedule


class CascadeOARPlannerFinetuned(CascadeOARPlanner):
    """Plans both stages of a cascade that start from the weights of a trained one.

    Of the model: grid, normalization, networks, patch sizes, batch sizes and recipe. A network knows images of one kind, and
    its weights fit no other network. Of the new patients: the ROI and its votes, the crop to the head, left and right pairs,
    and plausible ranges. `3d_fullres` holds the segmenter's data, and nothing of it is trained.

    The learning rate is a quarter of the model's. At the full rate, which finds weights from random ones, the first
    hundreds of iterations would forget what the model knows. There are half the epochs, and half the patience. The model
    brings the organs' looks along, so only what differs is left to learn. More epochs on few patients learn these by heart.
    """

    default_plans_name = "CascadeOARPlansFinetuned"
    #: Of the model's learning rate. See above.
    learning_rate_share = 0.25
    #: Of the model's epochs and of its patience.
    epochs_share = 0.5

    def start_folder(self, stage: str) -> Path:
        """Folder of the copy of a stage."""
        return copy_folder(Path(str(nnUNet_preprocessed), self.dataset_name), self.plans_identifier, stage)

    def determine_reader_writer(self) -> type[BaseReaderWriter]:
        """The reader of the base class, if it is the model's.

        Raises:
            ValueError: If it is another one, which may turn left into right.
        """
        reader = super().determine_reader_writer()
        model = StartModel.copied(self.start_folder(SEGMENTER))
        if reader.__name__ != (theirs := model.plans["image_reader_writer"]):
            raise ValueError(
                f"{self.dataset_name}: its images ({self.dataset_json['file_ending']}) are read by {reader.__name__}, and "
                f"those of the model {model.title} by {theirs}, which may order axes otherwise. Convert the data set with "
                "nnunet_ext convert, which writes .nii.gz"
            )
        return reader

    def plan_experiment(self) -> dict:
        """Write `<plans_name>.json` and return its content.

        Raises:
            FileNotFoundError: If no model was copied.
            ValueError: If the model does not fit the data set, see `check_names`, or a grid is asked for.
        """
        if self.overwrite_target_spacing is not None:
            raise ValueError(
                "the grid of a training that starts from a model is the model's: no -overwrite_target_spacing"
            )
        models = {stage: StartModel.copied(self.start_folder(stage)) for stage in (LOCALIZER, SEGMENTER)}
        for model in models.values():
            check_names(model, self.dataset_json, self.pairs, where=str(Path(self.raw_dataset_folder, "dataset.json")))
        segmenter = models[SEGMENTER]
        if "crop_size" in segmenter.entry["architecture"]["arch_kwargs"]:
            raise ValueError(
                f"{segmenter.title} has one crop per organ, from which no training can start; name a model whose patches "
                f"slide over the ROI, such as {SEGMENTER}"
            )
        forward = list(segmenter.plans["transpose_forward"])
        spacing = np.array(segmenter.entry["spacing"])
        cases = self.scan()
        organs = {name: transposed(case.organs, forward) for name, case in cases.items()}
        jitter_mm = RoiRule.from_plan(segmenter.entry.get("roi") or {}).jitter_mm
        fit = fit_roi(organs, margin_mm=self.roi_margin_mm, jitter_mm=jitter_mm)
        lowres, fullres = (
            self.stage_entries(models[stage], data, self.median_shape(models[stage].entry["spacing"], forward))
            for stage, data in ((LOCALIZER, LOCALIZER), (SEGMENTER, WHOLE_VOLUME))
        )
        configurations = {
            LOCALIZER: {**lowres, "next_stage": SEGMENTER, START_KEY: self.start_entry(LOCALIZER)},
            WHOLE_VOLUME: fullres,
            SEGMENTER: {
                "inherits_from": WHOLE_VOLUME,
                "previous_stage": LOCALIZER,
                "roi": self.roi_entry(segmenter.entry, spacing, fit),
                START_KEY: self.start_entry(SEGMENTER),
                "training": fullres["training"],
                "recipe": fullres["recipe"],
            },
        }
        places = segmenter.channel_places(self.dataset_json)
        intensities = {str(at): segmenter.plans[INTENSITIES_KEY][str(place)] for at, place in enumerate(places)}
        print(f"Grid, normalization and networks are those of {segmenter.title}")
        return self.write(configurations, fit, forward, intensities)

    def start_entry(self, stage: str) -> str:
        """The plan's `start_from`."""
        return self.start_folder(stage).relative_to(Path(str(nnUNet_preprocessed), self.dataset_name)).as_posix()

    def median_shape(self, spacing_mm: Sequence[float], forward: Sequence[int]) -> list[int]:
        """Voxels of the median body on a grid along the plan's axes."""
        as_read = np.array(spacing_mm)[[list(forward).index(axis) for axis in range(3)]]
        shapes = [compute_new_shape(case.body_shape, case.spacing_mm, as_read) for case in self.scan().values()]
        return [round(float(n)) for n in np.median(shapes, axis=0)[list(forward)]]

    def stage_entries(self, model: StartModel, data: str, median_shape: list[int]) -> dict:
        """A configuration like the model's, for the channels and labels of this data set.

        Args:
            model: The stage.
            data: Configuration whose preprocessed data it uses.
            median_shape: Voxels of the median body.
        """
        entry = copy.deepcopy(model.entry)
        for key in ("previous_stage", "next_stage", "roi", START_KEY, REFERENCE_KEY):
            entry.pop(key, None)
        places = model.channel_places(self.dataset_json)
        options = {
            key: value for key, value in entry["architecture"]["arch_kwargs"].items() if key != "left_right_pairs"
        }
        recipe = dict(entry.get("recipe") or {})
        return {
            **entry,
            "data_identifier": self.generate_data_identifier(data),
            "median_image_size_in_voxels": median_shape,
            "normalization_schemes": [entry["normalization_schemes"][place] for place in places],
            "use_mask_for_norm": [entry["use_mask_for_norm"][place] for place in places],
            "architecture": {
                **entry["architecture"],
                "arch_kwargs": {**options, **model.network_pairs(self.dataset_json, self.pairs)},
            },
            "training": dict(vars(self.schedule(TrainingSchedule.from_plan(entry.get("training"))))),
            "recipe": {**recipe, "mirror_left_right": self.mirrors and recipe.get("mirror_left_right", True)},
        }

    def schedule(self, model: TrainingSchedule) -> TrainingSchedule:
        """The model's schedule made shorter and gentler. Without a constant part: nothing is searched for."""
        rate = model.initial_lr or CascadeOARPlanner.schedules[SEGMENTER].initial_lr
        assert rate is not None  # each of our schedules has one
        patience = model.patience_epochs and max(1, round(self.epochs_share * model.patience_epochs))
        return replace(
            model,
            num_epochs=max(1, round(self.epochs_share * model.num_epochs)),
            patience_epochs=patience,
            initial_lr=self.learning_rate_share * rate,
            constant_share=0.0,
            time_budget_h=None,
        )

    def roi_entry(self, model: Mapping, spacing_mm: np.ndarray, fit: RoiFit) -> dict:
        """The ROI of the new patients, as large as the model's patch at least, and of a size that the network divides."""
        step = np.prod(model["architecture"]["arch_kwargs"]["strides"], axis=0)
        wanted = np.ceil(np.divide(fit.rule.size_mm, spacing_mm) - 1e-6)
        box = np.maximum(np.ceil(wanted / step) * step, model["patch_size"])
        rule = replace(fit.rule, size_mm=tuple(float(mm) for mm in box * spacing_mm))
        return {**rule.to_plan(), "margin_mm": self.roi_margin_mm, "needed_mm": list(fit.needed_mm)}
