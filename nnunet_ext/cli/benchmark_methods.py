"""`nnunet_ext benchmark methods`: our cascade beside other groups' methods."""

import argparse
from pathlib import Path

from nnunet_ext.cli.arguments import Options, natural_number, positive_int
from nnunet_ext.cli.benchmark_learning import minutes

SUMMARY = "train every method for equal computing time, and score it and the atlases on other people"
EXAMPLE = "nnunet_ext benchmark methods -i heads --train-people 01..07 --test-people 08..10 --marks 10 40"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument(
        "-i", dest="cases", metavar="CASES", type=Path, help="case folders; without: the study in OUT goes on"
    )
    data.add_argument("--name", metavar="NAME", help="of the data, in files and tables; without: heads")
    data.add_argument("--train-people", nargs="+", metavar="P", help="people to train on, such as 01..07")
    data.add_argument("--test-people", nargs="+", metavar="P", help="people to score")
    data.add_argument("--train", dest="n_train", metavar="N", type=positive_int, help="instead: cases to train on")
    data.add_argument("--test", dest="n_test", metavar="N", type=positive_int, help="instead: cases to score")
    data.add_argument("--device", choices=("cpu", "cuda"), help="without: cpu. On a GPU minutes are those of the clock")
    what = parser.add_argument_group("what is run")
    what.add_argument("--only", nargs="+", metavar="METHOD", help="without: all")
    what.add_argument("--seeds", nargs="+", metavar="S", type=natural_number, help="without: 0")
    what.add_argument(
        "--marks",
        dest="marks_min",
        nargs="+",
        metavar="MIN",
        type=minutes,
        help="core minutes (on a GPU minutes), all of them or the shortest first; without: 10 40 120",
    )
    parser.add_argument(
        "-np", dest="n_processes", metavar="N", type=positive_int, help="trainings at a time; without: 1"
    )
    parser.add_argument("-o", dest="out", metavar="OUT", type=Path, help="data, trainings, predictions: learning")
    parser.add_argument("--runs", metavar="FOLDER", type=Path, help="one JSON file per run: results/runs")
    parser.add_argument(
        "--table", dest="table_file", metavar="FILE", type=Path, help="write the table of what was run, and end"
    )


def run(options: Options) -> int:
    from nnunet_ext.end_to_end.learning.methods import benchmark_methods

    print(benchmark_methods(**options))
    return 0
