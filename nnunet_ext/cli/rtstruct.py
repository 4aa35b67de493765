"""`nnunet_ext rtstruct`: a label map as RTSTRUCT."""

import argparse
import sys
from pathlib import Path

from nnunet_ext.cli.arguments import Options
from nnunet_ext.messages import Message

SUMMARY = "write a label map as RTSTRUCT that a planning system opens beside the CT"
EXAMPLE = "nnunet_ext rtstruct contours/case_01.nii.gz ct_series -o case_01_contours.dcm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mask", metavar="MASK", type=Path, help="label map on the voxels of the CT")
    parser.add_argument("ct_series", metavar="CT_SERIES", type=Path, help="folder with the CT's DICOM files")
    parser.add_argument("-o", dest="out", metavar="FILE", type=Path, required=True, help="file to write")
    parser.add_argument(
        "--smooth-contours",
        action="store_true",
        help="round the steps of the voxels off, within half a voxel and at the same area",
    )
    names = parser.add_mutually_exclusive_group()
    names.add_argument("--labels", dest="labels_file", metavar="FILE", type=Path, help="TOML label table")
    names.add_argument(
        "--dataset-json", metavar="FILE", type=Path, help="names of the labels; without: the one beside MASK"
    )


def run(options: Options) -> int:
    from nnunet_ext import rtstruct

    notes: list[Message] = []
    empty = rtstruct(**options, notes=notes)
    notes += [Message("organ_without_contour", {"organ": organ, "file": str(options["mask"])}) for organ in empty]
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    print(options["out"])
    return 0
