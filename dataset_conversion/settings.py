"""The settings of a conversion: channels, label table, cleaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nnunet_ext.cases.preparing import ChannelOptions
from nnunet_ext.images.geometry import CANONICAL
from nnunet_ext.labels.table import LabelTable, default_label_table, load_label_table

FILE_ENDING = ".nii.gz"


@dataclass(frozen=True)
class Settings:
    """Channels, label table and preparation of a conversion.

    `one_range` is for planning alone. No file of a case depends on it.
    """

    modalities: tuple[str, ...]
    table: LabelTable
    channels: ChannelOptions
    one_range: bool = False

    def as_dict(self) -> dict:
        """Plain JSON, for the record of each case."""
        channels = asdict(self.channels)
        if channels["learned_resampling"] is None:  # so that cases of earlier versions need not be converted again
            del channels["learned_resampling"]
        return {
            "modalities": list(self.modalities),
            **channels,
            "orientation": CANONICAL,
            "label_table": self.table.as_dict(),
        }


def default_modalities(layout: str) -> tuple[str, ...]:
    """Channels of a layout if none are asked for."""
    from nnunet_ext.dataset_conversion import hanseg

    return hanseg.MODALITIES if layout == "hanseg" else ("CT", "T1", "T2")


def label_table_of(layout: str, labels_file: Path | None) -> LabelTable:
    """The user's label table, or that of a layout."""
    from nnunet_ext.dataset_conversion import hanseg

    if labels_file is not None:
        return load_label_table(labels_file)
    return hanseg.label_table() if layout == "hanseg" else default_label_table()


def checked_modalities(modalities: Sequence[str]) -> tuple[str, ...]:
    """Channels as nnU-Net wants them. ValueError if one is given twice."""
    names = (modalities,) if isinstance(modalities, str) else tuple(modalities)
    if not names or len({name.casefold() for name in names}) != len(names):
        raise ValueError(f"modalities {list(names)}: give each channel once, e.g. CT T1 T2")
    return tuple("CT" if name.casefold() == "ct" else name for name in names)  # nnU-Net looks for this word


def checked_window(window_hu: Sequence[float]) -> tuple[float, float]:
    """Lower and upper end of a window in HU. ValueError if it is empty."""
    low, high = (float(value) for value in window_hu)
    if not -np.inf < low < high < np.inf:
        raise ValueError(f"window {low:g}..{high:g} HU is empty; give the lower end first, e.g. --window-hu -160 240")
    return low, high
