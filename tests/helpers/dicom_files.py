"""Small DICOM series of given values, written and edited, and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

from nnunet_ext.dicom.reading import read_series
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.series_writer import Study, write_series

SHAPE, SPACING_MM = (5, 7, 11), (3.0, 0.8, 0.7)


def image(flips=(1, 1, 1), *, oblique: bool = True, array: np.ndarray | None = None) -> sitk.Image:
    if array is None:
        array = np.random.default_rng(0).integers(-1000, 1500, SHAPE)
    result = sitk.GetImageFromArray(array.astype(np.int16))
    result.SetSpacing(SPACING_MM[::-1])
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*((0.11, -0.17, 0.23) if oblique else (0.0, 0.0, 0.0)))
    direction = np.reshape(transform.GetMatrix(), (3, 3)) * np.asarray(flips, dtype=float)
    result.SetDirection(direction.ravel().tolist())
    result.SetOrigin((-31.7, 12.3, 455.5))
    return result


def write(folder: Path, what: sitk.Image | None = None, **options) -> list[Path]:
    options = {"modality": "CT", "study": Study("p"), "number": 1, **options}
    return write_series(image() if what is None else what, folder, **options)


def edit(path: Path, change) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def move(files: list[Path], places_mm) -> None:
    """Put slice k at the given points."""
    for path, place in zip(files, places_mm, strict=True):
        edit(path, lambda d, p=place: setattr(d, "ImagePositionPatient", [float(v) for v in p]))


def only(folder: Path):
    (series,) = find_series(folder).images
    return series


def array(series, notes=None) -> np.ndarray:
    return sitk.GetArrayFromImage(read_series(series, notes))


def as_jpeg_lossless(dataset) -> None:
    """JPEG Lossless (process 14, first order) by the encoder of GDCM, as CT scanners archive."""
    stored = sitk.GetImageFromArray(dataset.pixel_array[None])
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    name = Path(dataset.filename).with_name("compressed.dcm")
    writer.SetFileName(str(name))
    writer.Execute(stored)
    written = pydicom.dcmread(name)
    name.unlink()
    assert written.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    dataset.PixelData = written.PixelData
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = written.file_meta.TransferSyntaxUID


def round_view(padding: float, low: int = -900) -> tuple[np.ndarray, np.ndarray]:
    """Values from `low` to 1500, a block of 0 among them, in a round view within a square of padding; and its corners."""
    rows, columns = np.indices((24, 30))
    beyond = np.hypot((rows - 11.5) / 12, (columns - 14.5) / 15) > 1
    values = np.random.default_rng(0).integers(low, 1500, (4, 24, 30))
    values[1:3, 8:16, 10:18] = 0
    values[:, beyond] = padding
    return values, np.broadcast_to(beyond, values.shape)


def write_stored(
    folder: Path, stored: np.ndarray, *, intercept=0, modality="CT", signed=True, padding=()
) -> list[Path]:
    """A series of these stored values; `padding` is the value representation, the value and perhaps the range's limit."""
    files = write(folder, image(array=np.zeros(stored.shape)), modality=modality)
    for path, pixels in zip(files, stored, strict=True):
        dataset = pydicom.dcmread(path)
        dataset.PixelRepresentation, dataset.RescaleIntercept = int(signed), intercept
        dataset.PixelData = pixels.astype("<i2" if signed else "<u2").tobytes()
        for keyword, value in zip(("PixelPaddingValue", "PixelPaddingRangeLimit"), padding[1:], strict=False):
            dataset.add_new(keyword, padding[0], value)
        dataset.save_as(path)
    return files


def repeat(files: list[Path], times: int, change) -> None:
    """The same slices again under new UIDs; `change(dataset, repetition)` says what differs."""
    for number, path in enumerate(files):
        for k in range(times):
            dataset = pydicom.dcmread(path)
            change(dataset, k)
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
            dataset.save_as(path.with_name(f"{k}_{number}"))
        path.unlink()
