"""A case of any source, as conversion and prediction need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import SimpleITK as sitk

from nnunet_ext.images.source_files import FileCount
from nnunet_ext.labels.table import LabelTable
from nnunet_ext.messages import Message


@dataclass
class ReadImages:
    """Images of a case as read.

    Attributes:
        images: Channel -> image, in channel order.
        sources: Channel -> its source, in a word or two.
        warnings: Messages about them.
        same_frame: Channels in groups that share a frame of reference. None if the files do not say.
        may_be_apart: Whether the source has a word for frames of reference, and does not say that there is one only.
    """

    images: dict[str, sitk.Image]
    sources: dict[str, str]
    warnings: list[Message] = field(default_factory=list)
    same_frame: list[list[str]] | None = None
    may_be_apart: bool = False

    def hand_over(self) -> dict[str, sitk.Image]:
        """The images, which are no longer held here. Whoever takes them can free each one after its use."""
        images, self.images = self.images, {}
        return images


@dataclass
class DrawnLabels:
    """Labels of a case as drawn.

    Attributes:
        label_map: Values of the label table, on the grid they were drawn on.
        voxels: Organ -> voxels as drawn, before overlaps were settled.
        warnings: Messages about them.
    """

    label_map: sitk.Image
    voxels: dict[str, int]
    warnings: list[Message] = field(default_factory=list)


class Case(Protocol):
    """One case before anything is read. It is sent to worker processes, so it pickles.

    No attribute or result that is written or printed may name a patient.

    Attributes:
        name: Its name in messages.
        ignored: Files or series beside its images that are not used.
        notes: Messages known before anything is read.
        as_trained: Whether its images have the form of the training images already.
    """

    @property
    def name(self) -> str: ...

    @property
    def ignored(self) -> Sequence[str]: ...

    @property
    def notes(self) -> Sequence[Message]: ...

    @property
    def as_trained(self) -> bool: ...

    def read_images(self) -> ReadImages:
        """The images, with messages about them.

        Raises:
            ValueError: If one cannot be read.
        """

    def public(self, text: str) -> str:
        """A message without words that only the owner of the data may see."""


class SourceCase(Case, Protocol):
    """A case that can be converted.

    Attributes:
        identifier: Its name in nnU-Net's folders.
        test: Whether it goes to the test set.
        files: The count of its files.
    """

    @property
    def identifier(self) -> str: ...

    @property
    def test(self) -> bool: ...

    @property
    def files(self) -> FileCount: ...

    @property
    def has_labels(self) -> bool: ...

    def inputs(self) -> dict[str, Path]:
        """Every file that is read, under the name that the provenance gives it."""

    def roles(self) -> dict:
        """The channel or organ of each input, as plain JSON. With the inputs' content it decides the result."""

    def read_labels(self, images: Mapping[str, sitk.Image], table: LabelTable) -> DrawnLabels:
        """The labels as drawn."""

    def describe(self, table: LabelTable) -> list[str]:
        """Lines for the dry run, with the file or series of each channel and organ, and those left over."""
