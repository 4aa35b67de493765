"""`nnunet_ext install`: a model from a zip file."""

import argparse
from pathlib import Path

from nnunet_ext.cli.arguments import Options

SUMMARY = "unpack a model that nnUNetv2_export_model_to_zip packed, and nothing else"
EXAMPLE = "nnunet_ext install head.zip"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", metavar="ZIP", type=Path, help="what nnUNetv2_export_model_to_zip wrote")


def run(options: Options) -> int:
    from nnunet_ext import install_model

    for folder in install_model(**options):
        print(f"installed {folder}")
    return 0
