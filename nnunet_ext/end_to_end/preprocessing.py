"""Training cases preprocessed by several processes at a time, to the files of nnU-Net's own command.

nnU-Net's `preprocess` begins by deleting what is there, so two of them can't share the cases. Each case goes here through
the plan's preprocessor alone (`run_case_save`), under temporary names first. When its files have their names, a record in
the hidden folder `.parts` says what they were made from. A case without a record that fits is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_ext.cascade.start_model import START_KEY
from nnunet_ext.files import in_one_line, process_mark, read_json, write_json, written_whole
from nnunet_ext.folder_lock import owned_part
from nnunet_ext.nnunet_folders import PREPROCESSED_PARTS as PARTS
from nnunet_ext.nnunet_folders import find_dataset, read_dataset_json
from nnunet_ext.processes import KILLED, run_each
from nnunet_ext.training.schedule import REFERENCE_KEY, TRAINING_KEY

log = logging.getLogger(__name__)

#: Folder in `PARTS` of files that are not complete.
NEW = "new"
REFERENCES = "gt_segmentations"
#: Raised when the same images and plans give other files than before. Cases are then preprocessed again.
FORMAT = 1
#: Endings of a case's files, longer ones before their own ends. nnU-Net takes a file with one of the last two for a case.
ENDINGS = ("_seg.b2nd", "_seg.npy", ".pkl", ".npy", ".b2nd", ".npz")
#: Entries of a plan and of a configuration on which no preprocessed file depends. Other plans may share the files.
_OF_NO_CASE = {"configurations", "plans_name", "experiment_planner_used", "plausibility", "left_right_pairs"}
_OF_TRAINING = {
    "architecture", "batch_dice", "batch_size", "deep_supervision", "inherits_from", "median_image_size_in_voxels",
    "next_stage", "phases", "previous_stage", "recipe", "reduced", "roi", START_KEY, TRAINING_KEY, REFERENCE_KEY,
}  # fmt: skip
#: Entries of `dataset.json` on which they depend.
_OF_DATASET = ("channel_names", "labels", "regions_class_order", "file_ending", "overwrite_image_reader_writer")
_RECORD = {"fingerprint": str, "files": {str: int}}


@dataclass
class PreprocessingSummary:
    """Result of one configuration.

    Attributes:
        configuration: Its name.
        folder: Of its preprocessed cases.
        written: Cases made now.
        skipped: Cases that were there already, made from the same files by the same plan.
        failed: Case -> reason, one line. None of its files is left.
    """

    configuration: str
    folder: Path
    written: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    """One case, as a worker process gets it. `mark` is that of the run in names of temporary files."""

    case: str
    images: tuple[Path, ...]
    label: Path
    folder: Path
    plans: dict[str, Any]
    configuration: str
    dataset_json: dict[str, Any]
    mark: str


def preprocess(
    dataset_id: int | str,
    *,
    configurations: Sequence[str],
    plans: str = "CascadeOARPlans",
    num_parts: int = 1,
    part_id: int = 0,
    n_processes: int = 2,
    show_progress: bool = True,
) -> list[PreprocessingSummary]:
    """Preprocess the training cases of a planned dataset, all of them or one of several parts.

    The files are those of `nnUNetv2_preprocess`, also the references in `gt_segmentations`. A case that is there from the
    same files and by the same plan is skipped. Files of cases that the dataset no longer has are removed. A case that
    fails is named and leaves no files, and the others are finished.

    Args:
        dataset_id: Number or name of the dataset. It has been planned, by `nnUNetv2_plan_and_preprocess --no_pp`.
        configurations: Of the plans. Of those that share their data, one is enough.
        plans: Name of the plans.
        num_parts, part_id: Take every `num_parts`-th case from the `part_id`-th on, so that several processes share the
            work.
        n_processes: Cases preprocessed at the same time. More than one starts new Python processes, so a script needs
            `if __name__ == "__main__":`.
        show_progress: Show a progress bar.

    Returns:
        One summary per configuration.

    Raises:
        FileNotFoundError: If dataset or plans are not there.
        ValueError: If a configuration is none of the plans', or an image or label file is missing.
        OSError: If another run works on the same part (`folder_lock.FolderInUse`).
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    if not 0 <= part_id < num_parts:
        raise ValueError(f"part_id is {part_id}; with num_parts {num_parts} it is 0 to {num_parts - 1}")
    raw = find_dataset("nnUNet_raw", dataset_id, "raw data sets")
    planned = find_dataset("nnUNet_preprocessed", raw.name, "preprocessed data")
    file = planned / f"{plans}.json"
    if not file.is_file():
        there = sorted(path.stem for path in planned.glob("*Plans*.json"))
        raise FileNotFoundError(
            f"there are no plans {plans} in {planned} ({', '.join(there) or 'it holds none'}); first: "
            f"nnUNetv2_plan_and_preprocess -d {raw.name[7:10]} -pl PLANNER --no_pp"
        )
    content = read_json(file, {"configurations": {str: dict}}, remedy="plan again")
    manager = PlansManager(content)
    if unknown := [name for name in configurations if name not in content["configurations"]]:
        raise ValueError(
            f"{plans} has no configuration {', '.join(unknown)}; it has {', '.join(content['configurations'])}"
        )
    dataset_json = read_dataset_json(planned / "dataset.json")
    cases = training_cases(raw, dataset_json)
    mine = dict(list(cases.items())[part_id::num_parts])
    summaries, folders = [], set()
    for name in dict.fromkeys(configurations):
        folder = planned / manager.get_configuration(name).data_identifier
        if folder in folders:
            continue
        folders.add(folder)
        with owned_part(folder, num_parts, part_id):
            (folder / PARTS / NEW).mkdir(parents=True, exist_ok=True)
            remove_strays(folder, cases)
            jobs = [
                _Job(case, images, label, folder, content, name, dataset_json, process_mark())
                for case, (images, label) in mine.items()
            ]
            summaries.append(_run(jobs, PreprocessingSummary(name, folder), n_processes, show_progress))
    ending = dataset_json["file_ending"]
    (planned / REFERENCES).mkdir(exist_ok=True)
    for case, (_, label) in mine.items():
        _copy_reference(label, planned / REFERENCES / f"{case}{ending}")
    return summaries


def training_cases(raw: Path, dataset_json: Mapping[str, Any]) -> dict[str, tuple[tuple[Path, ...], Path]]:
    """Case -> its images in channel order and its label file, sorted, as nnU-Net lists them.

    nnU-Net's own list starts twelve processes and compares each case with each file.

    Raises:
        ValueError: If a case lacks a channel or its labels.
    """
    ending = dataset_json["file_ending"]
    if "dataset" in dataset_json:
        from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

        listed = get_filenames_of_train_images_and_targets(str(raw), json.loads(json.dumps(dataset_json)))
        found = {case: [Path(image) for image in entry["images"]] for case, entry in sorted(listed.items())}
        labels = {case: Path(entry["label"]) for case, entry in listed.items()}
    else:
        found = {}
        for image in sorted((raw / "imagesTr").glob(f"*{ending}")):
            if match := re.fullmatch(r"([^.].*)_\d{4}", image.name.removesuffix(ending)):
                found.setdefault(match[1], []).append(image)
        labels = {case: raw / "labelsTr" / f"{case}{ending}" for case in found}
    n_channels = len(dataset_json["channel_names"])
    lost = [case for case, images in found.items() if len(images) != n_channels or not labels[case].is_file()]
    if lost or not found:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise ValueError(
            f"{raw} has no training cases" if not found else
            f"{raw}: {', '.join(lost[:3])}{more} lack a file; a training case is {n_channels} images and a label map"
        )  # fmt: skip
    return {case: (tuple(found[case]), labels[case]) for case in sorted(found)}


def remove_strays(folder: Path, cases: Mapping[str, object]) -> None:
    """Remove files of cases that the dataset does not have, for nnU-Net would train with them."""
    for file in folder.iterdir():
        case = next((file.name.removesuffix(ending) for ending in ENDINGS if file.name.endswith(ending)), None)
        if case is not None and case not in cases and f"{case}_seg" not in cases:
            log.info("%s: removed, for %s is no training case any more", file.name, case)
            file.unlink(missing_ok=True)
            (folder / PARTS / f"{case}.json").unlink(missing_ok=True)


def fingerprint_of(
    plans: Mapping[str, Any],
    configuration: Mapping[str, Any],
    dataset_json: Mapping[str, Any],
    files: Sequence[Path],
) -> str:
    """Hash of all that decides the preprocessed files of a case. Of images and labels, it is size and time.

    Args:
        plans: The plan's content.
        configuration: Its entry, with all that it inherits.
        dataset_json: Beside the plan.
        files: Images in channel order, and labels.
    """
    stats = [file.stat() for file in files]
    content = {
        "format": FORMAT,
        "plans": {key: value for key, value in plans.items() if key not in _OF_NO_CASE},
        "configuration": {key: value for key, value in configuration.items() if key not in _OF_TRAINING},
        "dataset": {key: dataset_json[key] for key in _OF_DATASET if key in dataset_json},
        "files": [[file.name, stat.st_size, stat.st_mtime_ns] for file, stat in zip(files, stats, strict=True)],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------ one case


def _run(
    jobs: Sequence[_Job], summary: PreprocessingSummary, n_processes: int, show_progress: bool
) -> PreprocessingSummary:
    with (
        tqdm(total=len(jobs), desc=summary.configuration, unit="case", disable=not show_progress) as bar,
        contextlib.closing(run_each(_preprocess_case, jobs, n_processes)) as outcomes,
    ):
        for job, outcome in outcomes:
            if outcome is KILLED:
                outcome = "its process was killed, probably out of memory; preprocess with -np 1 or more memory"
            if outcome is None:
                summary.skipped.append(job.case)
            elif outcome == "":
                summary.written.append(job.case)
            else:
                _remove_case(job)
                summary.failed[job.case] = outcome
            bar.update()
    return summary


def _preprocess_case(job: _Job) -> str | None:
    """None if nothing was to do, an empty text if the case was made, else why it failed."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(job.plans)
    configuration = manager.get_configuration(job.configuration)
    record = job.folder / PARTS / f"{job.case}.json"
    temporary = job.folder / PARTS / NEW / f".{job.case}.{job.mark}.new"
    try:
        fingerprint = fingerprint_of(job.plans, configuration.configuration, job.dataset_json, [*job.images, job.label])
        if _is_done(record, fingerprint):
            return None
        record.unlink(missing_ok=True)
        configuration.preprocessor_class(verbose=False).run_case_save(
            str(temporary),
            [str(image) for image in job.images],
            str(job.label),
            manager,
            configuration,
            job.dataset_json,
        )
        made = {file: file.name.removeprefix(temporary.name) for file in _beside(temporary)}
        # The file that nnU-Net takes for a case comes last.
        for file in sorted(made, key=lambda file: ENDINGS.index(made[file]) if made[file] in ENDINGS else -1):
            os.replace(file, job.folder / f"{job.case}{made[file]}")
        sizes = {name: (job.folder / name).stat().st_size for name in (f"{job.case}{end}" for end in made.values())}
        write_json({"fingerprint": fingerprint, "files": dict(sorted(sizes.items()))}, record)
        return ""
    except Exception as error:  # one case must not stop the others
        return in_one_line(error)
    finally:
        for file in _beside(temporary):
            file.unlink(missing_ok=True)


def _beside(temporary: Path) -> list[Path]:
    """The files that begin with a temporary name."""
    return [file for file in temporary.parent.iterdir() if file.name.startswith(temporary.name)]


def _is_done(record: Path, fingerprint: str) -> bool:
    try:
        content = read_json(record, _RECORD)
        sizes = {name: (record.parents[1] / name).stat().st_size for name in content["files"]}
    except (OSError, ValueError):
        return False
    return content["fingerprint"] == fingerprint and sizes == content["files"]


def _remove_case(job: _Job) -> None:
    """Remove what an earlier plan or other images left of a case, the file first that nnU-Net takes for a case."""
    (job.folder / PARTS / f"{job.case}.json").unlink(missing_ok=True)
    for ending in reversed(ENDINGS):
        (job.folder / f"{job.case}{ending}").unlink(missing_ok=True)


def _copy_reference(label: Path, to: Path) -> None:
    """Copy a label file with its time, unless it is there."""
    try:
        there, source = to.stat(), label.stat()
        if there.st_size == source.st_size and int(there.st_mtime) >= int(source.st_mtime):
            return
    except FileNotFoundError:
        pass
    with written_whole(to) as temporary:
        shutil.copy2(label, temporary)
