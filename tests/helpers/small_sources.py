"""Small DICOM trees as sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.dicom.series_writer import Study, write_series

CHANNELS = ("CT", "T1", "T2")


def write_dicom(folder: Path, patient: str = "1", channels: tuple[str, ...] = CHANNELS) -> Path:
    """Series of a patient, three images of 5 x 4 pixels each."""
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 5, 4))
    times = {"T1": {"EchoTime": 12, "RepetitionTime": 550}, "T2": {"EchoTime": 95, "RepetitionTime": 4200}}
    for number, channel in enumerate(channels, start=1):
        kind = "CT" if channel == "CT" else "MR"
        write_series(image, folder / channel, modality=kind, study=Study(patient, f"Name^{patient}"), number=number,
                     description=channel, headers=times.get(channel, {}))  # fmt: skip
    return folder
