"""A conversion as it was asked for, with checked arguments."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnunet_ext.dataset_conversion.random_split import DrawnShare
from nnunet_ext.dataset_conversion.settings import Settings


@dataclass(frozen=True)
class Request:
    """Arguments of `convert`, of which see there.

    Attributes:
        dataset: Folder of the raw dataset.
        source: Folder of the cases.
        name: Of the dataset.
        layout: Kind of the source, found out if nobody said it.
        settings: What decides the files of a case.
        key_file: With the place that it has if nobody said one.
        test_cases: Names of the cases that go to the test set.
        drawn: Share of the cases to draw for it instead.
        series_file, group_file, unlabelled, preview: As given.
        learned_files: Name -> content of the files of a learned resampling, which go into the dataset.
    """

    dataset: Path
    source: Path
    name: str
    layout: str
    settings: Settings
    key_file: Path
    test_cases: tuple[str, ...] = ()
    drawn: DrawnShare | None = None
    series_file: Path | None = None
    group_file: Path | None = None
    unlabelled: bool = False
    preview: bool = True
    learned_files: Mapping[str, bytes] = field(default_factory=dict)

    def options(self, source: str) -> dict[str, Any]:
        """Option of the command -> value, as plain JSON, of all that decides which cases there are and what they become.

        Args:
            source: `hashed_source`.
        """
        channels = self.settings.channels
        return {
            "SRC": source,
            "--modalities": list(self.settings.modalities),
            "--labels": {**self.settings.table.as_dict(), **self.settings.table.side_entries},
            "--test": list(self.test_cases) if self.drawn is None else asdict(self.drawn),
            "--layout": self.layout,
            "--series": _content_of(self.series_file),
            "--group": _content_of(self.group_file),
            "--unlabelled": self.unlabelled,
            "--allow-non-hu": channels.allow_non_hu,
            "--window-hu": None if channels.window_hu is None else list(channels.window_hu),
            "--one-range": self.settings.one_range,
            "--no-clean": not channels.clean_ct,
            "--no-n4": not channels.n4,
            "--register": channels.register,
            "--register-backend": channels.register_backend,
            "--learned-resampling": channels.learned_resampling,
            "--no-preview": not self.preview,
        }


def _content_of(file: Path | None) -> str | None:
    """Hash of a file, None if there is none."""
    return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
