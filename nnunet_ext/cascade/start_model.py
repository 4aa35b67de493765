"""The model that a training starts from, as a copy of its files beside the preprocessed data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ext.cascade.start_weights import NetworkNames, StartWeights, channels_of, start_weights
from nnunet_ext.files import first_line, misfit, read_json, write_json, written_whole
from nnunet_ext.labels.pairs import plan_pairs
from nnunet_ext.labels.values import pair_values
from nnunet_ext.nnunet_folders import need, read_dataset_json
from nnunet_ext.training.foreign_models import CONFIGURATION, PLANS_JSON, check_architecture, read_weights
from nnunet_ext.training.recipe import TrainingRecipe

#: Key of a configuration of the plan: folder of the copy, below the data set's preprocessed folder.
START_KEY = "start_from"
WEIGHTS, PLANS, DATASET, SOURCE = "checkpoint.pth", "plans.json", "dataset.json", "source.json"
SOURCE_JSON = {"model": str, "fold": str, "configuration": str}
AGAIN = "start with nnunet_ext finetune --from MODEL again, which copies and checks the model"


def copy_folder(preprocessed: Path, plans_name: str, stage: str) -> Path:
    """Folder of the copy of one stage, for plans of this name."""
    return preprocessed / f"{plans_name}_model" / stage


def copied_source(folder: Path) -> dict[str, str] | None:
    """Where the copy in a folder is from, see `StartModel.source`. None if it is not there."""
    file = folder / SOURCE
    return read_json(file, SOURCE_JSON, remedy=AGAIN) if file.is_file() else None


@dataclass(frozen=True)
class StartModel:
    """One stage of a trained model.

    Attributes:
        weights: File of the checkpoint.
        plans_file: Of the model.
        plans: Content of that file.
        dataset_json: Of the model.
        source: Names of the model's folder, of its fold, and of the stage's configuration in the plans.
    """

    weights: Path
    plans_file: Path
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    source: dict[str, str]

    @classmethod
    def trained(cls, folder: Path, checkpoint: Path) -> StartModel:
        """A stage as its training left it.

        Args:
            folder: Of the trained configuration, as nnU-Net names it.
            checkpoint: Of one of its folds.

        Raises:
            OSError: If a file is not there.
            ValueError: If a file is damaged, or the plans name other code than networks and layers.
        """
        source = {
            "model": folder.name,
            "fold": checkpoint.parent.name.removeprefix("fold_"),
            "configuration": folder.name.rpartition("__")[2],
        }
        return cls._read(checkpoint, folder, source)

    @classmethod
    def copied(cls, folder: Path) -> StartModel:
        """A stage as `copy_to` left it.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: As `trained`.
        """
        if missing := [name for name in (WEIGHTS, PLANS, DATASET, SOURCE) if not (folder / name).is_file()]:
            raise FileNotFoundError(
                f"{folder} holds no model to start from ({', '.join(missing)} is not there); {AGAIN}"
            )
        return cls._read(folder / WEIGHTS, folder, read_json(folder / SOURCE, SOURCE_JSON, remedy=AGAIN))

    @classmethod
    def _read(cls, weights: Path, folder: Path, source: dict[str, str]) -> StartModel:
        plans_file = folder / PLANS
        shape = {**PLANS_JSON, "foreground_intensity_properties_per_channel": {str: dict}}
        remedy = "a training starts from models planned with CascadeOARPlanner only; if it is one, get it again"
        plans = read_json(plans_file, shape, remedy=remedy)
        dataset_json = read_dataset_json(folder / DATASET)
        for key in ("labels", "channel_names"):
            need(dataset_json, key, folder / DATASET)
        model = cls(weights, plans_file, plans, dataset_json, source)
        check_architecture(ConfigurationManager(model.entry))
        return model

    def copy_to(self, folder: Path) -> None:
        """Copy the stage.

        Raises:
            ValueError: If the weights are damaged, or hold code or objects.
        """
        read_weights(self.weights)
        folder.mkdir(parents=True, exist_ok=True)
        for original, copy in self._files(folder):
            with written_whole(copy) as temporary:
                shutil.copyfile(original, temporary)
        write_json(self.source, folder / SOURCE)

    def is_copied_in(self, folder: Path) -> bool:
        """Whether a folder holds the copy of this stage."""
        return (folder / SOURCE).is_file() and all(
            copy.is_file() and copy.read_bytes() == original.read_bytes() for original, copy in self._files(folder)
        )

    def _files(self, folder: Path) -> tuple[tuple[Path, Path], ...]:
        """Files of the stage, each with its copy in a folder."""
        dataset = self.plans_file.with_name(DATASET)
        return (self.weights, folder / WEIGHTS), (self.plans_file, folder / PLANS), (dataset, folder / DATASET)

    @cached_property
    def entry(self) -> dict[str, Any]:
        """The stage's configuration with all entries that it inherits.

        Raises:
            ValueError: If the plans have no whole one.
        """
        where, remedy = f"{self.plans_file}, configuration '{self.source['configuration']}'", "get the model again"
        try:
            entry = dict(PlansManager(self.plans).get_configuration(self.source["configuration"]).configuration)
        except (ValueError, KeyError, RuntimeError) as error:  # of nnU-Net
            raise ValueError(f"{where}: it is not whole ({first_line(error)}); {remedy}") from error
        if wrong := misfit(entry, {**CONFIGURATION, "use_mask_for_norm": [bool]}):
            raise ValueError(f"{where}: {wrong}; {remedy}")
        entry.pop("inherits_from", None)
        return json.loads(json.dumps(entry))

    @property
    def title(self) -> str:
        """Its name for messages."""
        return f"{self.source['model']}, fold {self.source['fold']}"

    @property
    def is_factorised(self) -> bool:
        """Whether its network has a logit per organ and two for the side."""
        return bool(self.entry["architecture"]["arch_kwargs"].get("left_right_pairs"))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Left and right names of the model."""
        return plan_pairs(self.plans, self.dataset_json["labels"])

    def channel_places(self, dataset_json: Mapping) -> list[int]:
        """Which of the model's channels each channel of a data set is."""
        theirs = channels_of(self.dataset_json)
        return [theirs.index(name) for name in channels_of(dataset_json)]

    def network_pairs(self, dataset_json: Mapping, pairs: Sequence[tuple[str, str]]) -> dict[str, list[list[int]]]:
        """`arch_kwargs` with label values, for a data set. Empty if the network has a logit per label."""
        if not self.is_factorised or not pairs:
            return {}
        return {"left_right_pairs": [list(pair) for pair in pair_values(pairs, dataset_json["labels"])]}

    def network_weights(self) -> Mapping[str, torch.Tensor]:
        """Names and values as the checkpoint has them.

        Raises:
            ValueError: If the file is damaged, or holds code or objects.
        """
        try:
            return read_weights(self.weights)["network_weights"]
        except ValueError as error:
            raise ValueError(f"{error} If the model itself is whole, {AGAIN}") from error

    def weights_for(self, network: nn.Module, entry: Mapping, dataset_json: Mapping) -> StartWeights:
        """Weights for the network of a data set.

        Args:
            network: With random weights.
            entry: Its configuration in the plan, with all that it inherits.
            dataset_json: Of the data set.

        Raises:
            ValueError: If the file is damaged, or of another network.
        """
        names = []
        for one, dataset in ((entry, dataset_json), (self.entry, self.dataset_json)):
            guided = one.get("previous_stage") is not None and TrainingRecipe.from_plan(one.get("recipe")).guidance
            pairs = one["architecture"]["arch_kwargs"].get("left_right_pairs") or ()
            names.append(NetworkNames.of(dataset, left_right_pairs=pairs, guided=guided))
        ours, theirs = names
        weights = self.network_weights()
        try:
            return start_weights(network, weights, ours=ours, theirs=theirs)
        except ValueError as error:
            raise ValueError(f"{self.weights} can't be started from: {error}; {AGAIN}") from error
