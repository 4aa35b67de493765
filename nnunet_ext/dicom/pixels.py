"""Pixel values of DICOM images, decompressed, rescaled, and with padding told from values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.dicom.headers import Header, functional_groups
from nnunet_ext.dicom.model import Slice
from nnunet_ext.dicom.text import tolerant_dicom
from nnunet_ext.images.channels import AIR_HU
from nnunet_ext.messages import Message

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: Padding of a CT below this is air at any place. Padding of a larger value may also be tissue.
AIR_PADDING_HU = -900.0
#: Shares of the pixels. In the corners less than the first is chance, and a header that names more than the second is wrong.
PADDED_SHARE = (2e-3, 0.95)
_UNCOMPRESSED = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"}


def pixels_of(
    slices: Sequence[Slice], size: tuple[int, int], padded: list[np.ndarray] | None = None
) -> list[np.ndarray]:
    """Rescaled pixels `(rows, columns)` of each slice, 64-bit float.

    `padded` takes a bool array per slice, true for pixels whose value the header names as padding.
    """
    frames = {one.path: _stored(one.path) for one in slices if one.frame is not None}
    result = []
    for one in slices:
        stored, rescale, padding = frames[one.path] if one.frame is not None else _stored(one.path)
        number = one.frame or 0
        if stored.shape[1:] != size or number >= len(stored):
            raise ValueError(
                f"one of its images has {stored.shape[1:]} pixels where the header says {size}; export it again"
            )
        slope, intercept = rescale[number]
        if slope == 0:
            raise ValueError("one of its images has the rescale slope 0, which leaves no image; export it again")
        result.append(stored[number].astype(np.float64) * slope + intercept)
        if padded is not None:
            low, high = (-np.inf, -np.inf) if padding is None else padding
            padded.append((stored[number] >= low) & (stored[number] <= high))
    return result


def _stored(path: Path) -> tuple[np.ndarray, list[tuple[float, float]], tuple[float, float] | None]:
    """Stored pixels `(frames, rows, columns)` of one file, slope and intercept of each frame, and range of the padding."""
    import pydicom

    with tolerant_dicom():
        try:
            dataset = pydicom.dcmread(path, force=True)
            syntax = str(getattr(dataset.file_meta, "TransferSyntaxUID", "1.2.840.10008.1.2"))
            per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
            if syntax not in _UNCOMPRESSED and not per_frame:
                pixels = sitk.GetArrayFromImage(_decompress(path))
                padding = _padding(dataset, np.dtype(np.int16 if dataset.get("PixelRepresentation") else np.uint16))
                if padding is not None:  # the pixels are rescaled
                    header = Header(dataset)
                    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept") or 0.0
                    slope = 1.0 if slope is None else slope
                    low, high = sorted(value * slope + intercept for value in padding)
                    padding = low - 0.5 * abs(slope), high + 0.5 * abs(slope)
                return pixels.reshape(-1, *pixels.shape[-2:]), [(1.0, 0.0)], padding
            if "TransferSyntaxUID" not in dataset.file_meta:
                dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
            shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
            headers = [Header(functional_groups(groups, shared)) for groups in per_frame or ()] or [Header(dataset)]
            slopes = [header.number("RescaleSlope") for header in headers]
            intercepts = [header.number("RescaleIntercept") or 0.0 for header in headers]
            pixels = dataset.pixel_array
            pixels = pixels.reshape(-1, *pixels.shape[-2:])
            padding = _padding(dataset, pixels.dtype)
        except OSError as error:
            raise OSError(f"one of its files cannot be read: {error.strerror or 'I/O error'}") from None
        except Exception as error:
            raise ValueError(
                f"the pixels of one of its files cannot be read ({type(error).__name__}): cut off or compressed in a "
                "way that is not supported; export it again, uncompressed"
            ) from None
    rescale = [
        (1.0 if slope is None else slope, intercept) for slope, intercept in zip(slopes, intercepts, strict=True)
    ]
    return pixels, rescale, padding


def _padding(dataset: Dataset, dtype: np.dtype) -> tuple[float, float] | None:
    """Lowest and highest stored value that PixelPaddingValue and PixelPaddingRangeLimit name. None without.

    Headers write a negative value as an unsigned one, and the other way round. So 16 bits are read as the pixels' are.
    """
    ends = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        try:
            value = dataset.get(keyword)
            if isinstance(value, bytes):  # without a value representation
                value = int.from_bytes(value[:2], "little")
            value = int(value)
            ends.append(float(np.uint16(value % 2**16).astype(dtype) if dtype.itemsize == 2 else value))
        except (TypeError, ValueError):  # missing, empty or no number
            break
    return (min(ends), max(ends)) if ends else None


def fill_padding(volume: np.ndarray, padded: Sequence[np.ndarray], modality: str, notes: list[Message]) -> None:
    """Set pixels that the header names as padding to air in CT, to the lowest measured value in MR, in place.

    Some headers name a value that is tissue elsewhere in the image, such as 0 in HU. Padding surrounds the scanned
    region, so such a value counts only in pixels that are connected to a corner of their slice. Values darker than all
    measured ones, and air in CT, count everywhere.

    Args:
        volume: Rescaled, `(Z, rows, columns)`.
        padded: Bool `(rows, columns)` per slice.
        modality: `CT` or `MR`.
        notes: Takes a message if only the corners are filled.
    """
    mask = np.stack(padded)
    least, most = PADDED_SHARE
    if not mask.any() or mask.mean() > most:
        return
    measured_low, values = float(volume[~mask].min()), volume[mask]
    is_ct = modality == "CT"
    if not is_ct and values.min() >= 0 and values.max() <= measured_low:
        return  # background already
    if float(values.max()) >= max(measured_low, AIR_PADDING_HU if is_ct else -np.inf):
        for one in mask:
            regions, _ = ndimage.label(one)
            corners = np.setdiff1d(regions[[0, 0, -1, -1], [0, -1, 0, -1]], [0])
            one &= np.isin(regions, corners)
        if mask.mean() < least:
            return
        measured_low = float(volume[~mask].min())
        notes.append(Message("padding_of_header", {"share": mask.mean()}))
    volume[mask] = AIR_HU if is_ct else measured_low


def _decompress(path: Path) -> sitk.Image:
    """One image through GDCM, which applies the rescale slope and intercept itself."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return reader.Execute()
