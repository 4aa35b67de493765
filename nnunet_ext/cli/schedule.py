"""`nnunet_ext schedule`: plans with another number of epochs."""

import argparse

from nnunet_ext.cli.arguments import Options, positive_int

SUMMARY = "copy plans under another name, with another number of epochs"
EXAMPLE = "nnunet_ext schedule 501 -p CascadeOARPlans -o CascadeOARPlans50 --epochs 50"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset_id", metavar="ID", help="number or name of the data set")
    parser.add_argument("-p", dest="plans", metavar="PLANS", help="without: CascadeOARPlans")
    parser.add_argument("-o", dest="name", metavar="NAME", required=True, help="name of the new plans, for -p")
    parser.add_argument("--epochs", metavar="N", type=positive_int, help="epochs of a training at most")
    parser.add_argument("--iterations", metavar="N", type=positive_int, help="iterations of an epoch")
    parser.add_argument(
        "-c", dest="configurations", nargs="+", metavar="CONFIGURATION", help="those to change; without: all"
    )


def run(options: Options) -> int:
    from nnunet_ext.end_to_end.plan_schedule import set_schedule

    print(set_schedule(options.pop("dataset_id"), options.pop("name"), **options))
    return 0
