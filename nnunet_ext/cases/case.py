"""What every kind of source hands over per case."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import SimpleITK as sitk

from nnunet_ext.images.source_files import FileCount
from nnunet_ext.labels.table import LabelTable


class Case(Protocol):
    """What a kind of source (folders, DICOM) hands over per case; also runs in worker processes, so it pickles.

    `name` is what messages call the case, `identifier` what nnU-Net calls it, `ignored` what was found beside its
    images and not used, `files` the count of its files. No attribute or result that is written or printed may name a
    patient.
    """

    @property
    def name(self) -> str: ...

    @property
    def identifier(self) -> str: ...

    @property
    def test(self) -> bool: ...

    @property
    def ignored(self) -> list[str]: ...

    @property
    def files(self) -> FileCount: ...

    @property
    def has_labels(self) -> bool: ...

    def inputs(self) -> dict[str, Path]:
        """Every file that is read, under the name that the provenance gives it."""

    def roles(self) -> dict:
        """Plain JSON: which input is which channel or organ; with the inputs' content it decides the result."""

    def read_images(self, warnings: list[str]) -> dict[str, tuple[sitk.Image, str]]:
        """Channel -> image, and where it is from in a word or two, in channel order."""

    def same_frame(self) -> list[list[str]] | None:
        """Channels in groups that share a frame of reference; None where the files do not say."""

    def read_labels(
        self, images: Mapping[str, sitk.Image], table: LabelTable, warnings: list[str]
    ) -> tuple[sitk.Image, dict[str, int]]:
        """Label map as drawn, and voxels per organ before overlaps were settled."""

    def describe(self, table: LabelTable) -> list[str]:
        """Lines for the dry run: what is taken for what, what is left over."""

    def public(self, text: str) -> str:
        """A message without what only the owner of the data may see."""
