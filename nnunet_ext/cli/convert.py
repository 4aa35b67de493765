"""`nnunet_ext convert`: a raw data set of nnU-Net from images or DICOM."""

import argparse
from pathlib import Path

from nnunet_ext.cli.arguments import (
    Options,
    PairAction,
    TestAction,
    add_dicom_files,
    add_parts,
    add_processes,
    natural_number,
    positive_int,
)
from nnunet_ext.cli.printing import counts, report_failed

SUMMARY = "write an nnU-Net raw data set from one folder per case, or from a DICOM tree"
EXAMPLE = "nnunet_ext convert phantoms -d 501 -n HeadOAR --test phantom_018 phantom_019"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SRC", type=Path, help="folder with SRC/CASE/{CT,T1,T2,...}, or with DICOM files"
    )
    parser.add_argument("-d", dest="dataset_id", metavar="ID", type=positive_int, required=True, help="data set ID")
    parser.add_argument("-n", dest="name", metavar="NAME", required=True, help="data set name: DatasetID_NAME")
    parser.add_argument("--modalities", nargs="+", metavar="M", help="channels, in this order: CT T1 T2")
    parser.add_argument(
        "--labels", dest="labels_file", metavar="FILE", type=Path, help="TOML label table: organ = [aliases]"
    )
    parser.add_argument(
        "--test",
        dest="test_cases",
        nargs="+",
        metavar="CASE",
        action=TestAction,
        help="cases to keep out of training, or a share of all to draw at random, such as 0.25",
    )
    parser.add_argument(
        "--seed", metavar="N", type=natural_number, help="of the test cases that are drawn at random; without: 0"
    )
    parser.add_argument(
        "--group", dest="group_file", metavar="FILE", type=Path, help="CSV: case,person; a person stays in one fold"
    )
    parser.add_argument(
        "--unlabelled",
        action="store_true",
        help="cases without recognised labels are test cases, also if other files beside their images could be labels",
    )
    parser.add_argument(
        "--list", dest="dry_run", action="store_true", help="say what would be taken for what, and write nothing"
    )
    parser.add_argument(
        "--scan", action="store_true", help="for parts: only find and number the cases, and write their list"
    )
    add_parts(parser)
    parser.add_argument(
        "--finish", action="store_true", help="after all parts: only write dataset.json and the page of all cases"
    )
    parser.add_argument(
        "--layout", choices=("auto", "folders", "dicom", "hanseg"), help="kind of SRC; without: look what is there"
    )
    add_dicom_files(parser)
    parser.add_argument("--allow-non-hu", action="store_true", help="accept a CT whose values do not look like HU")
    parser.add_argument(
        "--window-hu", nargs=2, type=float, metavar=("LO", "HI"), action=PairAction, help="clip the CT to this window"
    )
    parser.add_argument(
        "--one-range",
        action="store_true",
        help="plan with intensities from 0 to 1 in all channels, as the reference study; a CT needs --window-hu",
    )
    parser.add_argument("--no-clean", dest="clean_ct", action="store_false", help="keep couch and mask in the CT")
    parser.add_argument("--no-n4", dest="n4", action="store_false", help="leave the bias field in T1 and T2")
    parser.add_argument("--register", action="store_true", help="register T1 and T2 to the CT first")
    parser.add_argument(
        "--register-backend", choices=("simpleitk", "elastix"), help="elastix needs the package itk-elastix"
    )
    parser.add_argument(
        "--learned-resampling",
        metavar="FILE",
        type=Path,
        help="weights of learn-resampling: give thick T1 and T2 thin slices before they go onto the CT's grid",
    )
    parser.add_argument("--no-preview", dest="preview", action="store_false", help="draw no pictures of the steps")
    add_processes(parser)


def run(options: Options) -> int:
    from nnunet_ext import convert

    summary = convert(options.pop("source"), **options)
    if options.get("dry_run"):
        print("\n".join(summary.listing))
        return 1 if summary.failed else 0
    if options.get("scan"):  # cases that can't be converted are reported at the end, and hold nobody up until then
        print("\n".join([*summary.listing, str(summary.files)]))
        return 0
    print(f"{summary.dataset_folder}: {counts(summary)}")
    print(summary.files)
    return report_failed("convert", summary.failed)
