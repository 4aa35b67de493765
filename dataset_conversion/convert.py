"""Sources to nnU-Net's raw format.

Each case is written as a whole or not at all, and again only when its files or the options change.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ext.cases.case import SourceCase
from nnunet_ext.cases.case_list import UNSEEN_S, list_folder, read_cases, remove_list, unfinished
from nnunet_ext.cases.key_file import check_key, write_key
from nnunet_ext.cases.preparing import ChannelOptions
from nnunet_ext.dataset_conversion.case_list import (
    SKIPPED,
    WRITTEN,
    CaseList,
    layout_of_list,
    read_case_list,
    read_outcomes,
    write_case_list,
    write_outcome,
)
from nnunet_ext.dataset_conversion.dataset import (
    PARTIAL,
    check_other_cases,
    check_writable,
    dataset_folder_of,
    is_of_kind,
    keep_learned,
    outdated_cases,
    read_record,
    remove_case,
    remove_empty_folders,
    remove_renamed,
    side_warnings,
    wait_until_listed,
    write_dataset_json,
    write_page,
)
from nnunet_ext.dataset_conversion.listing import list_cases
from nnunet_ext.dataset_conversion.one_case import Failed, Job, hashed_source, run_jobs
from nnunet_ext.dataset_conversion.persons import persons_of, read_group_file
from nnunet_ext.dataset_conversion.random_split import checked_test_share, with_test_cases
from nnunet_ext.dataset_conversion.request import Request
from nnunet_ext.dataset_conversion.settings import (
    Settings,
    checked_modalities,
    checked_window,
    default_modalities,
    label_table_of,
)
from nnunet_ext.dataset_conversion.sources import find_layout, gather
from nnunet_ext.files import process_mark
from nnunet_ext.folder_lock import holding, owned_part
from nnunet_ext.images.channels import is_ct, reference_channel
from nnunet_ext.images.source_files import FileCount, total
from nnunet_ext.messages import Message
from nnunet_ext.registration.options import RegistrationOptions

log = logging.getLogger(__name__)


@dataclass
class ConversionSummary:
    """Result of `convert`.

    Attributes:
        dataset_folder: `nnUNet_raw/DatasetID_NAME`.
        written: Cases converted now.
        skipped: Cases that were there already, from the same files with the same options.
        failed: Case -> reason, one line. It says whether the files of an earlier conversion were taken out or are kept.
            Nothing else of these cases is in the dataset.
        warnings: Case -> messages, for the cases written now.
        listing: After a dry run, the file or series of every channel and organ.
        files: The count of every file below the source.
    """

    dataset_folder: Path
    written: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, list[Message]] = field(default_factory=dict)
    listing: list[str] = field(default_factory=list)
    files: FileCount = field(default_factory=FileCount)


def convert(
    source: Path,
    *,
    dataset_id: int,
    name: str,
    modalities: Sequence[str] | None = None,
    labels_file: Path | None = None,
    test_cases: Sequence[str] = (),
    test_share: float | None = None,
    seed: int = 0,
    layout: str = "auto",
    series_file: Path | None = None,
    key_file: Path | None = None,
    unlabelled: bool = False,
    group_file: Path | None = None,
    dry_run: bool = False,
    scan: bool = False,
    num_parts: int | None = None,
    part_id: int | None = None,
    finish: bool = False,
    n_processes: int = 2,
    allow_non_hu: bool = False,
    window_hu: tuple[float, float] | None = None,
    one_range: bool = False,
    clean_ct: bool = True,
    n4: bool = True,
    register: bool = False,
    register_backend: str = "simpleitk",
    learned_resampling: Path | None = None,
    raw_folder: Path | None = None,
    show_progress: bool = True,
    preview: bool = True,
) -> ConversionSummary:
    """Folder of cases or DICOM tree -> nnU-Net raw dataset with `dataset.json` and a provenance file per case.

    Every image is turned to `LPS` axes without interpolation. Channels on other grids than the CT, or than the first
    channel if there is no CT, are resampled onto it by cubic B-splines. Label maps must lie on the grid of that
    channel, or of another channel of the case. Then each label is resampled on its own. A case that fails is left out
    as a whole and the others are finished. Running again converts only cases that are new, changed or failed.

    Many processes on many machines share a conversion in three steps with the same arguments. One process with `scan`
    finds the cases, numbers patients and writes the case list. Then each part, with `num_parts` and `part_id`, converts its
    cases. After all parts, one process with `finish` writes what concerns all cases. The files are those of one process.

    Args:
        source: Folder with one folder per case, or a DICOM tree of any nesting.
        dataset_id: nnU-Net's dataset number, 1..999.
        name: Name in the dataset's folder `Dataset501_NAME`.
        modalities: Channels in nnU-Net's order, whose files `find_channel_files` finds. `CT` is treated as CT. CT, T1,
            T2 if None, or CT, T1 for HaN-Seg.
        labels_file: TOML label table (`load_label_table`). The seven organs of `ORGANS` if None. Its entries about left
            and right go into `dataset.json`.
        test_cases: Names of cases that go to `imagesTs` (and `labelsTs`). So do cases without labels.
        test_share: Share of the labelled cases to draw for the test set instead, such as 0.25. All cases of a person, of
            `group_file` or of a DICOM patient, are on one side.
        seed: Of that draw. The same cases are drawn again from the same source.
        layout: `folders`, `dicom`, `hanseg`, or `auto` to decide by the source's content (`source_layout`).
        series_file: TOML file that says which series is which channel, for DICOM only (see `cases.series_rules`).
        key_file: The private file that says which patient each case is, for DICOM only. `DatasetID_NAME.key.csv` beside
            the dataset folder if None.
        unlabelled: A case without recognised labels goes to the test set even if files beside its images could be labels.
        group_file: CSV file with the columns case and person, for persons with several cases. Planning keeps these in one
            fold. Of synthetic heads, `phantom.json` says whose they are.
        dry_run: Only list the file or series of every channel and organ (`list_cases`). Nothing is written, and
            `raw_folder` need not be set.
        scan: Only find the cases and write their list for the parts, a hidden folder beside the key file.
        num_parts, part_id: Only convert every `num_parts`-th case of that list, from the `part_id`-th on.
        finish: Only write `dataset.json` and `conversion.html`, once all cases of the list are converted or have failed.
        n_processes: Cases converted at the same time. More than one starts new Python processes, so a script needs
            `if __name__ == "__main__":`.
        allow_non_hu: Accept a CT whose values are not HU.
        window_hu: Clip the CT to this window.
        one_range: Have planning bring all channels to intensities from 0 to 1, as the reference study did, by the entry
            `one_intensity_range` of `dataset.json`. Else a CT is normalised by nnU-Net and an MR by its z-score. A CT needs
            a window for it.
        clean_ct: Replace couch and fixation mask by air.
        n4: Remove the bias field of channels that are not CT.
        register: Register the other channels to the CT, or to the first channel if there is no CT. Warnings name the
            channels whose elastic registration was not kept.
        register_backend: Library of the registration, `simpleitk` or `elastix` (the package `itk-elastix`).
        learned_resampling: Weights that `nnunet_ext learn-resampling` wrote. Channels of thick slices get thin ones by them
            before they are resampled. They are copied into the dataset's folder, and trainings copy them into the model's.
        raw_folder: nnU-Net's raw folder. The environment variable `nnUNet_raw` if None.
        show_progress: Show a progress bar.
        preview: Draw a picture of every step of every case, and `conversion.html` that shows them.

    Returns:
        Which cases were written, skipped or failed, and why.

    Raises:
        ValueError: If an argument is wrong, before anything is written.
        FileNotFoundError: If `source` or the label table does not exist, or a part finds no case list.
        OSError: If the output folder cannot be written, or another run works in it (`folder_lock.FolderInUse`).
    """
    source = Path(source)
    in_parts = _checked_parts(num_parts, part_id, dry_run=dry_run, scan=scan, finish=finish)
    if in_parts and not scan and layout == "auto":  # a part reads its cases only
        found_in = dataset_folder_of(raw_folder, dataset_id, name)
        layout = layout_of_list(list_folder(found_in, _key_file_of(found_in, key_file)))
    layout = find_layout(source, modalities) if layout == "auto" else layout
    channels = checked_modalities(default_modalities(layout) if modalities is None else modalities)
    learned_files = _learned_files(learned_resampling, channels)
    settings = Settings(
        channels,
        label_table_of(layout, labels_file),
        ChannelOptions(
            clean_ct,
            n4,
            None if window_hu is None else checked_window(window_hu),
            allow_non_hu,
            register,
            register_backend,
            hashlib.sha256(next(iter(learned_files.values()))).hexdigest() if learned_files else None,
        ),
        one_range,
    )
    if one_range and window_hu is None and any(map(is_ct, settings.modalities)):
        raise ValueError(
            "one range for all channels needs a CT with a window, else metal sets it: add --window-hu LO HI"
        )
    if register:
        RegistrationOptions(backend=register_backend)  # an unknown or missing backend is no fault of every case
    elif register_backend != "simpleitk":
        raise ValueError(f"registration backend {register_backend!r} without registration: add --register")
    if test_share is not None and test_cases:
        raise ValueError("test cases are named, and a share to draw is given too; give one of both")
    if test_share is None and seed:
        raise ValueError("a seed is for test cases that are drawn at random; give their share too, e.g. --test 0.25")
    drawn = None if test_share is None else checked_test_share(test_share, seed)
    if group_file is not None:
        read_group_file(group_file)  # a fault in it is found before anything is read
    if dry_run:
        if key_file is None and (raw_folder is not None or os.environ.get("nnUNet_raw")):  # noqa: SIM112 nnU-Net's spelling
            dataset = dataset_folder_of(raw_folder, dataset_id, name)
            key_file = _key_file_of(dataset, None)
        listing = list_cases(
            source,
            modalities=settings.modalities,
            labels_file=labels_file,
            test_cases=test_cases,
            test_share=test_share,
            seed=seed,
            group_file=group_file,
            layout=layout,
            series_file=series_file,
            key_file=key_file,
            unlabelled=unlabelled,
            show_progress=show_progress,
        )
        return ConversionSummary(
            Path(f"Dataset{dataset_id:03d}_{name}"),
            failed=listing.failed,
            listing=listing.lines,
            files=listing.files,
        )
    dataset = dataset_folder_of(raw_folder, dataset_id, name)
    if n_processes < 1:
        raise ValueError(f"n_processes is {n_processes}; at least 1 is needed")
    request = Request(
        dataset,
        source.absolute() if in_parts else source,  # a part may run in another folder
        name,
        layout,
        settings,
        _key_file_of(dataset, key_file),
        tuple(test_cases),
        drawn,
        series_file,
        group_file,
        unlabelled,
        preview,
        learned_files,
    )
    if scan:
        return _scan_for_parts(dataset, 1, 0, request, show_progress)
    if finish:
        return _finish_parts(dataset, 1, 0, request)
    if num_parts is not None:
        return _convert_part(dataset, num_parts, part_id or 0, request, n_processes, show_progress)
    return _convert_whole(dataset, 1, 0, request, n_processes, show_progress)


def _learned_files(weights: Path | None, modalities: Sequence[str]) -> dict[str, bytes]:
    """Name -> content of the two files of a learned resampling, the weights first. Empty without one.

    Raises:
        OSError: If one is not there.
        ValueError: If they are damaged, or do not know a channel that is to be resampled.
    """
    if weights is None:
        return {}
    from nnunet_ext.superresolution.weights import RECORD_FILE, WEIGHTS_FILE, read_learned_resampling, record_file

    learned = read_learned_resampling(Path(weights))
    for channel in modalities:
        if channel != reference_channel(modalities):
            learned.index(channel)
    return {WEIGHTS_FILE: Path(weights).read_bytes(), RECORD_FILE: record_file(Path(weights)).read_bytes()}


def _checked_parts(num_parts: int | None, part_id: int | None, *, dry_run: bool, scan: bool, finish: bool) -> bool:
    """Whether one of the steps of a conversion in parts is asked for. ValueError if it is not clear which."""
    if (num_parts is None) != (part_id is None):
        raise ValueError("give both, -num_parts N and -part_id K")
    if num_parts is not None and not 0 <= (part_id or 0) < num_parts:
        raise ValueError(f"part_id is {part_id}; with num_parts {num_parts} it is 0 to {num_parts - 1}")
    steps = {"--list": dry_run, "--scan": scan, "-num_parts": num_parts is not None, "--finish": finish}
    if len(asked := [step for step, wanted in steps.items() if wanted]) > 1:
        raise ValueError(f"{' and '.join(asked)} are steps of their own; give one of them")
    return scan or finish or num_parts is not None


def _key_file_of(dataset: Path, key_file: Path | None) -> Path:
    return dataset.with_name(f"{dataset.name}.key.csv") if key_file is None else Path(key_file)


# Whatever writes what concerns all cases owns the whole dataset, and a part owns its part. So no scan takes the list away
# from parts at work.


@holding(owned_part, "dataset", "num_parts", "part_id")
def _convert_whole(
    dataset: Path, num_parts: int, part_id: int, request: Request, n_processes: int, show_progress: bool
) -> ConversionSummary:
    """The whole conversion in this process and its workers."""
    found = _found_cases(request, show_progress)
    remove_list(list_folder(dataset, request.key_file))  # its outcomes will no longer be those of the cases
    summary = ConversionSummary(dataset)
    failed: dict[str, Failed] = {}
    try:
        jobs = _jobs(request, found.gathered.cases, found.source, dataset / PARTIAL)
        for job, outcome in _outcomes(jobs, n_processes, show_progress, summary):
            if isinstance(outcome, Failed):
                failed[job.case.name] = outcome
        _finish(request, found, failed, summary)
    finally:
        _clean_up(dataset)
    return _told(summary)


@holding(owned_part, "dataset", "num_parts", "part_id")
def _scan_for_parts(
    dataset: Path, num_parts: int, part_id: int, request: Request, show_progress: bool
) -> ConversionSummary:
    """Only the cases, and the list of them."""
    try:
        found = _found_cases(request, show_progress)
        write_case_list(list_folder(dataset, request.key_file), found, request)
    finally:
        _clean_up(dataset, begun=True)
    gathered = found.gathered
    listing = [f"{name} -> nothing: {reason}" for name, reason in sorted(gathered.failed.items())]
    n = len(gathered.cases) + len(gathered.failed)
    listing.append(f"{n} cases ({request.layout}): {len(gathered.cases)} to convert, {len(gathered.failed)} not")
    files = total(gathered.counts, gathered.beside, gathered.failed)
    return ConversionSummary(dataset, failed=dict(sorted(gathered.failed.items())), listing=listing, files=files)


@holding(owned_part, "dataset", "num_parts", "part_id")
def _convert_part(
    dataset: Path, num_parts: int, part_id: int, request: Request, n_processes: int, show_progress: bool
) -> ConversionSummary:
    """Only the cases of one part."""
    folder = list_folder(dataset, request.key_file)
    found = read_case_list(folder, request, hashed_source(request.source, dataset))
    cases = read_cases(folder, found.names[part_id::num_parts])
    summary = ConversionSummary(dataset)
    partial = dataset / PARTIAL / process_mark()  # whoever should work on the same part has another one
    try:
        jobs = _jobs(request, cases, found.source, partial)
        for job, outcome in _outcomes(jobs, n_processes, show_progress, summary):
            kept = outcome if isinstance(outcome, Failed) else SKIPPED if outcome is None else WRITTEN
            write_outcome(folder, found, job.case.identifier, kept)
            count = job.case.files.of_failed() if isinstance(outcome, Failed) else job.case.files
            summary.files.add(count, below=f"{job.case.name}/")
    finally:
        shutil.rmtree(
            partial, ignore_errors=True
        )  # and not the folder it lies in, in which others may just make theirs
    return _told(summary)


@holding(owned_part, "dataset", "num_parts", "part_id")
def _finish_parts(dataset: Path, num_parts: int, part_id: int, request: Request) -> ConversionSummary:
    """Only what concerns all cases, after all parts."""
    folder = list_folder(dataset, request.key_file)
    found = read_case_list(folder, request, hashed_source(request.source, dataset))
    cases = {identifier: case for case, identifier in found.gathered.identifiers.items()}
    outcomes = _outcomes_of_parts(dataset, folder, found)
    failed = {cases[name]: outcome for name, outcome in outcomes.items() if isinstance(outcome, Failed)}
    summary = ConversionSummary(
        dataset,
        written=[cases[name] for name, outcome in outcomes.items() if outcome == WRITTEN],
        skipped=[cases[name] for name, outcome in outcomes.items() if outcome == SKIPPED],
        failed={name: outcome.reason for name, outcome in failed.items()},
    )
    try:
        _finish(request, found, failed, summary)
    finally:
        _clean_up(dataset)
    return _told(summary)


def _outcomes_of_parts(dataset: Path, folder: Path, found: CaseList) -> dict[str, Failed | str]:
    """nnU-Net's name of each case -> what became of it, once all that the parts wrote is seen here.

    Raises:
        OSError: If the folders do not list files that are there.
        ValueError: If a case is not converted yet.
    """
    until_s = time.monotonic() + UNSEEN_S
    while True:
        last = time.monotonic() > until_s  # before they are read, which may take as long
        outcomes = read_outcomes(folder, found)
        outputs: dict[str, list[str]] = {}
        for name, outcome in outcomes.items():
            if not isinstance(outcome, Failed):
                record = f"provenance/{name}.json"
                files = (read_record(dataset / record) or {}).get("outputs", ["missing"])
                outputs[name] = [record, *files]
        missing = [
            name
            for name in found.names
            if name not in outcomes or not all((dataset / file).is_file() for file in outputs.get(name, ()))
        ]
        if last or not missing:
            break
        time.sleep(1.0)
    if missing:
        raise unfinished(missing, len(found.names), "converted")
    wait_until_listed(dataset, [file for files in outputs.values() for file in files])
    return outcomes


# --- what they share --------------------------------------------------------------------------------------------------


def _found_cases(request: Request, show_progress: bool) -> CaseList:
    """All cases of the source, checked against those that the dataset holds. Patients have their numbers from now on."""
    dataset, source, settings = request.dataset, request.source, request.settings
    if request.layout == "dicom":
        check_key(request.key_file, dataset, numbered=any((dataset / "provenance").glob("case_*.json")))
    gathered = gather(
        source,
        request.layout,
        settings,
        request.test_cases,
        request.series_file,
        request.key_file,
        request.unlabelled,
        show_progress,
    )
    persons = persons_of(source, gathered.identifiers, request.group_file)
    if request.drawn is not None:
        gathered = with_test_cases(gathered, persons, request.drawn)
    hashed = hashed_source(source, dataset)
    check_other_cases(dataset, set(gathered.identifiers.values()), settings, hashed)
    check_writable(dataset)
    remove_renamed(dataset, gathered.identifiers)
    keep_learned(dataset, request.learned_files)
    if request.layout == "dicom":
        write_key(gathered.key_rows, request.key_file)
    for line in gathered.leftover:
        log.info(line)
    for line in side_warnings(settings.table, dataset):
        log.warning(line)
    return CaseList(gathered, persons, hashed)


def _jobs(request: Request, cases: Sequence[SourceCase], source: str, partial: Path) -> list[Job]:
    return [Job(case, request.settings, request.dataset, partial, request.preview, source) for case in cases]


def _outcomes(
    jobs: Sequence[Job], n_processes: int, show_progress: bool, summary: ConversionSummary
) -> Iterator[tuple[Job, Failed | list[Message] | None]]:
    """Each job as it finishes, once the summary has it."""
    with contextlib.closing(run_jobs(jobs, n_processes, show_progress)) as outcomes:
        for job, outcome in outcomes:
            name = job.case.name
            if isinstance(outcome, Failed):
                summary.failed[name] = outcome.reason
            elif outcome is None:
                summary.skipped.append(name)
            else:
                summary.written.append(name)
                if outcome:
                    summary.warnings[name] = outcome
            yield job, outcome


def _finish(request: Request, found: CaseList, failed: Mapping[str, Failed], summary: ConversionSummary) -> None:
    """Take out what failed cases had left, and write what concerns all cases.

    Args:
        request: Of the conversion.
        found: Its cases.
        failed: Cases that failed when they were converted. Those of `found` failed before.
        summary: It gets both, and the count of all files.
    """
    dataset, settings, gathered = request.dataset, request.settings, found.gathered
    summary.failed = {**gathered.failed, **summary.failed}
    outdated = outdated_cases(dataset, gathered, found.source)
    outdated |= {name for name, outcome in failed.items() if outcome.outdated}
    for name, reason in summary.failed.items():
        identifier = gathered.identifiers.get(name)
        if identifier is None:
            continue
        earlier = read_record(dataset / "provenance" / f"{identifier}.json")
        take_out = name in outdated or earlier is None or not is_of_kind(earlier, settings)
        if earlier is not None:
            summary.failed[name] = f"{reason}; its earlier conversion {'was taken out' if take_out else 'is kept'}"
        if take_out:  # without a record at most half a case, of a run that was killed
            remove_case(dataset, identifier)
    write_dataset_json(dataset, request.name, settings, found.persons, gathered.identifiers)
    summary.files = total(gathered.counts, gathered.beside, summary.failed)
    write_page(dataset, summary.failed, settings, summary.files)


def _clean_up(dataset: Path, *, begun: bool = False) -> None:
    """Remove what is not complete. `begun` keeps what parts need that come later."""
    shutil.rmtree(dataset / PARTIAL, ignore_errors=True)
    if not begun and not (dataset / "dataset.json").exists():
        keep_learned(dataset, {})
    remove_empty_folders(dataset)


def _told(summary: ConversionSummary) -> ConversionSummary:
    """The summary in order, its warnings logged."""
    summary.written.sort()
    summary.skipped.sort()
    summary.failed = dict(sorted(summary.failed.items()))
    for case_name, lines in sorted(summary.warnings.items()):
        for message in lines:
            log.warning("case '%s': %s", case_name, message)
    return summary
