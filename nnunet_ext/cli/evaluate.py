"""`nnunet_ext evaluate`: scores against references."""

import argparse
from pathlib import Path

from nnunet_ext.cli.arguments import Options, ToleranceAction, add_processes
from nnunet_ext.cli.printing import report_failed

SUMMARY = "compare label maps, or a model's cross-validation, with references: DSC, HD95, surface dice"
EXAMPLE = "nnunet_ext evaluate contours labelsTs -o evaluation"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "predictions", metavar="PRED", type=Path, help="folder of predicted label maps, or of a trained model"
    )
    parser.add_argument(
        "references",
        metavar="REF",
        type=Path,
        nargs="?",
        default=None,
        help="folder of reference label maps; for a trained model, without: those it was trained on",
    )
    parser.add_argument("-o", dest="out", metavar="OUT", type=Path, required=True, help="folder for the tables")
    parser.add_argument(
        "--localizer", metavar="FOLDER", type=Path, help="the localizer's label maps of the same cases, to compare with"
    )
    parser.add_argument(
        "--folds",
        nargs="+",
        metavar="FOLDER",
        type=Path,
        help="label maps of the same cases by the model of each single fold, a folder each: the mean over folds stands "
        "beside the ensemble",
    )
    parser.add_argument(
        "--without-postprocessing",
        metavar="FOLDER",
        type=Path,
        help="label maps of the same cases by `predict --no-postprocessing`, to stand beside; for a trained model, without: "
        "its own postprocessing stands beside its cross-validation",
    )
    parser.add_argument(
        "--tolerance-mm",
        nargs="+",
        metavar="X",
        action=ToleranceAction,
        help="distance that counts as agreement of surfaces: 1.5, or by organ, Lens_L=1 Eye_L=2; without: "
        "expert variability where it is published, else 1",
    )
    add_processes(parser)


def run(options: Options) -> int:
    from nnunet_ext import evaluate

    report = evaluate(options.pop("predictions"), options.pop("references"), options.pop("out"), **options)
    print(report.table_markdown)
    return report_failed("evaluate", report.failed)
