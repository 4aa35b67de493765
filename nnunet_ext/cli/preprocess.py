"""`nnunet_ext preprocess`: the training cases of planned data, shared among processes."""

import argparse

from nnunet_ext.cli.arguments import Options, add_parts, add_processes
from nnunet_ext.cli.printing import counts, report_failed

SUMMARY = "preprocess planned training cases, as nnUNetv2_preprocess does, shared among processes and resumable"
EXAMPLE = "nnunet_ext preprocess -d 501 -p CascadeOARPlans -c 3d_fullres 3d_lowres -num_parts 4 -part_id 0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", dest="dataset_id", metavar="ID", required=True, help="number or name of the data set")
    parser.add_argument("-p", dest="plans", metavar="PLANS", help="without: CascadeOARPlans")
    parser.add_argument(
        "-c",
        dest="configurations",
        nargs="+",
        metavar="CONFIGURATION",
        required=True,
        help="whose data; of those that share their data, one is enough",
    )
    add_parts(parser)
    add_processes(parser)


def run(options: Options) -> int:
    from nnunet_ext.end_to_end.preprocessing import preprocess

    failed: dict[str, str] = {}
    for summary in preprocess(options.pop("dataset_id"), **options):
        print(f"{summary.folder}: {counts(summary)}")
        failed |= {f"{case}, {summary.configuration}": reason for case, reason in summary.failed.items()}
    return report_failed("preprocess", failed)
