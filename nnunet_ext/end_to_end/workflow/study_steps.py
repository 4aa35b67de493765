"""The reference study as a list of steps, from the patients to the tables."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_ext.end_to_end.workflow.step import Resources, Step
from nnunet_ext.end_to_end.workflow.systems import OF_CHANNELS, OF_THE_STUDY, STUDY_TRAINER, System, system_of
from nnunet_ext.nnunet_folders import LOCALIZER, WHOLE_VOLUME

#: Below the folder of the study.
RAW, PREPROCESSED, RESULTS = "raw", "preprocessed", "results"
PHANTOMS, PREDICTED, SCORES, TABLES = "phantoms", "predicted", "scores", "tables"
PLANNER, PLANS = "CascadeOARPlanner", "CascadeOARPlans"
#: Plans with another number of epochs.
SHORT = "Short"
#: Configurations whose data are preprocessed. All but the localizer have those of the whole volume.
DATA = (WHOLE_VOLUME, LOCALIZER)
#: Voxels of the study, `(Z, Y, X)` in mm.
STUDY_SPACING_MM = (1.25, 0.8, 0.8)
#: On one GPU of 8 GB the study trained its localizer for 20 hours, and a segmenter for up to 4.
LOCALIZER_MINUTES, SEGMENTER_MINUTES = 1200.0, 240.0


@dataclass(frozen=True)
class StudyOptions:
    """What a study is made of.

    Attributes:
        source: Patients, as `nnunet_ext convert` takes them. None are phantoms.
        convert: More words for `nnunet_ext convert`.
        test: Names of the test cases, as `convert --test` takes them.
        n_phantoms: How many, if there is no source.
        seed: Of the phantoms.
        dataset_id: Of all images. The sets of fewer images have the numbers after it.
        name: Of the data set with all images.
        modalities: All images, in nnU-Net's order.
        fewer: Sets of fewer images (Table 3.7).
        systems: Names of the systems.
        of_channels: Name of the system that each set of fewer images is trained with.
        folds: Of the cross-validation.
        each_fold: Whether the models of single folds are scored beside their ensemble.
        register: Whether the MR is registered to the CT.
        planner, plans, trainer: Names, as nnU-Net's commands take them.
        spacing_mm: Of the grid, `(Z, Y, X)`. None leaves it to the planner.
        epochs, iterations: Of each training, instead of the plan's.
        shown: Cases that the report draws. None are the worst, the median and the best.
        device: `cuda`, `cpu` or `mps`.
        n_processes: Of the steps that have several.
        minutes: Expected of a training, instead of the study's.
    """

    source: Path | None
    convert: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    n_phantoms: int = 0
    seed: int = 20
    dataset_id: int = 521
    name: str = "HeadMR"
    modalities: tuple[str, ...] = ("CT", "T1", "T2")
    fewer: tuple[tuple[str, ...], ...] = (("CT",), ("T1", "T2"))
    systems: tuple[str, ...] = OF_THE_STUDY
    of_channels: str = OF_CHANNELS
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)
    each_fold: bool = False
    register: bool = True
    planner: str = PLANNER
    plans: str = PLANS
    trainer: str = STUDY_TRAINER
    spacing_mm: tuple[float, ...] | None = STUDY_SPACING_MM
    epochs: int | None = None
    iterations: int | None = None
    shown: tuple[str, ...] = ()
    device: str = "cuda"
    n_processes: int = 2
    minutes: float | None = None


def study_steps(options: StudyOptions) -> list[Step]:
    """All steps of a study, each after those whose outputs it reads.

    Raises:
        ValueError: If a system is unknown, there is nothing to train, or two sets of images are the same.
    """
    return list(_Study(options).steps())


@dataclass(frozen=True)
class _Images:
    """A data set: some of the images, and the systems that see them.

    Attributes:
        key: For names of steps and files.
        dataset_id, name: Of nnU-Net.
        modalities: Of the images.
        experiments: Name in the report -> system.
    """

    key: str
    dataset_id: int
    name: str
    modalities: tuple[str, ...]
    experiments: dict[str, System]

    @property
    def folder(self) -> str:
        return f"Dataset{self.dataset_id:03d}_{self.name}"


class _Study:
    def __init__(self, options: StudyOptions) -> None:
        self.o = options
        if not options.systems or not options.folds:
            raise ValueError("name at least one system and one fold")
        systems = {name: system_of(name) for name in options.systems}
        self.all = _Images("all", options.dataset_id, options.name, options.modalities, systems)
        self.fewer = []
        for at, modalities in enumerate(options.fewer, start=1):
            if not modalities or not set(modalities) < set(options.modalities):
                raise ValueError(
                    f"{'+'.join(modalities) or 'no image'} is no part of the images {'+'.join(options.modalities)}"
                )
            name = f"{options.name}_{''.join(modalities)}"
            experiment = {"+".join(modalities): system_of(options.of_channels)}
            self.fewer.append(_Images("".join(modalities), options.dataset_id + at, name, modalities, experiment))
        if len({images.key for images in self.fewer}) < len(self.fewer):
            raise ValueError("the same images are named twice")

    def steps(self) -> Iterator[Step]:
        if self.o.source is None:
            yield self.phantoms()
        yield self.convert()
        yield from map(self.channels, self.fewer)
        every = [self.all, *self.fewer]
        for images in every:
            yield self.plan(images)
            if self.o.epochs or self.o.iterations:
                yield self.schedule(images)
        for images in every:
            yield from self.trainings(images)
        for images in every:
            for name, system in images.experiments.items():
                yield from self.scores(images, name, system)
        yield self.report([name for images in every for name in images.experiments])

    # --- data ---------------------------------------------------------------------------------------------------------

    def phantoms(self) -> Step:
        return Step(
            "phantoms",
            f"Make {self.o.n_phantoms} head phantoms (CT, T1, T2, label)",
            _words("nnunet_ext phantom", PHANTOMS, "--cases", self.o.n_phantoms, "--seed", self.o.seed, "--size tiny"),
            (PHANTOMS,),
            how=self.processes(),
            resources=Resources(self.o.n_processes, 1.0 * self.o.n_processes, minutes=2),
            lasting=True,
        )

    def convert(self) -> Step:
        source = PHANTOMS if self.o.source is None else str(self.o.source)
        command = _words("nnunet_ext convert", source, "-d", self.o.dataset_id, "-n", self.o.name)
        command += ("--modalities", *self.o.modalities)
        command += ("--test", *self.o.test) if self.o.test else ()
        command += ("--register",) if self.o.register else ()
        return Step(
            "convert",
            "Convert the cases to an nnU-Net data set",
            (*command, *self.o.convert),
            (_raw(self.all),),
            (source,),
            how=self.processes(),
            resources=Resources(self.o.n_processes, 4.0 * self.o.n_processes, minutes=60),
            lasting=True,
        )

    def channels(self, images: _Images) -> Step:
        return Step(
            f"channels_{images.key}",
            f"A data set of {'+'.join(images.modalities)} alone",
            _words(
                "nnunet_ext channels", self.all.dataset_id, "-d", images.dataset_id, "-n", images.name, "--modalities"
            )
            + images.modalities,
            (_raw(images),),
            (_raw(self.all),),
        )

    # --- networks -----------------------------------------------------------------------------------------------------

    def plan(self, images: _Images) -> Step:
        spacing = () if self.o.spacing_mm is None else ("-overwrite_target_spacing", *map(str, self.o.spacing_mm))
        folder = f"{PREPROCESSED}/{images.folder}"
        n = str(self.o.n_processes)
        return Step(
            f"plan_{images.key}",
            f"Plan and preprocess {'+'.join(images.modalities)}",
            (
                *_words("nnUNetv2_plan_and_preprocess -d", images.dataset_id, "-pl", self.o.planner),
                "-c",
                *DATA,
                *spacing,
            ),
            (f"{folder}/{self.o.plans}.json", *(f"{folder}/{self.o.plans}_{data}" for data in DATA)),
            (_raw(images),),
            how=("-npfp", n, "-np", n),
            resources=Resources(self.o.n_processes, 4.0 * self.o.n_processes, minutes=30),
            lasting=True,
        )

    def schedule(self, images: _Images) -> Step:
        more: tuple[str, ...] = ()
        for word, number in (("--epochs", self.o.epochs), ("--iterations", self.o.iterations)):
            more += (word, str(number)) if number else ()
        return Step(
            f"schedule_{images.key}",
            "Plans with another number of epochs",
            (*_words("nnunet_ext schedule", images.dataset_id, "-p", self.o.plans, "-o", self.plans), *more),
            (self.plans_file(images),),
            (f"{PREPROCESSED}/{images.folder}/{self.o.plans}.json",),
        )

    def trainings(self, images: _Images) -> Iterator[Step]:
        """Each network that a system needs, once, those of the first stage first."""
        wanted = dict.fromkeys(
            (configuration, system.trainer or self.o.trainer, localizer)
            for system in images.experiments.values()
            for configuration, localizer in ((system.localizer, None), (system.configuration, system.localizer))
            if configuration is not None
        )
        for configuration, trainer, localizer in sorted(wanted, key=lambda network: network[2] is not None):
            for fold in self.o.folds:
                yield self.training(images, configuration, trainer, localizer, fold)

    def training(self, images: _Images, configuration: str, trainer: str, localizer: str | None, fold: int) -> Step:
        of_trainer = "" if trainer == self.o.trainer else f"_{trainer}"
        before: tuple[str, ...] = ()
        if localizer is not None:  # all of its folds: their errors move the box in training
            before = tuple(output for k in self.o.folds for output in self.trained(images, localizer, trainer, k))
        minutes = LOCALIZER_MINUTES if localizer is None else SEGMENTER_MINUTES
        return Step(
            f"train_{images.key}_{configuration}{of_trainer}_fold_{fold}",
            f"Train {configuration} of {'+'.join(images.modalities)}, fold {fold}",
            # --c goes on with a training that was killed, and begins one that was not begun.
            _words("nnUNetv2_train", images.dataset_id, configuration, fold, "-tr", trainer, "-p", self.plans, "--c"),
            self.trained(images, configuration, trainer, fold),
            (self.plans_file(images), f"{PREPROCESSED}/{images.folder}/{self.o.plans}_{WHOLE_VOLUME}", *before),
            how=("-device", self.o.device),
            resources=self.network(minutes if self.o.minutes is None else self.o.minutes),
            lasting=True,
        )

    # --- scores -------------------------------------------------------------------------------------------------------

    def scores(self, images: _Images, name: str, system: System) -> Iterator[Step]:
        """Predict the test cases with all folds, and with each if wanted, and score them."""
        file_name = name.replace("+", "_")
        predicted, references = f"{PREDICTED}/{file_name}", f"{RAW}/{self.all.folder}/labelsTs"
        yield self.prediction(images, system, file_name, predicted, self.o.folds)
        single = []
        if self.o.each_fold and len(self.o.folds) > 1:
            for fold in self.o.folds:
                single.append(f"{PREDICTED}/folds/{file_name}/fold_{fold}")
                yield self.prediction(images, system, f"{file_name}_fold_{fold}", single[-1], (fold,))
        yield Step(
            f"evaluate_{file_name}",
            f"Score {name}",
            (
                *_words("nnunet_ext evaluate", predicted, references, "-o", f"{SCORES}/{file_name}"),
                *(("--folds", *single) if single else ()),
            ),
            (f"{SCORES}/{file_name}",),
            (predicted, *single, _raw(self.all)),
            how=self.processes(),
            resources=Resources(self.o.n_processes, 2.0 * self.o.n_processes),
        )

    def prediction(self, images: _Images, system: System, name: str, out: str, folds: Sequence[int]) -> Step:
        trainer = system.trainer or self.o.trainer
        stages = [stage for stage in (system.localizer, system.configuration) if stage is not None]
        models = [output for stage in stages for fold in folds for output in self.trained(images, stage, trainer, fold)]
        command = _words("nnunet_ext predict -d", images.dataset_id, "-c", system.configuration, "-tr", trainer)
        command += ("-p", self.plans, "-f", *map(str, folds))
        return Step(
            f"predict_{name}",
            f"Contour the test cases with {name}",
            (*command, "-i", f"{RAW}/{images.folder}/imagesTs", "-o", out),
            (out,),
            (*models, _raw(images)),
            how=("-device", self.o.device),
            resources=self.network(15),
        )

    def report(self, experiments: Sequence[str]) -> Step:
        runs = {name: f"{SCORES}/{name.replace('+', '_')}" for name in experiments}
        return Step(
            "report",
            "Make the tables",
            (
                *_words("nnunet_ext report"),
                *(f"{name}={folder}" for name, folder in runs.items()),
                *_words("-o", TABLES, "--reference-study"),
                *(("--cases", *self.o.shown) if self.o.shown else ()),
            ),
            (TABLES,),
            tuple(runs.values()),
            how=self.processes(),
            resources=Resources(self.o.n_processes, 8.0),
        )

    # --- names --------------------------------------------------------------------------------------------------------

    @property
    def plans(self) -> str:
        """Plans that are trained by."""
        return f"{self.o.plans}{SHORT}" if self.o.epochs or self.o.iterations else self.o.plans

    def plans_file(self, images: _Images) -> str:
        return f"{PREPROCESSED}/{images.folder}/{self.plans}.json"

    def trained(self, images: _Images, configuration: str, trainer: str, fold: int) -> tuple[str, ...]:
        """Files of a training that has ended, its validation included."""
        folder = f"{RESULTS}/{images.folder}/{trainer}__{self.plans}__{configuration}/fold_{fold}"
        return f"{folder}/checkpoint_final.pth", f"{folder}/validation/summary.json"

    def processes(self) -> tuple[str, ...]:
        return ("-np", str(self.o.n_processes))

    def network(self, minutes: float) -> Resources:
        return Resources(self.o.n_processes, 16.0, gpus=int(self.o.device == "cuda"), minutes=minutes)


def _raw(images: _Images) -> str:
    """Written last, so it stands for the whole data set."""
    return f"{RAW}/{images.folder}/dataset.json"


def _words(*words: object) -> tuple[str, ...]:
    """Words of a command. Texts are divided at their spaces, as a shell does, unless they are a word of their own."""
    found: list[str] = []
    for at, word in enumerate(words):
        text = str(word)
        found += shlex.split(text) if at == 0 or text.startswith("-") else [text]
    return tuple(found)
