"""What scanners and exports write beyond an MR's field of view."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from nnunet_ext.images.channels import image_like


def without_mr_padding(image: sitk.Image) -> tuple[sitk.Image, str]:
    """MR whose padding is set to its lowest measured value, and what was done; the image itself where there is none.

    Padding is one negative value, further below all others than these differ: -2000 or -32768 under 0..900. Otsu's
    threshold would take it for the air, and the air for the body.
    """
    array = sitk.GetArrayViewFromImage(image)
    low = array.min()
    if low >= 0:
        return image, ""
    others = array[array > low]
    share = 1 - others.size / array.size
    if not others.size or share < 1e-3:
        return image, ""
    lowest, highest = float(others.min()), float(others.max())
    if lowest - float(low) <= highest - lowest:
        return image, ""
    done = f"{share:.0%} of the voxels hold {low:g}, far below all others: padding, set to {lowest:g}"
    return image_like(np.maximum(array, others.min()), image), done
