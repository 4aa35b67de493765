"""`nnunet_ext benchmark convert`: the speed of conversion."""

import argparse
from pathlib import Path

from nnunet_ext.cli.arguments import Options, positive_int

SUMMARY = "CPU seconds and memory of making and converting a case, per step, next to stock nnU-Net's preprocessing"
EXAMPLE = "nnunet_ext benchmark convert -i patients --register"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-i", dest="source", metavar="SRC", type=Path, help="what convert takes; without: phantoms made for it"
    )
    parser.add_argument("--modalities", nargs="+", metavar="M", help="channels, in this order: CT T1 T2")
    parser.add_argument("--size", choices=("tiny", "small", "full"), help="of phantoms; without: tiny")
    parser.add_argument("--cases", dest="n_cases", metavar="N", type=positive_int, help="how many phantoms; without: 2")
    parser.add_argument("--unregistered", action="store_true", help="move T1 and T2 of phantoms against the CT")
    parser.add_argument("--register", action="store_true", help="register T1 and T2 to the CT first")
    parser.add_argument("--no-preview", dest="preview", action="store_false", help="draw no pictures of the steps")
    parser.add_argument("-o", dest="out", metavar="OUT", type=Path, help="folder for table, JSON and data: benchmark")
    parser.add_argument("--no-stock", dest="stock", action="store_false", help="leave stock nnU-Net out")


def run(options: Options) -> int:
    from nnunet_ext.end_to_end.conversion_benchmark import benchmark_convert

    print(benchmark_convert(**options))
    return 0
