"""`nnunet_ext report`: experiments side by side."""

import argparse
import sys
from pathlib import Path

from nnunet_ext.cli.arguments import Options, add_processes, add_viewer_limit, model_of_run, named_folder
from nnunet_ext.cli.printing import report_failed

SUMMARY = "compare experiments: tables with tests, box plots, overlays, 3D views, training curves"
EXAMPLE = "nnunet_ext report CT=eval_ct CT+MR=eval_ctmr -o report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=named_folder,
        help="NAME=FOLDER: a folder `evaluate` wrote, or of a trained model, or of predictions (with --references); the "
        "others are tested against the first",
    )
    parser.add_argument("-o", dest="out", metavar="OUT", type=Path, required=True, help="folder for the report")
    parser.add_argument("--references", metavar="REF", type=Path, help="reference label maps, for runs of predictions")
    parser.add_argument(
        "--images", metavar="IN", type=Path, help="images to draw on; without: those beside the references"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL",
        type=model_of_run,
        help="trained models whose training curves to draw too; NAME=MODEL: the model of the run NAME, for its row in the "
        "table of costs",
    )
    parser.add_argument("--box-organ", metavar="ORGAN", help="organ of the box plots; without: the hardest")
    parser.add_argument(
        "--cases", nargs="+", metavar="CASE", help="cases to draw; without: the worst, the median and the best"
    )
    parser.add_argument(
        "--reference-study",
        action="store_true",
        help="show the reference study's tables with the runs beside, and the chiasm's box plots",
    )
    add_viewer_limit(parser)
    add_processes(parser)


def run(options: Options) -> int:
    from nnunet_ext import report

    content = report(options.pop("runs"), options.pop("out"), **options)
    for remark in content.remarks:
        print(f"note: {remark}", file=sys.stderr)
    print(
        f"{content.out / 'report.html'}: {len(content.experiments)} experiments, {len(content.cases)} cases, "
        f"{len(content.tables)} tables, {len(content.pictures)} figures"
    )
    return report_failed("report", content.failed)
