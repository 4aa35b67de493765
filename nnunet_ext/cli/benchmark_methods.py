"""`nnunet_ext benchmark methods`: our cascade beside other groups' methods."""

import argparse

from nnunet_ext.cli.arguments import Options
from nnunet_ext.cli.benchmark_learning import add_data, add_runs

SUMMARY = "train every method for equal computing time, and score it and the atlases on other people"
EXAMPLE = "nnunet_ext benchmark methods -i heads --train-people 01..07 --test-people 08..10 --marks 10 40"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    add_runs(parser, "METHOD", "without: all")


def run(options: Options) -> int:
    from nnunet_ext.end_to_end.learning.methods import benchmark_methods

    print(benchmark_methods(**options))
    return 0
