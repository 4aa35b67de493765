"""`nnunet_ext atlas`: contours of new cases from those of the training cases."""

import argparse
from pathlib import Path

from nnunet_ext.cli.arguments import Options, add_dicom_files, add_parts, add_rtstruct, natural_number, positive_int
from nnunet_ext.cli.printing import report_cases

SUMMARY = "contour new cases by multi-atlas segmentation, without any training: the floor to compare with"
EXAMPLE = "nnunet_ext atlas -d 501 -i imagesTs -o atlas"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-d", dest="dataset_id", metavar="ID", type=positive_int, required=True, help="data set of the training cases"
    )
    parser.add_argument(
        "-i", dest="images", metavar="IN", type=Path, required=True, help="what to contour, as for nnunet_ext predict"
    )
    parser.add_argument(
        "-o",
        dest="out",
        metavar="OUT",
        type=Path,
        required=True,
        help="folder for OUT/staple, OUT/voting and the transforms",
    )
    parser.add_argument(
        "-f", dest="fold", metavar="FOLD", type=natural_number, help="the training cases of this fold only"
    )
    parser.add_argument(
        "--atlases", dest="n_atlases", metavar="N", type=positive_int, help="nearest training cases to fuse; without: 5"
    )
    parser.add_argument(
        "--channel", metavar="CHANNEL", help="image to register; without: the CT, or the first if there is none"
    )
    add_dicom_files(parser)
    parser.add_argument(
        "--layout", choices=("auto", "files", "folders", "dicom"), help="kind of IN; without: look what is there"
    )
    add_rtstruct(parser)
    parser.add_argument(
        "-np", dest="n_threads", metavar="N", type=positive_int, help="registrations at a time; without: one per core"
    )
    parser.add_argument("--strict", action="store_true", help="a case with a warning fails")
    add_parts(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="redo cases that are there already; transforms are kept"
    )


def run(options: Options) -> int:
    from nnunet_ext.atlas.contouring import contour_by_atlases

    summary = contour_by_atlases(**options)
    return report_cases("atlas", options["out"], summary.of_atlases, summary)
