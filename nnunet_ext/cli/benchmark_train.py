"""`nnunet_ext benchmark train`: the speed of training."""

import argparse
from pathlib import Path

from nnunet_ext.cli.arguments import Options, positive_int

SUMMARY = "iterations per second with real and with cached data, next to stock nnU-Net"
EXAMPLE = "nnunet_ext benchmark train -d 501 -p CascadeOARPlans"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-d",
        dest="dataset_id",
        metavar="ID",
        type=positive_int,
        help="preprocessed data set; without: phantoms made for it",
    )
    parser.add_argument(
        "-p", dest="plans", metavar="PLANS", help="without: CascadeOARPlans, for phantoms CascadeOARPlansSmall"
    )
    parser.add_argument(
        "-c", dest="configurations", nargs="+", metavar="CONF", help="without: 3d_lowres 3d_cascade_fullres"
    )
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), help="without: the GPU, if there is one")
    parser.add_argument(
        "-o", dest="out", metavar="OUT", type=Path, help="folder for the table and the JSON file: benchmark"
    )
    parser.add_argument("--iterations", metavar="N", type=positive_int, help="timed with each kind of data")
    parser.add_argument("--threads", dest="n_threads", metavar="N", type=positive_int, help="of torch on the CPU")
    parser.add_argument("--no-stock", dest="stock", action="store_false", help="leave stock nnU-Net out")


def run(options: Options) -> int:
    from nnunet_ext.end_to_end.training_benchmark import benchmark_train

    print(benchmark_train(**options))
    return 0
