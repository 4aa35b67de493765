"""What scanners and exports write beyond an MR's field of view."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from nnunet_ext.images.channels import image_like
from nnunet_ext.messages import Message


def without_mr_padding(image: sitk.Image) -> tuple[sitk.Image, Message | None]:
    """MR whose padding is set to its lowest measured value, and what was done; the image itself and None if there is none.

    Padding is one negative value, further below all others than these differ: -2000 or -32768 under 0..900. Otsu's
    threshold would take it for the air, and the air for the body.
    """
    array = sitk.GetArrayViewFromImage(image)
    low = array.min()
    if low >= 0:
        return image, None
    others = array[array > low]
    share = 1 - others.size / array.size
    if not others.size or share < 1e-3:
        return image, None
    lowest, highest = float(others.min()), float(others.max())
    if lowest - float(low) <= highest - lowest:
        return image, None
    done = Message("padding_of_mr", {"share": share, "padding": low, "value": lowest})
    return image_like(np.maximum(array, others.min()), image), done
