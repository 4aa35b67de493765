"""An RTSTRUCT beside the label map of a DICOM case, as every verb that contours many cases writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from nnunet_ext.cases.case import Case
from nnunet_ext.cases.dicom_case import DicomCase
from nnunet_ext.messages import Message


@dataclass(frozen=True)
class RtstructOptions:
    """Whether each case gets an RTSTRUCT, and how it is drawn.

    Attributes:
        wanted: Write one. For DICOM only.
        smooth_contours: See `write_rtstruct`.

    Raises:
        ValueError: If contours that are not wanted are to be smooth.
    """

    wanted: bool = False
    smooth_contours: bool = False

    def __post_init__(self) -> None:
        if self.smooth_contours and not self.wanted:
            raise ValueError(
                "--smooth-contours is about the contours of an RTSTRUCT: give --rtstruct too, or leave it out"
            )

    def check_source(self, kind: str, images: Path) -> None:
        """Raise ValueError if one is wanted of images that are no DICOM."""
        if self.wanted and kind != "dicom":
            raise ValueError(
                f"an RTSTRUCT refers to DICOM images, and {images} holds none: give the DICOM series, or leave out "
                "--rtstruct and turn label maps into RTSTRUCT with nnunet_ext rtstruct"
            )

    def outputs(self, mask: Path, case: str) -> list[Path]:
        """Files of a case, the label map last. It is written last, so it means a finished case."""
        return [rtstruct_file(mask, case), mask] if self.wanted else [mask]

    def write(
        self, mask: sitk.Image, case: Case, file: Path, *, labels: Mapping[str, int], drawn_by: str
    ) -> list[Message]:
        """Write the RTSTRUCT of a case, if one is wanted.

        Args:
            mask: Label map on the case's own grid.
            case: Whose first series it refers to.
            file: To write.
            labels: Organ -> label value, without organs that were not looked for.
            drawn_by: Name of the model or method, see `write_rtstruct`.

        Returns:
            Messages on contours that were left out.
        """
        notes: list[Message] = []
        if self.wanted:
            from nnunet_ext.dicom.rtstruct_writer import write_rtstruct

            assert isinstance(case, DicomCase)  # see `check_source`
            write_rtstruct(
                mask,
                case.reference_series,
                file,
                labels=labels,
                model=drawn_by,
                smooth_contours=self.smooth_contours,
                notes=notes,
            )
        return notes


def rtstruct_file(mask: Path, case: str) -> Path:
    """The RTSTRUCT beside the label map of a case."""
    return mask.with_name(f"{case}.dcm")
