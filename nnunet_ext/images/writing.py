"""Writing one image, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from nnunet_ext.files import written_whole
from nnunet_ext.images.file_names import ENDINGS


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image under a temporary name in the same folder, then rename it. A stopped run leaves no half file."""
    path = Path(path)
    ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), path.suffix)
    ending = path.name[len(path.name) - len(ending) :]
    try:
        with written_whole(path, ending=ending) as temporary:
            sitk.WriteImage(image, str(temporary), True)
    except RuntimeError as error:  # ITK's word for it
        raise OSError(
            f"{path} cannot be written: make room on the disk, or choose a folder you may write to"
        ) from error
