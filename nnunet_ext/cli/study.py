"""`nnunet_ext study`: the reference study by one command."""

import argparse
import sys
from pathlib import Path

from nnunet_ext.cli.arguments import Options, add_processes, natural_number, positive_int
from nnunet_ext.cli.printing import complain

SUMMARY = "make the reference study's tables on your patients: convert, plan, train, predict, score, report"
EXAMPLE = "nnunet_ext study patients -o study --test case_41 case_42"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SRC",
        type=Path,
        nargs="?",
        default=None,
        help="patients, as `convert` takes them; without: phantoms (--fast)",
    )
    parser.add_argument("-o", dest="out", metavar="OUT", type=Path, help="folder of the study: study")
    parser.add_argument(
        "--test",
        dest="test_cases",
        nargs="+",
        metavar="CASE",
        help="cases to keep out of training; without: a quarter of the patients, drawn by seed 1",
    )
    parser.add_argument(
        "--systems",
        nargs="+",
        metavar="SYSTEM",
        help="of whole, localizer, 32x128x128, 32x96x96, 16x64x64, which are the study's, and of coarse-localizer, "
        "sliding-32x128x128, sliding-32x96x96, sliding-16x64x64 and ours; without: the study's",
    )
    parser.add_argument(
        "--fewer-images",
        nargs="*",
        metavar="M+M",
        help="images to compare with all of them at 32x96x96; without: CT T1+T2",
    )
    parser.add_argument("-f", dest="folds", nargs="+", metavar="FOLD", type=natural_number, help="without: 0 1 2 3 4")
    parser.add_argument("--each-fold", action="store_true", help="score the models of single folds too")
    parser.add_argument("--modalities", nargs="+", metavar="M", help="all images: CT T1 T2")
    parser.add_argument(
        "--no-register", dest="register", action="store_false", help="T1 and T2 lie on the CT: do not register them"
    )
    parser.add_argument(
        "--convert",
        dest="convert_options",
        metavar="OPTIONS",
        help='more options of `convert`, as one word: "--labels labels.toml --group persons.csv"',
    )
    parser.add_argument("-d", dest="dataset_id", metavar="ID", type=positive_int, help="first data set ID: 521")
    parser.add_argument("-n", dest="name", metavar="NAME", help="data set name: HeadMR")
    parser.add_argument(
        "--spacing", dest="spacing_mm", nargs=3, metavar=("Z", "Y", "X"), type=float, help="voxels in mm: 1.25 0.8 0.8"
    )
    parser.add_argument("--epochs", metavar="N", type=positive_int, help="of each training; without: the plan's")
    parser.add_argument(
        "--fast", action="store_true", help="small networks and minutes of training, to see that all works"
    )
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), help="without: the GPU, if there is one")
    parser.add_argument(
        "-j", dest="at_a_time", metavar="N", type=positive_int, help="steps at a time; without: one per GPU, or one"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the steps with their commands, and run none")
    add_processes(parser)


def run(options: Options) -> int:
    from nnunet_ext.end_to_end.workflow.study import study

    outcome = study(**options)
    for step, reason in outcome.failed.items():
        complain("study", f"step {step}: {reason}")
    if outcome.waiting:
        print(f"not begun for want of these: {', '.join(outcome.waiting)}", file=sys.stderr)
    if outcome.failed:
        print("Repeat the command when the cause is gone: what is done is not repeated.", file=sys.stderr)
    return 1 if outcome.failed else 0
