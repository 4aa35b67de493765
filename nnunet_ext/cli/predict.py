"""`nnunet_ext predict`: contours of new cases."""

import argparse
from pathlib import Path

from nnunet_ext.cli.arguments import Options, add_dicom_files, add_parts, add_rtstruct, positive_int
from nnunet_ext.cli.printing import report_cases

SUMMARY = "contour new cases: localizer, ROI crop and segmenter in one process"
EXAMPLE = "nnunet_ext predict -d 501 -i imagesTs -o contours -f 0 1 2 3 4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("-d", dest="dataset_id", metavar="ID", type=positive_int, help="data set ID")
    which.add_argument(
        "-m", dest="model", metavar="FOLDER", type=Path, help="the model itself, its localizer in the folder beside it"
    )
    which.add_argument(
        "--starter",
        metavar="FOLDER",
        type=Path,
        help="another starter; without -d, -m and this: the one inside nnunet_ext, a small model for trying things out",
    )
    parser.add_argument(
        "--no-starter", dest="use_starter", action="store_false", help="fail without -d and -m: use no starter"
    )
    parser.add_argument(
        "-i",
        dest="images",
        metavar="IN",
        type=Path,
        required=True,
        help="what to contour: files as nnU-Net names them, one folder per case, or DICOM",
    )
    parser.add_argument("-o", dest="out", metavar="OUT", type=Path, required=True, help="folder for the label maps")
    parser.add_argument("-c", dest="configuration", metavar="CONFIGURATION", help="without: 3d_cascade_fullres")
    parser.add_argument(
        "-f", dest="folds", nargs="+", metavar="FOLD", help="folds to average; without: all that are trained"
    )
    parser.add_argument("-tr", dest="trainer", metavar="TRAINER", help="without: CascadeOARTrainer")
    parser.add_argument("-p", dest="plans", metavar="PLANS", help="without: CascadeOARPlans")
    parser.add_argument("-chk", dest="checkpoint", metavar="NAME", help="without: checkpoint_final.pth")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), help="without: the GPU, if there is one")
    parser.add_argument(
        "--mirror", dest="use_mirroring", action="store_true", help="average over mirrored images: slower"
    )
    parser.add_argument(
        "--full-precision",
        action="store_true",
        help="on a CPU: compute in 32 bits even where it has the faster bfloat16; a model that the processor computes "
        "wrongly in bfloat16 is computed so anyway, with a warning",
    )
    parser.add_argument(
        "--no-postprocessing",
        dest="use_postprocessing",
        action="store_false",
        help="leave out the postprocessing that the model brings",
    )
    parser.add_argument(
        "--register",
        action="store_true",
        help="register T1 and T2 to the CT first, or without a CT the other MR to the first",
    )
    add_dicom_files(parser)
    parser.add_argument(
        "--layout", choices=("auto", "files", "folders", "dicom"), help="kind of IN; without: look what is there"
    )
    add_rtstruct(parser)
    parser.add_argument("--strict", action="store_true", help="a case with a warning fails")
    parser.add_argument(
        "--scan", action="store_true", help="for parts: only find and number the cases, and write their list"
    )
    add_parts(parser)
    parser.add_argument(
        "--finish", action="store_true", help="after all parts: contour nothing, and say what became of all cases"
    )
    parser.add_argument("--overwrite", action="store_true", help="redo cases whose label map is there already")


def run(options: Options) -> int:
    from nnunet_ext import predict

    summary = predict(**options)
    if options.get("scan"):  # cases that can't be contoured are reported by their parts
        lines = [f"{name} -> nothing: {reason}" for name, reason in sorted(summary.failed.items())]
        print("\n".join([*lines, f"{len(summary.listed)} cases to contour, {len(lines)} not", str(summary.files)]))
        return 0
    return report_cases("predict", options["out"], summary.of_models, summary)
