"""Transforms kept in files, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import SimpleITK as sitk

from nnunet_ext.files import written_whole
from nnunet_ext.registration.options import RegistrationOptions

log = logging.getLogger(__name__)
#: Changed whenever the fits are: transforms of an earlier version are then computed again.
VERSION = 1


class TransformCache:
    """Transforms of one case, a file for each.

    A file's name ends with a hash of all that decides what it holds, which is both images and the options. A file of other
    inputs has another name, so it is never taken.

    Args:
        folder: Of the case.
        image_sha256: Hash of the case's image.
        options: Of the fits.

    Attributes:
        computed: Files that were not there.
    """

    def __init__(self, folder: Path, image_sha256: str, options: RegistrationOptions) -> None:
        self.folder = folder
        self.computed: list[Path] = []  # threads may add to it
        self._key = f"{VERSION} {image_sha256} {asdict(options)}"

    def file(self, atlas: str, atlas_sha256: str, level: str) -> Path:
        key = hashlib.sha256(f"{self._key} {atlas_sha256} {level}".encode()).hexdigest()
        return self.folder / f"{atlas}_{level}_{key[:16]}.tfm"

    def get(self, atlas: str, atlas_sha256: str, level: str, fit: Callable[[], sitk.Transform]) -> sitk.Transform:
        """A transform. It is computed and written if it is not there, or damaged.

        Args:
            atlas: Name of the atlas.
            atlas_sha256: Hash of its image.
            level: `linear` or `elastic`.
            fit: Computes it.
        """
        file = self.file(atlas, atlas_sha256, level)
        if file.is_file():
            try:
                return sitk.ReadTransform(str(file))
            except RuntimeError:
                log.warning("%s is damaged: computed again", file)
        transform = fit()
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file, ending=".tfm") as temporary:
            sitk.WriteTransform(transform, str(temporary))
        # As it is read the next time, so that the result is the same to the last digit.
        self.computed.append(file)
        return sitk.ReadTransform(str(file))
