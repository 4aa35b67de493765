"""`nnunet_ext demo`: the whole chain on phantoms."""

import argparse
from pathlib import Path

from nnunet_ext.cli.arguments import Options

SUMMARY = "run all of it on phantoms, small enough for two CPU cores"
EXAMPLE = "nnunet_ext demo demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "out", metavar="OUT", type=Path, nargs="?", default=Path("demo"), help="folder to work in: demo"
    )


def run(options: Options) -> int:
    from nnunet_ext.end_to_end.demo import demo

    demo(options.pop("out"))
    return 0
