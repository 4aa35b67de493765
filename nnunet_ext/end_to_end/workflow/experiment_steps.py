"""An experiment as a list of steps: one model, from the patients to its scores beside those of other experiments.

Steps whose outputs lie in nnU-Net's folders belong to the data set. Experiments on one data set share them, by their names.
All others write into the experiment's own folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from nnunet_ext.end_to_end.workflow.parts import SCAN, in_parts
from nnunet_ext.end_to_end.workflow.step import Resources, Step
from nnunet_ext.files import read_json
from nnunet_ext.nnunet_folders import LOCALIZER, SEGMENTER, STUDY_LOCALIZER, WHOLE_VOLUME, planned
from nnunet_ext.training.job import JITTER, VALIDATION
from nnunet_ext.training.recipe import PLANNED

#: Below the folder of an experiment.
PREDICTED, SCORES, CROSS_VALIDATION, REPORT = "predicted", "scores", "cross_validation", "report"
PLANNER, TRAINER = "CascadeOARPlanner", "CascadeOARTrainer"
#: Memory of a training beside the cases that it holds, in GB, and what a plan holds if it does not say.
TRAINING_GB, CACHE_GB = 12.0, 4.0
#: Of a job that only lists, or gathers, what others do.
ALL_CASES = Resources(1, 8.0, minutes=60)
#: Expected of a training. Its deadline and `--c` make up for a wrong guess.
TRAINING_MINUTES = 600.0
#: Of the localizers that a configuration's name gives away, where there is no plan yet.
_LOCALIZERS = (("3d_cascade_", LOCALIZER), ("3d_organ_crops_", STUDY_LOCALIZER))


@dataclass(frozen=True)
class Experiment:
    """What an experiment is made of.

    Attributes:
        name: In reports, and of its folder.
        dataset_id: Of nnU-Net.
        dataset: Folder's name, such as `Dataset521_HeadMR`.
        raw, preprocessed, results: nnU-Net's folders.
        source: Patients, as `nnunet_ext convert` takes them. None if the data set is there.
        convert: More words for `nnunet_ext convert`.
        configuration: That is scored.
        localizer: Configuration of the stage before it, None if it has none.
        planner, plans, trainer: Names, as nnU-Net's commands take them.
        epochs, iterations: Of each training, instead of the plan's.
        folds: Of the cross-validation.
        tests: Whether the data set has test cases.
        jitter: How far the segmenter's box is moved in training. `planned`, or `measured` on the localizer's folds of the
            experiment. None leaves it to the plan.
        postprocessing: Whether one is chosen on the cross-validation, and applied to the test cases.
        compare: Names of other experiments in the report. Their folders lie beside this one's.
        device: `cuda`, `cpu` or `mps`.
        n_processes: Of the steps that have several.
        training_gb: Memory of the machine that a training takes.
        training_minutes: Expected of a training.
    """

    name: str
    dataset_id: int
    dataset: str
    raw: Path
    preprocessed: Path
    results: Path
    source: Path | None = None
    convert: tuple[str, ...] = ()
    configuration: str = SEGMENTER
    localizer: str | None = LOCALIZER
    planner: str = PLANNER
    plans: str = "CascadeOARPlans"
    trainer: str = TRAINER
    epochs: int | None = None
    iterations: int | None = None
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)
    tests: bool = True
    jitter: str | None = None
    postprocessing: bool = True
    compare: tuple[str, ...] = ()
    device: str = "cuda"
    n_processes: int = 4
    training_gb: float = TRAINING_GB + CACHE_GB
    training_minutes: float = TRAINING_MINUTES

    @property
    def trained_plans(self) -> str:
        """Plans that are trained by. Another schedule has another name, so that models go to another folder."""
        epochs = f"Epochs{self.epochs}" if self.epochs else ""
        return f"{self.plans}{epochs}{f'Iterations{self.iterations}' if self.iterations else ''}"

    @property
    def scores(self) -> str:
        """Folder of the scores that the report compares."""
        return SCORES if self.tests else CROSS_VALIDATION

    def model(self, configuration: str) -> Path:
        return self.results / self.dataset / f"{self.trainer}__{self.trained_plans}__{configuration}"

    def plans_file(self, plans: str) -> Path:
        return self.preprocessed / self.dataset / f"{plans}.json"


def experiment_steps(experiment: Experiment, parts: Mapping[str, int] = MappingProxyType({})) -> list[Step]:
    """All steps of an experiment, each after those whose outputs it reads.

    Args:
        experiment: The experiment.
        parts: Name of a step -> number of jobs that share its cases. Others are one job.

    Raises:
        ValueError: If there is no fold, or an experiment is compared with itself.
    """
    e = experiment
    if not e.folds:
        raise ValueError("name at least one fold")
    if e.name in e.compare:
        raise ValueError(f"experiment {e.name} is compared with itself; name other experiments")
    steps = [*convert_steps(e, parts), *plan_steps(e), *preprocess_steps(e, parts)]
    for configuration in filter(None, (e.localizer, e.configuration)):
        for fold in e.folds:
            steps += training_steps(e, configuration, fold)
    return [*steps, *score_steps(e, parts)]


def convert_steps(e: Experiment, parts: Mapping[str, int]) -> list[Step]:
    """The raw data set."""
    if e.source is None:
        return []
    name = e.dataset.partition("_")[2]
    whole = Step(
        "convert",
        "Convert the cases to an nnU-Net data set",
        ("nnunet_ext", "convert", str(e.source), "-d", str(e.dataset_id), "-n", name, *e.convert),
        (_dataset_json(e),),
        (str(e.source),),
        how=_processes(e),
        resources=Resources(e.n_processes, 4.0 * e.n_processes, minutes=60),
        lasting=True,
    )
    scan = replace(
        whole,
        name=SCAN.format(whole.name),
        title="Find and number the cases to convert",
        command=(*whole.command, "--scan"),
        outputs=(),
        how=(),
        resources=ALL_CASES,
    )
    last = replace(whole, how=("--finish",), resources=ALL_CASES)
    return in_parts(whole, parts.get(whole.name, 1), scan=scan, last=last)


def plan_steps(e: Experiment) -> Iterator[Step]:
    """Plans, and those with another schedule."""
    yield Step(
        f"plan_{e.plans}",
        "Plan",
        ("nnUNetv2_plan_and_preprocess", "-d", str(e.dataset_id), "-pl", e.planner, "--no_pp"),
        (str(e.plans_file(e.plans)),),
        (_dataset_json(e),),
        how=("-npfp", str(e.n_processes)),
        resources=Resources(e.n_processes, 4.0 * e.n_processes, minutes=30),
        lasting=True,
    )
    if e.trained_plans != e.plans:
        more: tuple[str, ...] = ("--epochs", str(e.epochs)) if e.epochs else ()
        more += ("--iterations", str(e.iterations)) if e.iterations else ()
        yield Step(
            f"schedule_{e.trained_plans}",
            "Plans with another schedule",
            ("nnunet_ext", "schedule", str(e.dataset_id), "-p", e.plans, "-o", e.trained_plans, *more),
            (str(e.plans_file(e.trained_plans)),),
            (str(e.plans_file(e.plans)),),
        )


def preprocess_steps(e: Experiment, parts: Mapping[str, int]) -> list[Step]:
    """The data of both stages. All configurations but the coarse localizer have those of the whole volume."""
    wanted = [WHOLE_VOLUME, *([LOCALIZER] if LOCALIZER in (e.localizer, e.configuration) else [])]
    steps = []
    for configuration in wanted:
        whole = Step(
            f"preprocess_{e.plans}_{configuration}",
            f"Preprocess {configuration}",
            ("nnunet_ext", "preprocess", "-d", str(e.dataset_id), "-p", e.plans, "-c", configuration),
            (_data(e, configuration),),
            (_dataset_json(e), str(e.plans_file(e.plans))),
            how=_processes(e),
            resources=Resources(e.n_processes, 4.0 * e.n_processes, minutes=60),
            lasting=True,
        )
        # It skips what the parts have made, which takes one process.
        last = replace(whole, how=("-np", "1"), resources=ALL_CASES)
        steps += in_parts(whole, parts.get(whole.name, 1), last=last)
    return steps


def training_steps(e: Experiment, configuration: str, fold: int) -> Iterator[Step]:
    """One fold of a stage: its training, and its validation, which of a localizer leaves its out-of-fold maps."""
    folder = e.model(configuration) / f"fold_{fold}"
    name = f"{e.trainer}__{e.trained_plans}__{configuration}_fold_{fold}"
    command = ("nnUNetv2_train", str(e.dataset_id), configuration, str(fold), "-tr", e.trainer, "-p", e.trained_plans)
    data = [_data(e, WHOLE_VOLUME), *([_data(e, LOCALIZER)] if configuration == LOCALIZER else [])]
    # Of all folds of the localizer: their errors move the box in training, and their maps place it in validation.
    maps = tuple(_validated(e, e.localizer, k) for k in e.folds) if e.localizer and configuration != e.localizer else ()
    gpu = int(e.device == "cuda")
    moved = _jitter(e) if maps else ()
    yield Step(
        f"train_{name}",
        f"Train {configuration}, fold {fold}",
        # --c goes on with a training that was ended, and begins one that was not begun.
        ("env", f"{VALIDATION}=off", *moved, *command, "--c"),
        (str(folder / "checkpoint_final.pth"),),
        (str(e.plans_file(e.trained_plans)), *data, *(() if e.jitter == PLANNED else maps)),
        how=("-device", e.device),
        resources=Resources(e.n_processes, e.training_gb, gpu, e.training_minutes),
        lasting=True,
    )
    yield Step(
        f"validate_{name}",
        f"Validate {configuration}, fold {fold}",
        (*command, "--val"),
        (_validated(e, configuration, fold),),
        (str(folder / "checkpoint_final.pth"), *maps),
        how=("-device", e.device),
        resources=Resources(e.n_processes, e.training_gb, gpu, 60),
        lasting=True,
    )


def _jitter(e: Experiment) -> tuple[str, ...]:
    """The experiment's word on how far the box is moved, for `env`."""
    if e.jitter is None:
        return ()
    return (f"{JITTER}={e.jitter}" if e.jitter == PLANNED else f"{JITTER}={' '.join((e.jitter, *map(str, e.folds)))}",)


def score_steps(e: Experiment, parts: Mapping[str, int]) -> Iterator[Step]:
    """Cross-validation, postprocessing, the test cases, and the report."""
    model, validated = e.model(e.configuration), tuple(_validated(e, e.configuration, fold) for fold in e.folds)
    some = Resources(e.n_processes, 2.0 * e.n_processes, minutes=30)
    yield Step(
        "cross_validation",
        "Score the cross-validation",
        ("nnunet_ext", "evaluate", str(model), "-o", CROSS_VALIDATION),
        (CROSS_VALIDATION,),
        validated,
        how=_processes(e),
        resources=some,
    )
    if e.postprocessing:
        yield Step(
            f"postprocessing_{model.name}",
            "Choose the postprocessing on the cross-validation",
            ("nnunet_ext", "postprocessing", str(model)),
            (_chosen(e),),
            validated,
            how=_processes(e),
            resources=some,
        )
    if e.tests:
        yield from _test_steps(e, validated, parts)
    others = {name: f"../{name}/{e.scores}" for name in e.compare}
    yield Step(
        "report",
        "Compare experiments",
        (
            "nnunet_ext",
            "report",
            *(f"{name}={path}" for name, path in {e.name: e.scores, **others}.items()),
            "-o",
            REPORT,
        ),
        (REPORT,),
        (e.scores, *others.values()),
        how=_processes(e),
        resources=Resources(e.n_processes, 8.0, minutes=30),
    )


def _test_steps(e: Experiment, validated: tuple[str, ...], parts: Mapping[str, int]) -> Iterator[Step]:
    command: tuple[str, ...] = ("nnunet_ext", "predict", "-d", str(e.dataset_id), "-c", e.configuration)
    command += ("-tr", e.trainer)
    command += ("-p", e.trained_plans, "-f", *map(str, e.folds), "-i", str(e.raw / e.dataset / "imagesTs"))
    command += () if e.postprocessing else ("--no-postprocessing",)
    whole = Step(
        "predict",
        "Contour the test cases",
        (*command, "-o", PREDICTED),
        (PREDICTED,),
        (_dataset_json(e), *((_chosen(e),) if e.postprocessing else validated)),
        how=("-device", e.device),
        resources=Resources(e.n_processes, 16.0, int(e.device == "cuda"), 60),
    )
    scan = replace(
        whole,
        name=SCAN.format(whole.name),
        title="Find the test cases",
        command=(*whole.command, "--scan"),
        outputs=(f".{PREDICTED}.parts/list.json",),
        how=("-device", "cpu"),
        resources=ALL_CASES,
        removes=(f".{PREDICTED}.parts", PREDICTED),  # of networks that were trained further since then
    )
    last = replace(whole, how=("--finish", "-device", "cpu"), resources=ALL_CASES)
    yield from in_parts(whole, parts.get(whole.name, 1), scan=scan, last=last)
    yield Step(
        "evaluate",
        "Score the test cases",
        ("nnunet_ext", "evaluate", PREDICTED, str(e.raw / e.dataset / "labelsTs"), "-o", SCORES),
        (SCORES,),
        (PREDICTED,),
        how=_processes(e),
        resources=Resources(e.n_processes, 2.0 * e.n_processes, minutes=30),
    )


# --- from the plan, where there is one --------------------------------------------------------------------------------


_PLAN = {"configurations": {str: {"previous_stage?": (str, None), "recipe?": {"cache_mb?": float}}}}


def localizer_of(configuration: str, plans_file: Path) -> str | None:
    """The localizer of a configuration, as its plan says, or as its name says if it is not planned yet."""
    if plans_file.is_file():
        return planned(read_json(plans_file, _PLAN)["configurations"], configuration, "previous_stage")
    return next((localizer for start, localizer in _LOCALIZERS if configuration.startswith(start)), None)


def training_memory_gb(configurations: Sequence[str | None], plans_file: Path) -> float:
    """Memory that trainings of these configurations take, by the cases that their plan lets them hold."""
    if not plans_file.is_file():
        return TRAINING_GB + CACHE_GB
    content = read_json(plans_file, _PLAN)["configurations"]
    recipes = [planned(content, name, "recipe") or {} for name in configurations if name is not None]
    return TRAINING_GB + max(recipe.get("cache_mb", 1000 * CACHE_GB) for recipe in recipes) / 1000


def _dataset_json(e: Experiment) -> str:
    """Written last, so it stands for the whole data set."""
    return str(e.raw / e.dataset / "dataset.json")


def _data(e: Experiment, configuration: str) -> str:
    return str(e.preprocessed / e.dataset / f"{e.plans}_{configuration}")


def _chosen(e: Experiment) -> str:
    return str(e.model(e.configuration) / "organ_postprocessing.json")


def _validated(e: Experiment, configuration: str, fold: int) -> str:
    return str(e.model(configuration) / f"fold_{fold}" / "validation" / "summary.json")


def _processes(e: Experiment) -> tuple[str, ...]:
    return ("-np", str(e.n_processes))
