"""`nnunet_ext postprocessing`: what is done to the organs after the networks, chosen by cross-validation."""

import argparse
from pathlib import Path

from nnunet_ext.cli.arguments import Options, PairAction, add_processes
from nnunet_ext.cli.printing import report_failed

SUMMARY = "choose a model's postprocessing, organ by organ, on its cross-validation; predict applies it"
EXAMPLE = "nnunet_ext postprocessing $nnUNet_results/Dataset501_HeadOAR/T__P__3d_cascade_fullres"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="folder of the trained model, with validated folds")
    parser.add_argument(
        "references",
        metavar="REF",
        type=Path,
        nargs="?",
        default=None,
        help="folder of the references; without: those it was trained on",
    )
    parser.add_argument(
        "--held-out",
        nargs=2,
        metavar=("PRED", "REF"),
        type=Path,
        action=PairAction,
        help="label maps of other cases, predicted with --no-postprocessing, and their references: scored with and "
        "without, never chosen on",
    )
    add_processes(parser)


def run(options: Options) -> int:
    from nnunet_ext import choose_postprocessing

    choice = choose_postprocessing(options.pop("model"), options.pop("references"), **options)
    print(choice.table_markdown)
    return report_failed("postprocessing", choice.failed)
