"""`nnunet_ext benchmark learning`: what systems learn in equal computing time."""

import argparse
from pathlib import Path

from nnunet_ext.cli.arguments import Options, natural_number, positive_int

SUMMARY = "train systems for equal computing time, next to stock nnU-Net, and score them on other people"
EXAMPLE = "nnunet_ext benchmark learning -i heads --train-people 01..07 --test-people 08..10 --marks 10 40"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    data = add_data(parser)
    data.add_argument("--modalities", nargs="+", metavar="M", help="channels; without: CT T1 T2")
    data.add_argument("--planner", metavar="PLANNER", help="without: CascadeOARPlannerSmall")
    what = add_runs(parser, "SYSTEM", "without: default. --list names them")
    what.add_argument("--true-boxes", action="store_true", help="also score with boxes by the reference organs")
    what.add_argument(
        "--costs", dest="costs_only", action="store_true", help="only measure what an iteration costs, and end"
    )
    what.add_argument("--list", dest="list_systems", action="store_true", help="name the systems, and end")
    parser.add_argument(
        "--curves", dest="curves_file", metavar="FILE", type=Path, help="draw the curves of what was run, and end"
    )


def add_data(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """What is trained on and scored, of all benchmarks of learning."""
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
    return data


def add_runs(parser: argparse.ArgumentParser, what_name: str, which: str) -> argparse._ArgumentGroup:
    """What is run, and where it goes. `what_name` is what `--only` names, and `which` its help."""
    what = parser.add_argument_group("what is run")
    what.add_argument("--only", nargs="+", metavar=what_name, help=which)
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
    return what


def minutes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of minutes above 0")
    return number


def run(options: Options) -> int:
    from nnunet_ext.end_to_end.learning.benchmark import benchmark_learning

    print(benchmark_learning(**options))
    return 0
