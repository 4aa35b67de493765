"""`nnunet_ext finetune`: a training that starts from a model."""

import argparse
from pathlib import Path

from nnunet_ext.cli.arguments import Options, add_processes, positive_int

SUMMARY = "train both stages on few patients, starting from a trained model"
EXAMPLE = "nnunet_ext finetune -d 511 --from models/CascadeOARTrainer__CascadeOARPlans__3d_cascade_fullres"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", dest="dataset_id", metavar="ID", type=positive_int, required=True, help="data set ID")
    parser.add_argument(
        "--from",
        dest="model",
        metavar="MODEL",
        type=Path,
        help="folder of a trained segmenter, its localizer in the folder beside it",
    )
    parser.add_argument(
        "-f",
        dest="folds",
        nargs="+",
        metavar="FOLD",
        help="folds to train, or all to train on all patients; without: the whole cross-validation",
    )
    parser.add_argument("-device", "--device", choices=("cuda", "cpu", "mps"), help="without: the GPU, if there is one")
    add_processes(parser)
    for stage in ("localizer", "segmenter"):
        parser.add_argument(
            f"--epochs-{stage}",
            metavar="N",
            type=positive_int,
            help=f"epochs of the {stage}; without: half of its model's",
        )


def run(options: Options) -> int:
    from nnunet_ext.end_to_end.finetuning import finetune

    finetune(options.pop("dataset_id"), **options)
    return 0
