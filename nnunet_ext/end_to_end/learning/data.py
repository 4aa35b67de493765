"""The data of a study: converted, planned, preprocessed, and split by person."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.end_to_end.demo import Demo
from nnunet_ext.end_to_end.learning.edits import resolved
from nnunet_ext.end_to_end.learning.people import choose, people_of, person_splits
from nnunet_ext.end_to_end.learning.sides import merge_sides, merged_labels
from nnunet_ext.end_to_end.learning.study import DATA_FILE, ID, MERGED_ID, NAME, Study
from nnunet_ext.end_to_end.learning.systems import FINER
from nnunet_ext.files import read_json, write_json
from nnunet_ext.images.label_maps import read_label_map
from nnunet_ext.images.reading import read_image
from nnunet_ext.images.writing import write_image
from nnunet_ext.nnunet_folders import LOCALIZER, WHOLE_VOLUME, read_dataset_json
from nnunet_ext.superresolution.weights import RECORD_FILE

#: Plan of stock nnU-Net for its usual memory.
STOCK_PLANS = "StockPlans"
#: nnU-Net's planners give torch as many threads as a training has loader processes. Ours has none.
PLANNING = {"nnUNet_n_proc_DA": "1"}


def prepare(
    study: Study, *, merged: bool, stock: bool, n_processes: int, finer: bool = False, learned_resampling: bool = False
) -> None:
    """Make what is missing: cases, raw data, plans, preprocessed data, splits, and the hash of the data.

    Args:
        study: The study.
        merged: Also with left and right organs as one label.
        stock: Also for stock nnU-Net.
        n_processes: Of conversion and preprocessing.
        finer: Also on a finer grid.
        learned_resampling: Also the learned resampling of the training images.
    """
    with study.lock("data"):
        demo = Demo(study.out)
        demo.environment.update(study.environment() | PLANNING)
        processes = ["-np", str(n_processes)]
        _convert(study, demo, processes)
        _plan(study, demo, merged=False, processes=processes)
        if merged:
            _merge(study)
            _plan(study, demo, merged=True, processes=processes)
        if finer:
            _plan_finer(study, demo, processes)
        if learned_resampling and not (study.preprocessed() / RECORD_FILE).is_file():  # written last
            demo.step("Learn to make thin slices", ["nnunet_ext", "learn-resampling", "-d", str(ID)])
        ready = study.preprocessed() / f"{STOCK_PLANS}_ready"
        if stock and not ready.is_file():
            study.apart("plan_stock", memory_gb=None)
            command = ["nnUNetv2_preprocess", "-d", str(ID), "-plans_name", STOCK_PLANS, "-c", WHOLE_VOLUME]
            demo.step("Preprocess for stock nnU-Net", [*command, *processes])
            ready.touch()


def _convert(study: Study, demo: Demo, processes: Sequence[str]) -> None:
    settings = study.settings
    file = study.out / DATA_FILE
    if file.is_file():
        return
    source = Path(settings.cases)
    train, test = choose(
        people_of(source),
        train_people=settings.train_people,
        test_people=settings.test_people,
        n_train=settings.n_train,
        n_test=settings.n_test,
    )
    chosen = study.out / "cases"
    for case in [*train, *test]:
        if not (chosen / case).is_dir():
            partial = study.out / ".partial_case"
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(source / case, partial, copy_function=_link)
            chosen.mkdir(exist_ok=True)
            partial.rename(chosen / case)
    command = ["nnunet_ext", "convert", str(chosen), "-d", str(ID), "-n", NAME, "--no-preview", *processes]
    demo.step(
        f"Convert {len(train)} cases to train on and {len(test)} to score",
        [*command, "--modalities", *settings.modalities, "--test", *test],
    )
    write_json({"sha256": data_sha256(study.raw()), "train": train, "test": test}, file)


def _plan(study: Study, demo: Demo, *, merged: bool, processes: Sequence[str]) -> None:
    splits = study.splits_file(merged)
    if splits.is_file():  # the last file of this step
        return
    number = str(MERGED_ID if merged else ID)
    command = ["nnUNetv2_plan_and_preprocess", "-d", number, "-pl", study.settings.planner, "-npfp", processes[1]]
    title = "Plan and preprocess" + (" with merged sides" if merged else "")
    demo.step(title, [*command, "-c", WHOLE_VOLUME, LOCALIZER, *processes, processes[1]])
    write_json(person_splits(read_json(study.out / DATA_FILE)["train"]), splits)


def _plan_finer(study: Study, demo: Demo, processes: Sequence[str]) -> None:
    """The same plan and data for a segmenter on a finer grid. The localizer stays the one of all systems."""
    plans = read_json(study.preprocessed() / f"{study.plans_name}.json")
    spacing = plans["configurations"][WHOLE_VOLUME]["spacing"]
    finer = [f"{spacing[i] / FINER:.6g}" for i in plans["transpose_backward"]]
    command = ["nnUNetv2_plan_and_preprocess", "-d", str(ID), "-pl", study.settings.planner, "-npfp", processes[1]]
    name = ["-overwrite_target_spacing", *finer, "-overwrite_plans_name", study.finer_plans_name]
    demo.step("Plan and preprocess on a finer grid", [*command, *name, "-c", WHOLE_VOLUME, *processes])


def _merge(study: Study) -> None:
    """The raw data again with left and right organs as one label. The images are the same files."""
    there, raw = study.raw(), study.raw(merged=True)
    if (raw / "dataset.json").is_file():
        return
    content = read_dataset_json(there / "dataset.json")
    labels = content["labels"]
    for folder in ("imagesTr", "imagesTs"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
        for file in sorted((there / folder).glob("*.nii.gz")):
            if not (raw / folder / file.name).exists():
                _link(str(file), str(raw / folder / file.name))
    (raw / "labelsTr").mkdir(exist_ok=True)
    for file in sorted((there / "labelsTr").glob("*.nii.gz")):
        image = read_label_map(file)
        merged = sitk.GetImageFromArray(merge_sides(sitk.GetArrayFromImage(image), labels))
        merged.CopyInformation(image)
        write_image(merged, raw / "labelsTr" / file.name)
    content = {k: v for k, v in content.items() if k != "left_right_pairs"}
    write_json({**content, "labels": merged_labels(labels)}, raw / "dataset.json")


def plan_stock(study: Study, memory_gb: float | None) -> str:
    """Write the plan of nnU-Net's planner with the features of our first stage. Returns its name.

    Plans for other amounts of memory differ in patch and batch size only, so they use the same preprocessed data.

    Args:
        study: The study. This must run in a process with its environment.
        memory_gb: GPU memory target. None is nnU-Net's.
    """
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    name = STOCK_PLANS if memory_gb is None else f"{STOCK_PLANS}_{memory_gb:g}GB".replace(".", "_")
    file = study.preprocessed() / f"{name}.json"
    if not file.is_file():
        target = {} if memory_gb is None else {"gpu_memory_target_in_gb": memory_gb}
        planner = ExperimentPlanner(ID, plans_name=f"{name}_new", **target)
        ours = resolved(read_json(study.preprocessed() / f"{study.plans_name}.json"), WHOLE_VOLUME)
        planner.UNet_base_num_features = ours["architecture"]["arch_kwargs"]["features_per_stage"][0]
        before = dict(os.environ)
        os.environ.update(PLANNING)
        try:
            planner.plan_experiment()
        finally:
            for key in PLANNING:
                os.environ.pop(key)
            os.environ.update({key: before[key] for key in PLANNING if key in before})
        made = study.preprocessed() / f"{name}_new.json"
        plans = read_json(made)
        plans["plans_name"] = name
        plans["configurations"][WHOLE_VOLUME]["data_identifier"] = f"{STOCK_PLANS}_{WHOLE_VOLUME}"
        write_json(plans, file)
        made.unlink()
    return name


def data_sha256(raw: Path) -> str:
    """SHA-256 of all images and label maps of a raw data set: names, grids and values, whatever the compression."""
    digest = hashlib.sha256()
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        for file in sorted((raw / folder).glob("*.nii.gz")):
            image = read_image(file)
            grid = [np.round(v, 6).tolist() for v in (image.GetSpacing(), image.GetOrigin(), image.GetDirection())]
            array = np.ascontiguousarray(sitk.GetArrayViewFromImage(image))
            digest.update(f"{folder}/{file.name} {array.dtype} {array.shape} {grid}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _link(source: str, target: str) -> None:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
