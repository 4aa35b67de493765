"""`nnunet_ext view`: a page to look at predictions."""

import argparse
from pathlib import Path

from nnunet_ext.cli.arguments import Options, add_viewer_limit

SUMMARY = "look at predictions without references in the browser: one HTML file"
EXAMPLE = "nnunet_ext view predictions -i imagesTs -o predictions.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("predictions", metavar="PRED", type=Path, help="folder that a prediction was written to")
    parser.add_argument(
        "-i",
        dest="images",
        metavar="IN",
        type=Path,
        required=True,
        help="images it was made from, as nnU-Net names them or one folder per case",
    )
    parser.add_argument("-o", dest="out", metavar="PAGE", type=Path, required=True, help="HTML file to write")
    add_viewer_limit(parser)


def run(options: Options) -> int:
    from nnunet_ext import view

    page = view(options.pop("predictions"), options.pop("images"), options.pop("out"), **options)
    print(f"{page.path}: {len(page.case_bytes)} cases to look at, {len(page.left_out)} listed without images")
    return 1 if "failed" in page.left_out.values() else 0  # which and why was logged
