"""`nnunet_ext benchmark`: the speed of the verbs, and of learning. Each kind of benchmark has a file of its own."""

import argparse

from nnunet_ext.cli import benchmark_convert, benchmark_learning, benchmark_methods, benchmark_predict, benchmark_train
from nnunet_ext.cli.arguments import Options, add_verbs

SUMMARY = "measure how fast something is"
EXAMPLE = ""  # each kind shows its own

KINDS = {
    "train": benchmark_train,
    "predict": benchmark_predict,
    "convert": benchmark_convert,
    "learning": benchmark_learning,
    "methods": benchmark_methods,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(title="what to measure", dest="kind", required=True, metavar="WHAT")
    add_verbs(kinds, KINDS)


def run(options: Options) -> int:
    return KINDS[options.pop("kind")].run(options)
