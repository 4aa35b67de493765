"""Sources to nnU-Net's raw format.

Each case is written as a whole or not at all, and again only when its files or the options change.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ext.cases.key_file import check_key, write_key
from nnunet_ext.cases.preparing import ChannelOptions
from nnunet_ext.dataset_conversion.dataset import (
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
    write_dataset_json,
    write_page,
)
from nnunet_ext.dataset_conversion.listing import list_cases
from nnunet_ext.dataset_conversion.one_case import Failed, Job, hashed_source, run_jobs
from nnunet_ext.dataset_conversion.persons import persons_of, read_group_file
from nnunet_ext.dataset_conversion.random_split import DrawnShare, checked_test_share, with_test_cases
from nnunet_ext.dataset_conversion.settings import (
    Settings,
    checked_modalities,
    checked_window,
    default_modalities,
    label_table_of,
)
from nnunet_ext.dataset_conversion.sources import find_layout, gather
from nnunet_ext.folder_lock import holding, owned_folder
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
        FileNotFoundError: If `source` or the label table does not exist.
        OSError: If the output folder cannot be written, or another run works in it (`folder_lock.FolderInUse`).
    """
    source = Path(source)
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
            key_file = dataset.with_name(f"{dataset.name}.key.csv")
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
    if key_file is None:
        key_file = dataset.with_name(f"{dataset.name}.key.csv")
    return _convert_into(
        dataset,
        source,
        name,
        layout,
        settings,
        learned_files,
        test_cases,
        drawn,
        series_file,
        key_file,
        unlabelled,
        group_file,
        n_processes,
        show_progress,
        preview,
    )


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


@holding(owned_folder, "dataset")
def _convert_into(
    dataset: Path,
    source: Path,
    name: str,
    layout: str,
    settings: Settings,
    learned_files: Mapping[str, bytes],
    test_cases: Sequence[str],
    drawn: DrawnShare | None,
    series_file: Path | None,
    key_file: Path,
    unlabelled: bool,
    group_file: Path | None,
    n_processes: int,
    show_progress: bool,
    preview: bool,
) -> ConversionSummary:
    """`convert` with checked arguments. Nobody else writes to the dataset meanwhile."""
    if layout == "dicom":
        numbered = any((dataset / "provenance").glob("case_*.json"))
        check_key(Path(key_file), dataset, numbered=numbered)
    gathered = gather(source, layout, settings, test_cases, series_file, Path(key_file), unlabelled, show_progress)

    persons = persons_of(source, gathered.identifiers, group_file)
    if drawn is not None:
        gathered = with_test_cases(gathered, persons, drawn)
    summary = ConversionSummary(dataset, failed=dict(gathered.failed))
    hashed = hashed_source(source, dataset)
    check_other_cases(dataset, set(gathered.identifiers.values()), settings, hashed)
    check_writable(dataset)
    remove_renamed(dataset, gathered.identifiers)
    keep_learned(dataset, learned_files)
    if layout == "dicom":
        write_key(gathered.key_rows, Path(key_file))
    jobs = [Job(case, settings, dataset, preview, hashed) for case in gathered.cases]
    for line in gathered.leftover:
        log.info(line)
    for line in side_warnings(settings.table, dataset):
        log.warning(line)

    outdated = outdated_cases(dataset, gathered, hashed)
    try:
        with contextlib.closing(run_jobs(jobs, n_processes, show_progress)) as outcomes:
            for job, outcome in outcomes:
                case_name = job.case.name
                if isinstance(outcome, Failed):
                    summary.failed[case_name] = outcome.reason
                    outdated |= {case_name} if outcome.outdated else set()
                elif outcome is None:
                    summary.skipped.append(case_name)
                else:
                    summary.written.append(case_name)
                    if outcome:
                        summary.warnings[case_name] = outcome
        for failed, reason in summary.failed.items():
            identifier = gathered.identifiers.get(failed)
            if identifier is None:
                continue
            earlier = read_record(dataset / "provenance" / f"{identifier}.json")
            take_out = failed in outdated or earlier is None or not is_of_kind(earlier, settings)
            if earlier is not None:
                done = "was taken out" if take_out else "is kept"
                summary.failed[failed] = f"{reason}; its earlier conversion {done}"
            if take_out:  # without a record at most half a case, of a run that was killed
                remove_case(dataset, identifier)
        write_dataset_json(dataset, name, settings, persons, gathered.identifiers)
        summary.files = total(gathered.counts, gathered.beside, summary.failed)
        write_page(dataset, summary.failed, settings, summary.files)
    finally:
        shutil.rmtree(dataset / ".partial", ignore_errors=True)
        if not (dataset / "dataset.json").exists():
            keep_learned(dataset, {})
        remove_empty_folders(dataset)
    summary.written.sort()
    summary.skipped.sort()
    summary.failed = dict(sorted(summary.failed.items()))
    for case_name, lines in sorted(summary.warnings.items()):
        for message in lines:
            log.warning("case '%s': %s", case_name, message)
    return summary
