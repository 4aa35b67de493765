"""A phantom whose CT goes down to the chest, and phantoms as DICOM patients in several positions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.dicom.rtstruct_writer import write_contours
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.series_writer import Study, write_series
from nnunet_ext.dicom.tracing import trace_mask
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.one_case import Phantom

#: Half axes of the shoulders, in the plane of a slice.
SHOULDERS_MM = (118.0, 181.0)
SOFT_TISSUE_HU, LUNG_HU = 40, -750


def with_torso(phantom: Phantom, below_mm: float = 250.0) -> Phantom:
    """The head on a torso of 236 x 362 mm that only the CT sees. T1 and T2 keep their grid.

    The CT becomes wider, and its new slices lie below. Labels are on its grid.
    """
    ct, array = phantom.ct, sitk.GetArrayFromImage(phantom.ct)
    mm = ct.GetSpacing()
    assert ct.GetDirection()[8] > 0  # the first slice is the lowest
    lowest = np.argwhere(array[:3].max(axis=0) > -300)
    middle = (lowest.min(axis=0) + lowest.max(axis=0)) / 2
    beside = [max(0, int(np.ceil(SHOULDERS_MM[1] / mm[0] - min(middle[1], array.shape[2] - middle[1]))) + 3)] * 2
    before = [max(0, int(np.ceil(SHOULDERS_MM[0] / mm[1] - min(middle[0], array.shape[1] - middle[0]))) + 3)] * 2
    below = round(below_mm / mm[2])
    lower, upper = [beside[0], before[0], below], [beside[1], before[1], 0]
    larger, labels = (
        sitk.ConstantPad(image, lower, upper, value) for image, value in ((ct, -1000), (phantom.label, 0))
    )
    array = sitk.GetArrayFromImage(larger)
    y, x = np.ogrid[: array.shape[1], : array.shape[2]]
    radius = ((y - middle[0] - before[0]) * mm[1] / SHOULDERS_MM[0]) ** 2
    radius = radius + ((x - middle[1] - beside[0]) * mm[0] / SHOULDERS_MM[1]) ** 2
    neck = array[below] > -300
    for k in range(below):
        down_mm = (below - k) * mm[2]
        shoulders = radius < min(1.0, down_mm / 60.0)  # sloping
        array[k, shoulders | neck] = SOFT_TISSUE_HU
        if down_mm > 120:
            array[k, (radius > 0.08) & (radius < 0.5)] = LUNG_HU
    array += np.where(array > -900, np.random.default_rng(0).normal(0, 8, array.shape), 0).astype(array.dtype)
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(larger)
    return replace(phantom, ct=image, label=labels)


def write_patient(
    phantom: Phantom, folder: Path, name: str, *, channels: tuple[str, ...] = ("CT", "T1", "T2"), prone: bool = False
) -> None:
    """Series and an RTSTRUCT drawn on the first channel.

    Args:
        phantom: T1 and T2 lie on the CT's grid, or share its frame of reference.
        folder: For the series' folders and `RTSTRUCT.dcm`.
        name: PatientID.
        channels: Which series there are.
        prone: Head first, on the face. Rows and columns run to the patient's right and front.
    """
    images = dict(zip(("CT", "T1", "T2"), (phantom.ct, phantom.t1, phantom.t2), strict=True))
    labels = phantom.label
    if prone:
        images = {channel: sitk.DICOMOrient(image, "RAS") for channel, image in images.items()}
        labels = sitk.DICOMOrient(labels, "RAS")
    times = {"T1": {"EchoTime": 12, "RepetitionTime": 550}, "T2": {"EchoTime": 95, "RepetitionTime": 4200}}
    for number, channel in enumerate(channels, start=1):
        modality = "CT" if channel == "CT" else "MR"
        study = Study(name, "Patient", study=modality)
        headers = {**times.get(channel, {}), "PatientPosition": "HFP" if prone else "HFS"}
        write_series(
            images[channel], folder / channel, modality=modality, study=study, number=number,
            description=f"{channel} head", headers=headers,
        )  # fmt: skip
    drawn_on = images[channels[0]]
    on_grid = sitk.Resample(labels, drawn_on, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    array = sitk.GetArrayViewFromImage(on_grid)
    organs = {organ: trace_mask(array == value, drawn_on) for value, organ in enumerate(ORGANS, start=1)}
    (series,) = find_series(folder / channels[0]).images
    write_contours(organs, series, folder / "RTSTRUCT.dcm", headers={})
