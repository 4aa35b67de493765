"""The dry run of `convert`, which lists the file or series of every channel and organ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_ext.cases.preparing import ChannelOptions
from nnunet_ext.dataset_conversion.dataset import side_warnings
from nnunet_ext.dataset_conversion.one_case import split_of
from nnunet_ext.dataset_conversion.persons import persons_of
from nnunet_ext.dataset_conversion.random_split import checked_test_share, with_test_cases
from nnunet_ext.dataset_conversion.settings import Settings, checked_modalities, default_modalities, label_table_of
from nnunet_ext.dataset_conversion.sources import find_layout, gather
from nnunet_ext.files import in_one_line
from nnunet_ext.images.source_files import FileCount, total


@dataclass
class Listing:
    """Lines to print before a conversion, cases that cannot be converted and why, and the count of all files."""

    lines: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    files: FileCount = field(default_factory=FileCount)


def list_cases(
    source: Path,
    *,
    modalities: Sequence[str] | None = None,
    labels_file: Path | None = None,
    test_cases: Sequence[str] = (),
    test_share: float | None = None,
    seed: int = 0,
    group_file: Path | None = None,
    layout: str = "auto",
    series_file: Path | None = None,
    key_file: Path | None = None,
    unlabelled: bool = False,
    show_progress: bool = True,
) -> Listing:
    """The file or series that `convert` would take for every channel and organ. Nothing is written.

    It also lists files that are left over, and the cases that lack something.

    Headers are read, and of cases without labels the images that could be labels.

    Arguments and errors as for `convert`. Without `key_file`, the numbers of DICOM cases are those of a first conversion.
    """
    source = Path(source)
    layout = find_layout(source, modalities) if layout == "auto" else layout
    settings = Settings(
        checked_modalities(default_modalities(layout) if modalities is None else modalities),
        label_table_of(layout, labels_file),
        ChannelOptions(),
    )
    gathered = gather(source, layout, settings, test_cases, series_file, key_file, unlabelled, show_progress)
    if test_share is not None:
        persons = persons_of(source, gathered.identifiers, group_file)
        gathered = with_test_cases(gathered, persons, checked_test_share(test_share, seed))
    lines = []
    cases = []
    for case in gathered.cases:
        try:
            described = case.describe(settings.table)
        except (ValueError, OSError) as error:
            gathered.failed[case.name] = case.public(in_one_line(error))
            continue
        cases.append(case)
        labels = f" + labels{split_of(case)}" if case.has_labels else ""
        lines.append(f"{case.name} -> images{split_of(case)}{labels}")
        lines += [f"  {line}" for line in described]
    lines += [f"{name} -> nothing: {reason}" for name, reason in sorted(gathered.failed.items())]
    lines += [*gathered.leftover, *side_warnings(settings.table)]
    files = total(gathered.counts, gathered.beside, gathered.failed)
    lines.append(str(files))
    n = len(cases) + len(gathered.failed)
    lines.append(f"{n} cases ({layout}): {len(cases)} to convert, {len(gathered.failed)} not")
    return Listing(lines, gathered.failed, files)
