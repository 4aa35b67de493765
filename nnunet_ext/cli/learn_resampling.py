"""`nnunet_ext learn-resampling`: thin slices of thick ones, learned from a data set's training images."""

import argparse

from nnunet_ext.cli.arguments import Options, natural_number, positive_int

SUMMARY = "learn to make thin slices of thick ones, from the training images alone"
EXAMPLE = "nnunet_ext learn-resampling -d 501"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", dest="dataset_id", metavar="ID", type=positive_int, required=True, help="data set ID")
    parser.add_argument("--iterations", metavar="N", type=positive_int, help="batches to learn from; without: 2000")
    parser.add_argument("--seed", metavar="N", type=natural_number, help="of weights, batches and cases; without: 0")
    parser.add_argument("-device", "--device", choices=("cuda", "cpu", "mps"), help="without: cpu")


def run(options: Options) -> int:
    from nnunet_ext.superresolution.from_dataset import learn_resampling

    summary = learn_resampling(options.pop("dataset_id"), **options)
    print(summary.table_markdown)
    for case, why in summary.skipped.items():
        print(f"case '{case}' was left out: {why}")
    for channel in summary.no_better:
        print(f"{channel}: no better than cubic interpolation; learn from more images, or with more --iterations")
    print(f"written: {summary.file}")
    return 0
