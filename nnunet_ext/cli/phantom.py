"""`nnunet_ext phantom`: synthetic heads, or a torso, with exact labels."""

import argparse
from pathlib import Path

from nnunet_ext.cli.arguments import Options, add_processes, natural_number, positive_int
from nnunet_ext.cli.printing import complain

SUMMARY = "make CT/T1/T2 head triplets with exact labels, drawn or from label maps of real heads"
EXAMPLE = "nnunet_ext phantom phantoms --cases 20 --seed 1 --size small"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write OUT/CASE/{CT,T1,T2,label}.nii.gz to")
    parser.add_argument(
        "--cases", dest="n_cases", metavar="N", type=positive_int, required=True, help="how many to make"
    )
    parser.add_argument("--seed", metavar="S", type=natural_number, help="the same seed makes the same cases")
    parser.add_argument(
        "--first-case",
        metavar="I",
        type=natural_number,
        help="number of the first, to add cases of another voxel size: 0",
    )
    parser.add_argument("--dicom", action="store_true", help="write DICOM series and an RTSTRUCT instead of NIfTI")
    parser.add_argument(
        "--site",
        choices=("head", "torso"),
        help="torso: CT and T2 of a trunk with two glands and a duct, to try other sites",
    )
    add_processes(parser)
    drawn = parser.add_argument_group("drawn heads and torsos")
    drawn.add_argument(
        "--size", choices=("tiny", "small", "thin", "full"), help="full has the voxel sizes of a planning CT"
    )
    drawn.add_argument("--unregistered", action="store_true", help="move T1 and T2 against the CT")
    real = parser.add_argument_group("heads of real shape")
    real.add_argument(
        "--from-maps",
        dest="maps",
        metavar="FOLDER",
        type=Path,
        help="folder with a label map of a whole head per person",
    )
    real.add_argument(
        "--labels-file", metavar="FILE", type=Path, help="TOML: tissue = [numbers]; without: those of SynthSeg's maps"
    )
    real.add_argument(
        "--spacing", dest="spacing_mm", nargs=3, metavar=("X", "Y", "Z"), type=float, help="voxel size in mm: 1 1 2.5"
    )
    real.add_argument(
        "--contrast", choices=("realistic", "random"), help="random: T1 and T2 of any brightness; CT stays in HU"
    )
    real.add_argument("--immobilised", action="store_true", help="show couch, head rest and fixation mask in the CT")
    real.add_argument(
        "--undeformed",
        dest="deformed",
        action="store_false",
        help="neither turn nor bend the heads, and leave no eye out",
    )
    real.add_argument(
        "--misalignment",
        dest="misalignment_mm",
        metavar="MM",
        type=float,
        help="how far T1 and T2 may be off the CT: 3",
    )


#: Options that only one kind of phantom has.
_DRAWN = {"site": "--site", "size": "--size", "unregistered": "--unregistered"}
_REAL = {
    "labels_file": "--labels-file",
    "spacing_mm": "--spacing",
    "contrast": "--contrast",
    "immobilised": "--immobilised",
    "deformed": "--undeformed",
    "misalignment_mm": "--misalignment",
}


def run(options: Options) -> int:
    from nnunet_ext import make_phantoms, make_phantoms_from_maps

    out = options.pop("out")
    odd = [flag for name, flag in (_DRAWN if "maps" in options else _REAL).items() if name in options]
    if odd:
        raise ValueError(f"{' and '.join(odd)} cannot be used {'with' if 'maps' in options else 'without'} --from-maps")
    if "maps" not in options:
        print(f"{out}: {len(make_phantoms(out, **options))} cases")
        return 0
    made = make_phantoms_from_maps(out, options.pop("maps"), **options)
    print(f"{out}: {len(made.folders)} cases")
    for file, reason in made.failed.items():
        complain("phantom", f"{file}: {reason}")
    return 1 if made.failed else 0
