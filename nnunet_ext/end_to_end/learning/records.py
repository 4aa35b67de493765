"""The records of runs, one JSON file each, and the numbers that tables and curves are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_ext.end_to_end.learning.study import CPU
from nnunet_ext.files import read_json

#: A system is at its end if the last doubling of its time gained less, in points of DSC.
END_GAIN = 1.0
_SHAPE = {
    "system": str,
    "data": str,
    "seed": int,
    "mark_min": float,
    "iterations": {str: int},
    "cpu_s?": {str: float},
    "clock_s?": {str: float},
    "device?": str,
    "boxes?": (str, None),
    "weights?": {str: int},
    "predict_cpu_s_per_case?": float,
    "cases": {str: {str: {"dsc_percent": (float, None), "hd95_mm": (float, None), "flag": str}}},
}


@dataclass(frozen=True)
class RunRecord:
    """The record of a run.

    Attributes:
        system, data, seed, mark_min: What was run.
        true_boxes: The reference organs placed the boxes.
        iterations: By stage.
        spent_s: CPU seconds by stage, on a GPU seconds of the clock.
        organs: In the order of the labels.
        dsc_percent, hd95_mm: Shape `(cases, organs)`, NaN for an organ that a case has not.
        missed: Organs of the reference that have no voxel in the prediction, over all cases.
        machine: Processor and cores.
        device: `cpu`, or the name of the GPU.
        data_sha256: Of the data.
        weights: By stage, what training changes. Empty in records of earlier versions.
        predict_s: CPU seconds of contouring, per case. None in records of earlier versions.
    """

    system: str
    data: str
    seed: int
    mark_min: float
    true_boxes: bool
    iterations: dict[str, int]
    spent_s: dict[str, float]
    organs: tuple[str, ...]
    dsc_percent: np.ndarray
    hd95_mm: np.ndarray
    missed: int
    machine: str
    device: str
    data_sha256: str
    weights: dict[str, int]
    predict_s: float | None

    @property
    def n_cases(self) -> int:
        return len(self.dsc_percent)

    @property
    def organ_dsc(self) -> np.ndarray:
        """Mean DSC of each organ over the cases that have it, in percent."""
        return np.nanmean(self.dsc_percent, axis=0)

    @property
    def dsc(self) -> float:
        """Mean over organs of a case first, then over cases, in percent."""
        return float(np.nanmean(np.nanmean(self.dsc_percent, axis=1)))

    @property
    def dsc_sd(self) -> float:
        """Sample SD of the cases' means over organs, in percent. NaN for one case."""
        means = np.nanmean(self.dsc_percent, axis=1)
        return float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")

    @property
    def hd95(self) -> float:
        """Mean over organs of a case first, then over cases, in mm."""
        return float(np.nanmean(np.nanmean(self.hd95_mm, axis=1)))


def read_records(runs: Path, data: str | None = None) -> list[RunRecord]:
    """All records in a folder, or those of one data set.

    Raises:
        ValueError: If records of one name of data have different hashes, because their data differ. Or if they were made on
            several devices, because their minutes mean different things.
    """
    records = [_read(file) for file in sorted(runs.glob("*_seed*.json"))]
    records = [record for record in records if data is None or record.data == data]
    for name in {record.data for record in records}:
        hashes = {record.data_sha256 for record in records if record.data == name}
        devices = sorted({record.device for record in records if record.data == name})
        if len(devices) > 1:
            raise ValueError(
                f"{runs}: runs on {name!r} were made on {' and '.join(devices)}; give the data of each device a name"
            )
        if len(hashes) > 1:
            raise ValueError(
                f"{runs}: runs on {name!r} were made with {len(hashes)} different data; give them names of their own"
            )
    return records


def _read(file: Path) -> RunRecord:
    content = read_json(file, _SHAPE)
    cases, device = content["cases"], content.get("device", CPU)
    organs = tuple(next(iter(cases.values())))

    def values(metric: str) -> np.ndarray:
        return np.array([[case[organ][metric] for organ in organs] for case in cases.values()], dtype=float)

    return RunRecord(
        content["system"],
        content["data"],
        content["seed"],
        float(content["mark_min"]),
        content.get("boxes") == "true",
        content["iterations"],
        content["cpu_s"] if device == CPU else content["clock_s"],
        organs,
        values("dsc_percent"),
        values("hd95_mm"),
        sum(row["flag"] == "missed" for case in cases.values() for row in case.values()),
        content["machine"],
        device,
        content["data_sha256"],
        content.get("weights", {}),
        content.get("predict_cpu_s_per_case"),
    )


def last_gain(records: Sequence[RunRecord]) -> float | None:
    """Points of mean DSC that the last doubling of time gained, None with one mark only.

    Between two marks the DSC is taken to grow evenly with the logarithm of time.

    Args:
        records: Of one system, one seed, one kind of box.
    """
    ordered = sorted(records, key=lambda record: record.mark_min)
    if len(ordered) < 2:
        return None
    before, last = ordered[-2:]
    return (last.dsc - before.dsc) / float(np.log2(last.mark_min / before.mark_min))
