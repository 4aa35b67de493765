"""Label maps, which are images of whole numbers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.images.file_content import one_line
from nnunet_ext.images.file_names import refuse_no_file
from nnunet_ext.images.itk_headers import check_nrrd
from nnunet_ext.images.nifti import rotation_of
from nnunet_ext.images.reading import read_image

#: A label this near to a whole number is that number. Scaling and resampling in 32-bit float change it by less.
LABEL_TOLERANCE = 1e-3


def read_label_map(path: Path) -> sitk.Image:
    """A label map, as `read_image` reads it, with whole numbers of an integer type.

    Raises:
        FileNotFoundError, ValueError: As `read_image`, and if `label_map_of` finds values that are no labels.
    """
    image, odd = label_map_of(read_image(path))
    if odd:
        raise ValueError(
            f"{Path(path).name} holds {shown_values(odd)}, which is no whole number; a label map is needed, no "
            "probabilities and no image"
        )
    return image


def label_map_of(image: sitk.Image) -> tuple[sitk.Image, list[float]]:
    """An image with its values as labels, and those that are none, see `whole_labels`."""
    array = sitk.GetArrayViewFromImage(image)
    labels, odd = whole_labels(array)
    if labels is array:
        return image, odd
    result = sitk.GetImageFromArray(labels)
    result.CopyInformation(image)
    return result, odd


def whole_labels(array: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Label values as whole numbers, and those that are none.

    Args:
        array: Of any shape. An integer array is returned as it is.

    Returns:
        32-bit integers, 0 if the value is no label. Sorted values further than `LABEL_TOLERANCE` from a whole number,
        beyond 32 bit, or not finite.
    """
    if array.dtype.kind != "f":
        return array, []
    nearest = np.rint(array)
    fits = (np.abs(array - nearest) <= LABEL_TOLERANCE) & (np.abs(nearest) < 2**31)  # False for NaN
    return np.where(fits, nearest, 0).astype(np.int32), np.unique(array[~fits]).tolist() if not fits.all() else []


def shown_values(values: Iterable[float], most: int = 5) -> str:
    """Label values for a message, such as `1, 0.5 and 3 more`, with all digits that tell them from others."""
    texts = [str(np.float32(value) if isinstance(value, float) else value).removesuffix(".0") for value in values]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def read_layers(path: Path) -> list[sitk.Image]:
    """The 3D images that a NRRD file holds one beside the other along a first axis of kind `list`. Usually one.

    Raises:
        ValueError: As `read_image`.
    """
    refuse_no_file(path)
    check_nrrd(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ValueError(f"{path.name} cannot be read: {one_line(error)}") from error
    layers = image.GetNumberOfComponentsPerPixel()
    if layers == 1:
        return [read_image(path)]
    if image.GetDimension() != 3:
        raise ValueError(f"{path.name} is {image.GetDimension() + 1}D; its layers must be 3D")
    direction = np.reshape(image.GetDirection(), (3, 3))
    image.SetDirection(rotation_of(direction, f"{path.name}: its direction").ravel().tolist())
    return [sitk.VectorIndexSelectionCast(image, layer) for layer in range(layers)]
