"""`nnunet_ext benchmark predict`: the speed of prediction."""

import argparse
from pathlib import Path

from nnunet_ext.cli.arguments import Options, positive_int

SUMMARY = "seconds per case and memory from files to masks, next to stock nnU-Net"
EXAMPLE = "nnunet_ext benchmark predict -d 501 -i imagesTs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-d",
        dest="dataset_id",
        metavar="ID",
        type=positive_int,
        help="planned data set; without: phantoms made for it",
    )
    parser.add_argument(
        "-i", dest="images", metavar="IN", type=Path, help="images folder; without: the data set's imagesTr"
    )
    parser.add_argument("-p", dest="plans", metavar="PLANS", help="without: CascadeOARPlans")
    parser.add_argument("-f", dest="fold", metavar="FOLD", help="of all models; without: 0")
    parser.add_argument("--size", choices=("tiny", "small", "full"), help="of phantoms; without: small")
    parser.add_argument(
        "--cases", dest="n_cases", metavar="N", type=positive_int, help="how many to predict; without: 2"
    )
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), help="without: cpu")
    parser.add_argument("-o", dest="out", metavar="OUT", type=Path, help="folder for table, JSON and models: benchmark")
    parser.add_argument("--no-stock", dest="stock", action="store_false", help="leave stock 3d_fullres out")
    parser.add_argument(
        "--profile", action="store_true", help="measure each step of our own prediction instead, with a trained model"
    )
    parser.add_argument(
        "--model", metavar="FOLDER", type=Path, help="of --profile: a trained segmenter; without: the starter"
    )


def run(options: Options) -> int:
    if options.pop("profile", False):
        if other := [name for name in ("dataset_id", "plans", "fold", "stock") if name in options]:
            raise ValueError(
                f"--profile measures a model as it is, given with --model, so {', '.join(other)} is not for it"
            )
        from nnunet_ext.end_to_end.prediction_profile import profile_prediction

        print(profile_prediction(**options))
        return 0
    if "model" in options:
        raise ValueError("--model is for --profile; without it, -d names a data set whose models are measured")
    from nnunet_ext.end_to_end.prediction_benchmark import benchmark_predict

    print(benchmark_predict(**options))
    return 0
