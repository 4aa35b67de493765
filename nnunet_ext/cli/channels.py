"""`nnunet_ext channels`: a raw data set with some of the channels of another."""

import argparse

from nnunet_ext.cli.arguments import Options, positive_int

SUMMARY = "make a raw data set with some of the channels of another, for the same cases"
EXAMPLE = "nnunet_ext channels 521 -d 523 -n HeadT1T2 --modalities T1 T2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source_id", metavar="SOURCE", help="number or name of the data set with all channels")
    parser.add_argument("-d", dest="dataset_id", metavar="ID", type=positive_int, required=True, help="data set ID")
    parser.add_argument("-n", dest="name", metavar="NAME", required=True, help="data set name: DatasetID_NAME")
    parser.add_argument("--modalities", nargs="+", metavar="M", required=True, help="channels, in this order: T1 T2")


def run(options: Options) -> int:
    from nnunet_ext.dataset_conversion.channels import select_channels

    folder, n_cases = select_channels(options.pop("source_id"), **options)
    print(f"{folder}: {n_cases} cases")
    return 0
