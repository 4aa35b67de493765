"""What every experiment took: weights, hours of training, seconds per case, device and memory.

The study gives the same of its own. On a GTX 1070 Ti with 8 GB it trained its localizer for 20 h and each segmenter for 1 to
4 h. 15 test cases took 30 s to locate and 31 to 37 s to segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from nnunet_ext.evaluation.statistics import Mean, mean_of
from nnunet_ext.files import in_one_line, read_json
from nnunet_ext.messages import Message
from nnunet_ext.nnunet_folders import (
    LOCALIZER,
    dataset_folder,
    dataset_json_of,
    is_model,
    localizer_of,
    read_predictions_json,
    read_training_device,
)
from nnunet_ext.reporting import reference_study
from nnunet_ext.reporting.content import Cell, Experiment, Table, Text
from nnunet_ext.reporting.training_curves import read_training_curves

#: The study's rows: system, hours of its localizer and of its network, seconds per case. Its device and memory are one.
_STUDY = (
    (reference_study.LOCALIZER, "20", "-", "2.0"),
    (", ".join(reference_study.CROPS), "-", "1-4", "2.1-2.5"),
)
_STUDY_DEVICE, _STUDY_MEMORY = "GTX 1070 Ti", "8 GB"


#: Name of the table, and some of its columns.
COSTS = "costs"
COLUMNS = {"weights": 1, "seconds": 6, "memory": 8}
#: A trained model that the user named, alone or with the name of the experiment that it predicted.
NamedModel: TypeAlias = Path | tuple[str, Path]
#: Weights that the newest fold with one of these holds, the best choice first.
_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")
#: Ends of names of what a layer counts and no optimizer changes.
_COUNTED = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class NetworkSize:
    """Of one network.

    Attributes:
        parameters: Weights that training changes.
        narrowed: How its plan departs from the published width, empty if it does not.
    """

    parameters: int
    narrowed: str = ""


@dataclass(frozen=True)
class TrainingCost:
    """What the folds of a model took.

    Attributes:
        hours: One number per fold, from nnU-Net's logs, NaN if a log does not say it.
        devices: Names, each once.
        memory_mb: Highest of all folds, of the GPU if there was one. NaN if it is not known.
    """

    hours: tuple[float, ...]
    devices: tuple[str, ...]
    memory_mb: float


@dataclass(frozen=True)
class PredictionCost:
    """What the cases of an experiment took.

    Attributes:
        seconds: Case -> reading, preparing, networks and writing.
        devices: Names, each once.
        memory_mb: Highest of all cases, of the GPU if there was one. NaN if it is not known.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    memory_mb: float = float("nan")


def costs_table(
    experiments: Sequence[Experiment], models: Sequence[NamedModel] = (), *, with_study: bool
) -> tuple[Table, list[Message]]:
    """A row per experiment, and remarks on models whose files cannot be read.

    Args:
        experiments: Of the report.
        models: Trained models that the user named. One with the name of an experiment is that experiment's. Others are
            looked for in nnU-Net's folder of results.
        with_study: Add the rows of the reference study.
    """
    rows: list[tuple[Cell, ...]] = []
    remarks = []
    for experiment in experiments:
        trained: dict[bool, TrainingCost] = {}
        sizes: list[NetworkSize] = []
        for model in models_of(experiment, models):
            try:
                cost, size = training_cost(model), network_size(model)
            except (OSError, ValueError) as error:
                remarks.append(Message("costs_not_read", {"name": experiment.name, "error": in_one_line(error)}))
                continue
            if cost is not None:
                trained[_is_localizer(model)] = cost
            if size is not None:
                sizes.append(size)
        predicted = prediction_cost(experiment)
        rows.append(
            (
                Cell(experiment.name),
                _size_cell(sizes) if sizes else _atlases_cell(experiment),
                _hours_cell(trained.get(True)),
                _hours_cell(trained.get(False)),
                Cell(_names(device for cost in trained.values() for device in cost.devices)),
                Cell(_memory([cost.memory_mb for cost in trained.values()])),
                Cell(_seconds(mean_of(predicted.seconds.values()))),
                Cell(_names(predicted.devices)),
                Cell(_memory([predicted.memory_mb])),
            )
        )
    if with_study:
        for system, localizer_h, network_h, seconds in _STUDY:
            name: Text = (
                Message("head_study_localizer")
                if system == reference_study.LOCALIZER
                else Message("head_study", {"system": system})
            )
            texts = (
                name,
                "-",
                localizer_h,
                network_h,
                _STUDY_DEVICE,
                _STUDY_MEMORY,
                seconds,
                _STUDY_DEVICE,
                _STUDY_MEMORY,
            )
            rows.append(tuple(map(Cell, texts)))
    header = (
        Message("head_experiment"),
        Message("head_parameters"),
        Message("head_localizer_hours"),
        Message("head_network_hours"),
        Message("head_trained_on"),
        Message("head_training_memory"),
        Message("head_seconds_per_case"),
        Message("head_predicted_on"),
        Message("head_prediction_memory"),
    )
    notes = [
        Message("note_costs_parameters"),
        Message("note_costs_training"),
        Message("note_costs_prediction"),
        Message("note_costs_memory"),
    ]
    if with_study:
        notes.append(Message("note_costs_study"))
    return Table(COSTS, Message("title_costs"), header, tuple(rows), tuple(notes)), remarks


# Models ---------------------------------------------------------------------------------------------------------------


def models_of(experiment: Experiment, named: Sequence[NamedModel] = ()) -> list[Path]:
    """The trained models of an experiment that are there, the localizer first.

    A model named as the experiment is the one. Predictions of other programs have no other. Those of a cross-validation are
    known. Those of predictions have the names in `predictions.json`, and belong to the data set that the `dataset.json`
    beside the predictions names.
    """
    own = [Path(one[1]) for one in named if not isinstance(one, Path) and one[0] == experiment.name]
    model = own[0] if own else experiment.scores.model
    if model is not None:
        return [stage for stage in (localizer_of(model), model) if stage is not None] if is_model(model) else []
    for folder in _prediction_folders(experiment):
        if (file := folder / "predictions.json").is_file():
            dataset = dataset_json_of(folder).get("name", "")
            others = [one for one in named if isinstance(one, Path)]
            found = (_model(name, dataset, others) for name in read_predictions_json(file).get("models", ()))
            return [model for model in found if model is not None]
    return []


def _model(name: str, dataset: str, named: Sequence[Path]) -> Path | None:
    """A model by its name and that of its data set. None if there is none, or several."""
    results = dataset_folder("nnUNet_results", "")
    there = [Path(model).resolve() for model in named if Path(model).resolve().name == name]
    if results is not None and results.is_dir() and dataset:
        there += [folder / name for folder in results.glob("Dataset[0-9][0-9][0-9]_*")]
    of_dataset = {folder.resolve() for folder in there if folder.parent.name.partition("_")[2] == dataset}
    found = [folder for folder in of_dataset if is_model(folder)]
    return found[0] if len(found) == 1 else None


def _is_localizer(model: Path) -> bool:
    configuration = model.name.rpartition("__")[2]
    return configuration == LOCALIZER or "localizer" in configuration


def training_cost(model: Path) -> TrainingCost | None:
    """What the folds of a model took. None if it has no log of a finished epoch.

    Raises:
        OSError, ValueError: If a file is damaged.
    """
    try:
        curves = read_training_curves(model)
    except FileNotFoundError:
        return None
    devices, memory_mb = [], []
    for curve in curves:
        fold = model / f"fold_{curve.fold}"
        use = read_training_device(fold) or _nnunets_device(fold)
        devices += [use["device"]] if "device" in use else []
        memory_mb.append(use.get("peak_device_memory_mb", use.get("peak_memory_mb", float("nan"))))
    hours = tuple(curve.hours for curve in curves)
    return TrainingCost(hours, tuple(dict.fromkeys(devices)), _highest(memory_mb))


def network_size(model: Path) -> NetworkSize | None:
    """Weights of a model's network, of one fold. None if no fold has a checkpoint.

    Raises:
        OSError, ValueError: If a file is damaged, or holds more than weights.
    """
    files = [fold / name for fold in sorted(model.glob("fold_*")) for name in _CHECKPOINTS]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    from nnunet_ext.training.foreign_models import read_weights  # imports torch, which few reports need

    # nnU-Net's networks hold some layers under several names. These share their memory.
    weights = read_weights(file)["network_weights"]
    once = {value.data_ptr(): value.numel() for name, value in weights.items() if not name.endswith(_COUNTED)}
    return NetworkSize(sum(once.values()), _narrowed(model))


def _narrowed(model: Path) -> str:
    """How a model's plan departs from the published width of its network, in a word or two."""
    configurations = read_json(model / "plans.json", {"configurations": {str: dict}})["configurations"]
    entry = configurations.get(model.name.rpartition("__")[2], {})
    options = entry.get("architecture", {}).get("arch_kwargs", {})
    if "encoder" in options:  # of DeepLabv3+
        return "" if options["encoder"] == "resnet101" else str(options["encoder"])
    width = options.get("width", 1.0)
    return "" if width == 1.0 else f"x {width:g}"


def _nnunets_device(fold: Path) -> dict[str, Any]:
    """The device of a training of an earlier version, from what nnU-Net writes to find errors."""
    file = fold / "debug.json"
    content = read_json(file, dict) if file.is_file() else {}
    found = content.get("gpu_name") or content.get("device")
    return {"device": str(found)} if found else {}


# Predictions ----------------------------------------------------------------------------------------------------------


def prediction_cost(experiment: Experiment) -> PredictionCost:
    """What `predict` recorded of the experiment's cases, empty for a cross-validation and predictions of others."""
    records = {}
    for folder in _prediction_folders(experiment):
        if (file := folder / "predictions.json").is_file():
            records.update(read_predictions_json(file)["cases"])
    records = {case: records[case] for case in experiment.scores.cases if case in records}
    seconds = {}
    for case, record in records.items():
        with suppress(KeyError):  # a case that failed has none
            seconds[case] = sum(record[step] for step in ("prepare_s", "segment_s", "write_s"))
    memory_mb = [r.get("peak_device_memory_mb", r.get("peak_memory_mb", float("nan"))) for r in records.values()]
    devices = tuple(dict.fromkeys(record["device"] for record in records.values() if "device" in record))
    return PredictionCost(seconds, devices, _highest(memory_mb))


def _prediction_folders(experiment: Experiment) -> list[Path]:
    return list(dict.fromkeys(p.parent for p, _ in experiment.scores.files.values() if p is not None))


# Texts ----------------------------------------------------------------------------------------------------------------


def _highest(values: Iterable[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return max(known, default=float("nan"))


def _size_cell(sizes: Sequence[NetworkSize]) -> Cell:
    """`12,345` for one network, `1,234 + 5,678` for localizer and network, `46,000 (x 0.25)` at a quarter of its width."""
    texts = [f"{size.parameters:,}" + (f" ({size.narrowed})" if size.narrowed else "") for size in sizes]
    return Cell(" + ".join(texts) or "-")


def _atlases_cell(experiment: Experiment) -> Cell:
    """`no weights: 5 of 45 atlases` for contours by atlases, else a dash."""
    for folder in _prediction_folders(experiment):
        if (file := folder / "predictions.json").is_file():
            content = read_predictions_json(file)
            if there := content.get("atlases"):
                fused = min(content.get("n_atlases", len(there)), len(there))
                return Cell(Message("cell_atlases", {"n": fused, "all": len(there)}))
    return Cell("-")


def _hours_cell(cost: TrainingCost | None) -> Cell:
    mean = mean_of(cost.hours if cost else ())
    if not mean.n:
        return Cell("-")
    decimals = 1 if mean.value >= 1 else 2
    return Cell(Message("cell_hours", {"hours": f"{mean.value:.{decimals}f}", "n": mean.n}))


def _seconds(mean: Mean) -> str:
    return mean.text(1)


def _memory(values_mb: Iterable[float]) -> str:
    highest_mb = _highest(values_mb)
    return "-" if np.isnan(highest_mb) else f"{highest_mb / 1024:.1f} GB"


def _names(devices: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(devices)) or "-"
