"""`nnunet_ext phantom`: synthetic heads with exact labels."""

import argparse
from pathlib import Path

from nnunet_ext.cli.arguments import Options, add_processes, natural_number, positive_int

SUMMARY = "make synthetic CT/T1/T2 head triplets with exact labels"
EXAMPLE = "nnunet_ext phantom phantoms --cases 20 --seed 1 --size small"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write OUT/CASE/{CT,T1,T2,label}.nii.gz to")
    parser.add_argument(
        "--cases", dest="n_cases", metavar="N", type=positive_int, required=True, help="how many to make"
    )
    parser.add_argument("--seed", metavar="S", type=natural_number, help="the same seed makes the same cases")
    parser.add_argument(
        "--size", choices=("tiny", "small", "thin", "full"), help="full has the voxel sizes of a planning CT"
    )
    parser.add_argument("--unregistered", action="store_true", help="move T1 and T2 against the CT")
    parser.add_argument("--dicom", action="store_true", help="write DICOM series and an RTSTRUCT instead of NIfTI")
    add_processes(parser)


def run(options: Options) -> int:
    from nnunet_ext import make_phantoms

    out = options.pop("out")
    print(f"{out}: {len(make_phantoms(out, **options))} cases")
    return 0
