"""`nnunet_ext register`: MR images onto the CT."""

import argparse
import sys
from pathlib import Path

from nnunet_ext.cli.arguments import Options, natural_number

SUMMARY = "bring MR images onto the CT: rigid, then elastic, with a quality report"
EXAMPLE = "nnunet_ext register CT.nii.gz T1.nii.gz T2.nii.gz -o registered"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("fixed", metavar="FIXED", type=Path, help="the CT")
    parser.add_argument("moving", metavar="MOVING", type=Path, nargs="+", help="images to bring onto it")
    parser.add_argument("-o", dest="out", metavar="OUT", type=Path, required=True, help="folder for the results")
    parser.add_argument("--rigid-only", action="store_true", help="leave the elastic step out")
    parser.add_argument("--backend", choices=("simpleitk", "elastix"), help="elastix needs the package itk-elastix")
    parser.add_argument("--separate", action="store_true", help="MOVING were not acquired in one position")
    parser.add_argument("--fixed-mr", dest="fixed_is_ct", action="store_false", help="FIXED is an MR")
    parser.add_argument(
        "--seed", metavar="S", type=natural_number, help="of the sampling; the same seed, the same result"
    )


def run(options: Options) -> int:
    from nnunet_ext import register_files

    out = options["out"]
    result = register_files(**options)
    for line in result.warnings:
        print(f"warning: {line}", file=sys.stderr)
    for name, found in result.channels.items():
        print(f"{out}: {name}: kept {found.kept}; {found.reason}")
    return 0
