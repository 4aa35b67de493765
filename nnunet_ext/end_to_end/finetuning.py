"""A training of both stages that starts from a given model, by nnU-Net's own commands."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.cascade.start_checks import check_names
from nnunet_ext.cascade.start_model import StartModel, copy_folder
from nnunet_ext.end_to_end.plan_schedule import with_schedule
from nnunet_ext.files import read_json, write_json
from nnunet_ext.folder_lock import owned_folder
from nnunet_ext.labels.pairs import dataset_pairs
from nnunet_ext.nnunet_folders import (
    BOXES_FILE,
    LOCALIZER,
    SAME_PERSON_KEY,
    SEGMENTER,
    WHOLE_VOLUME,
    find_dataset,
    find_label_maps,
    folder_of_variable,
    is_model,
    localizer_of,
    need,
    read_dataset_json,
    read_splits,
)
from nnunet_ext.prediction.loading import choose_device
from nnunet_ext.processes import KILL_WITH_PARENT, console_script, ended
from nnunet_ext.starter.shipped import find_starter
from nnunet_ext.training.checkpoints import checkpoint_file, checkpoints_in
from nnunet_ext.training.checks import missing_files
from nnunet_ext.training.person_splits import N_FOLDS, person_splits, persons_among

PLANNER, PLANS, TRAINER = "CascadeOARPlannerFinetuned", "CascadeOARPlansFinetuned", "CascadeOARTrainer"
STAGES = {LOCALIZER: "localizer", SEGMENTER: "segmenter"}
#: Configurations whose data are preprocessed. The segmenter has those of the whole volume.
DATA = (WHOLE_VOLUME, LOCALIZER)
#: Of the model.
CHECKPOINT = "checkpoint_final.pth"


class FinetuningFailed(RuntimeError):
    """One of nnU-Net's commands failed. Its own messages stand above."""


def finetune(
    dataset_id: int | str,
    *,
    model: Path | None = None,
    folds: Sequence[int | str] = (),
    device: str | None = None,
    n_processes: int | None = None,
    epochs_localizer: int | None = None,
    epochs_segmenter: int | None = None,
) -> Path:
    """Train both stages on a raw data set of nnU-Net, starting from a model. Returns the folder of the segmenter.

    Each step is a command of nnU-Net, which is printed before it runs. A repeated call does only what is missing, and goes
    on with a training that was killed. Channels and organs are matched by their names.

    Args:
        dataset_id: Number or name of the raw data set.
        model: Folder of a trained segmenter, its localizer beside it, as `predict` takes it.
        folds: Of the cross-validation, or `all` for a training on all patients. Without: all folds.
        device: `cuda`, `cpu` or `mps`. Without: the GPU if there is one.
        n_processes: Processes that read and preprocess the cases. Without: as many as nnU-Net takes.
        epochs_localizer, epochs_segmenter: Instead of the plan's. An epoch has as many iterations as the model's had.

    Raises:
        FileNotFoundError: If data set, model or one of its files is not there.
        ValueError: If data set and model do not fit, there are too few patients, or another model was trained on.
        FinetuningFailed: If a command of nnU-Net fails.
    """
    training = Training.of(dataset_id, model, device)
    chosen = training.folds(folds)
    epochs = {LOCALIZER: epochs_localizer, SEGMENTER: epochs_segmenter}
    with owned_folder(training.preprocessed):
        training.prepare(n_processes, epochs)
    for fold in chosen or training.planned_folds():
        for stage in STAGES:
            with owned_folder(training.fold_folder(stage, fold)):
                training.train(stage, fold)
    segmenter = training.model_folder(SEGMENTER)
    print(
        f"Trained: {segmenter}\nTo contour new patients: nnunet_ext predict -d {training.number} -p {PLANS} -i IN -o OUT",
        flush=True,
    )
    return segmenter


@dataclass(frozen=True)
class Training:
    """A data set and the model that its training starts from.

    Attributes:
        raw: Folder of the raw data set.
        dataset_json: Of it.
        models: Stage -> that of the model.
        device: `cuda`, `cpu` or `mps`.
    """

    raw: Path
    dataset_json: Mapping[str, Any]
    models: Mapping[str, StartModel]
    device: str

    @classmethod
    def of(cls, dataset_id: int | str, model: Path | None, device: str | None) -> Training:
        """The data set and the model, checked. Errors as for `finetune`."""
        raw = find_dataset("nnUNet_raw", dataset_id, "raw data sets")
        for variable, holds in (("nnUNet_preprocessed", "preprocessed data"), ("nnUNet_results", "models")):
            folder_of_variable(variable, holds)
        file = raw / "dataset.json"
        dataset_json = read_dataset_json(file)
        for key in ("labels", "channel_names", "file_ending"):
            need(dataset_json, key, file)
        models = stages_of(model)
        pairs = dataset_pairs(dataset_json, where=str(file))
        for one in models.values():
            check_names(one, dataset_json, pairs, where=str(file))
        return cls(raw, dataset_json, models, choose_device(device).type)

    @property
    def number(self) -> int:
        return int(self.raw.name[len("Dataset") :][:3])

    @property
    def preprocessed(self) -> Path:
        return folder_of_variable("nnUNet_preprocessed", "preprocessed data") / self.raw.name

    @property
    def plans_file(self) -> Path:
        return self.preprocessed / f"{PLANS}.json"

    @property
    def splits_file(self) -> Path:
        return self.preprocessed / "splits_final.json"

    def model_folder(self, stage: str) -> Path:
        """Folder of a trained stage."""
        return folder_of_variable("nnUNet_results", "models") / self.raw.name / f"{TRAINER}__{PLANS}__{stage}"

    def fold_folder(self, stage: str, fold: int | str) -> Path:
        return self.model_folder(stage) / f"fold_{fold}"

    def cases(self) -> list[str]:
        """The training cases."""
        return sorted(self.dataset_json.get("dataset") or find_label_maps(self.raw / "labelsTr"))

    def folds(self, asked: Sequence[int | str]) -> list[int | str]:
        """The folds that were asked for. None of them: those of the plan, see `planned_folds`.

        Raises:
            ValueError: If one is no fold, or the patients are too few for a cross-validation.
        """
        folds = [fold if fold == "all" else _number(fold) for fold in asked]
        cases, groups = self.cases(), self.dataset_json.get(SAME_PERSON_KEY, [])
        n_patients = len(persons_among(cases, groups))
        enough = n_patients > 1 if groups else n_patients >= N_FOLDS
        if not enough and not self.splits_file.is_file() and folds != ["all"]:
            raise ValueError(
                f"a cross-validation needs at least {N_FOLDS} patients, and {self.raw.name} has {n_patients}. -f all trains "
                "on all of them; its scores are then those of patients that it was trained on. Or write "
                f'{self.splits_file.name}, a list of {{"train": [cases], "val": [cases]}}, into {self.preprocessed}; then '
                "-f 0 is the first of that list"
            )
        return folds

    def planned_folds(self) -> list[int | str]:
        """All folds of the cross-validation."""
        if self.splits_file.is_file():
            return list(range(len(read_splits(self.splits_file))))
        groups = self.dataset_json.get(SAME_PERSON_KEY, [])
        return list(range(len(person_splits(self.cases(), groups)) if groups else N_FOLDS))

    # --- steps -------------------------------------------------------------------------------------------------------

    def prepare(self, n_processes: int | None, epochs: Mapping[str, int | None]) -> None:
        """Copy the model, plan and preprocess, as far as it was not done before. Errors as for `finetune`."""
        processes = [] if n_processes is None else ["-np", str(n_processes)]
        self.copy_model()
        if not (self.preprocessed / "dataset_fingerprint.json").is_file():
            run(["nnUNetv2_extract_fingerprint", "-d", self.number, "--verify_dataset_integrity", *processes])
        if not self.plans_file.is_file():
            run(["nnUNetv2_plan_experiment", "-d", self.number, "-pl", PLANNER])
        self.set_epochs(epochs)
        plans = read_json(self.plans_file, {"configurations": {str: dict}})
        folders = [self.preprocessed / plans["configurations"][name]["data_identifier"] for name in DATA]
        if any(missing_files(folder, self.cases()) for folder in folders):
            more = processes and [*processes, str(n_processes)]
            run(["nnUNetv2_preprocess", "-d", self.number, "-plans_name", PLANS, "-c", *DATA, *more])
        else:
            print("[done] Plan and preprocess", flush=True)

    def copy_model(self) -> None:
        """Put the model beside the preprocessed data. Plans and data of another model are removed.

        Raises:
            ValueError: If a training that started from another model is there.
        """
        copies = {stage: copy_folder(self.preprocessed, PLANS, stage) for stage in STAGES}
        if all(self.models[stage].is_copied_in(copy) for stage, copy in copies.items()):
            return
        if trained := sorted(
            self.model_folder(SEGMENTER).parent.glob(f"{TRAINER}__{PLANS}__*/fold_*/checkpoint_*.pth")
        ):
            raise ValueError(
                f"{trained[0].parent} was trained from another model than {self.models[SEGMENTER].title}. Name that one "
                f"with --from, or move the folders {TRAINER}__{PLANS}__* in {trained[0].parents[2]} away to train anew"
            )
        for name in DATA:
            shutil.rmtree(self.preprocessed / f"{PLANS}_{name}", ignore_errors=True)
        self.plans_file.unlink(missing_ok=True)
        for stage, copy in copies.items():
            print(f"Copy the {STAGES[stage]} of {self.models[stage].title} to {copy}", flush=True)
            self.models[stage].copy_to(copy)

    def set_epochs(self, epochs: Mapping[str, int | None]) -> None:
        """Write the numbers of epochs that are asked for into the plan."""
        before = read_json(self.plans_file)
        plans = with_schedule(before, epochs=epochs)
        if plans != before:
            write_json(plans, self.plans_file)

    def train(self, stage: str, fold: int | str) -> None:
        """Train and validate one stage of one fold, or go on with it. Errors as for `finetune`."""
        folder = self.fold_folder(stage, fold)
        title = f"Train the {STAGES[stage]}, fold {fold}"
        if checkpoint_file(folder, "final").is_file() and (folder / "validation" / BOXES_FILE).is_file():
            print(f"[done] {title}", flush=True)
            return
        more = ["--c"] if checkpoints_in(folder) else []
        run(["nnUNetv2_train", self.number, stage, fold, "-tr", TRAINER, "-p", PLANS, "-device", self.device, *more])


def stages_of(model: Path | None) -> dict[str, StartModel]:
    """Both stages of a trained model.

    Args:
        model: Folder of its segmenter. None is the starter.

    Raises:
        FileNotFoundError: If it is not there, is no segmenter, or has no localizer or no final weights.
        ValueError: If a file is damaged.
    """
    if model is None:
        model = find_starter().segmenter
    model = Path(model).absolute()
    if not is_model(model):
        inside = sorted(file.parent.name for file in model.glob("*/plans.json"))
        hint = (
            f"name one of the folders in it, {', '.join(inside)}"
            if inside
            else "name the folder of a trained segmenter"
        )
        raise FileNotFoundError(f"{model} is no trained model: {hint}")
    localizer = localizer_of(model)
    if localizer is None:
        raise FileNotFoundError(
            f"{model} has no localizer beside it: name the folder of a segmenter, e.g. ..__{SEGMENTER}, and put that of its "
            f"localizer, ..__{LOCALIZER}, into the same folder"
        )
    folders = {LOCALIZER: localizer, SEGMENTER: model}
    return {stage: StartModel.trained(folder, _weights(folder)) for stage, folder in folders.items()}


def _weights(folder: Path) -> Path:
    """Final checkpoint of the model of all cases, else of the first fold that has one."""
    files = sorted(folder.glob(f"fold_*/{CHECKPOINT}"), key=lambda file: (file.parent.name != "fold_all", file))
    if not files:
        raise FileNotFoundError(f"{folder} holds no fold with {CHECKPOINT}: finish its training, or name another model")
    return files[0]


def _number(fold: int | str) -> int:
    if not str(fold).isdecimal():
        raise ValueError(f"fold {fold!r} is none: give numbers from 0 on, or all")
    return int(fold)


def run(command: Sequence[object]) -> None:
    """Say one of nnU-Net's commands and run it. What it prints goes where this process prints.

    Raises:
        FinetuningFailed: If it fails.
    """
    name, *words = map(str, command)
    print(f"$ {' '.join([name, *words])}", flush=True)
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([console_script(name), *words], env=environment, preexec_fn=KILL_WITH_PARENT)
    with ended(process):
        code = process.wait()
    if code != 0:
        raise FinetuningFailed(
            f"{name} failed (exit code {code}), as it says above. Repeat the command when the cause is gone: what is done "
            "is not repeated"
        )
