"""`nnunet_ext workflow`: an experiment as jobs of this machine or of a cluster, and how it stands."""

import argparse
import sys
from pathlib import Path

from nnunet_ext.cli.arguments import Options, add_processes, natural_number, positive_int
from nnunet_ext.cli.printing import complain

SUMMARY = "make an experiment as jobs of this machine or a cluster: convert, plan, train, predict, score, report"
EXAMPLE = "nnunet_ext workflow patients -d 521 -n HeadMR --experiment ours --slurm\n  nnunet_ext workflow status"
#: Instead of a folder of patients.
STATUS = "status"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SRC",
        nargs="?",
        default=None,
        help="patients, as `convert` takes them; without: the data set is there. The word `status`: say how all stands",
    )
    parser.add_argument("-o", dest="out", metavar="OUT", type=Path, help="folder of all experiments: workflow")
    parser.add_argument("--experiment", metavar="NAME", help="name of the experiment, and of its folder in OUT")
    parser.add_argument("-d", dest="dataset_id", metavar="ID", type=positive_int, help="data set ID")
    parser.add_argument("-n", dest="name", metavar="NAME", help="data set name, if it is not there yet")
    parser.add_argument(
        "--convert",
        dest="convert_options",
        metavar="OPTIONS",
        help='more options of `convert`, as one word: "--register --test case_41 case_42"',
    )
    parser.add_argument("-c", dest="configuration", metavar="CONFIGURATION", help="without: 3d_cascade_fullres")
    parser.add_argument("-pl", dest="planner", metavar="PLANNER", help="without: CascadeOARPlanner")
    parser.add_argument("-p", dest="plans", metavar="PLANS", help="without: called after the planner")
    parser.add_argument("-tr", dest="trainer", metavar="TRAINER", help="without: CascadeOARTrainer")
    parser.add_argument("--epochs", metavar="N", type=positive_int, help="of a training at most; without: the plan's")
    parser.add_argument("--iterations", metavar="N", type=positive_int, help="of an epoch; without: the plan's")
    parser.add_argument("-f", dest="folds", nargs="+", metavar="FOLD", type=natural_number, help="without: 0 1 2 3 4")
    parser.add_argument(
        "--jitter",
        choices=("planned", "measured"),
        help="how far the segmenter's box is moved in training: as planned, beside the localizer's training, or by the "
        "errors of its folds here; without: by the plan, and by what is measured then",
    )
    parser.add_argument(
        "--no-postprocessing",
        dest="use_postprocessing",
        action="store_false",
        help="choose none on the cross-validation, and apply none to the test cases",
    )
    parser.add_argument("--compare", nargs="+", metavar="NAME", help="other experiments in OUT, for the report")
    parser.add_argument("-device", choices=("cuda", "cpu", "mps"), help="without: cuda")
    parser.add_argument("--gpus", nargs="+", metavar="K", help="GPUs of this machine; without: all")
    add_processes(parser)
    parser.add_argument(
        "--parts",
        metavar="N",
        type=positive_int,
        help="share the cases of the conversion, of each preprocessing and of the prediction among N jobs; without: 1",
    )
    parser.add_argument("--slurm", action="store_true", help="run the steps as jobs of SLURM; without: on this machine")
    parser.add_argument(
        "--time-limit",
        dest="time_limit_minutes",
        metavar="MINUTES",
        type=positive_int,
        help="of a job, of an hour at least but for trainings; a training goes on in the next one: 1440",
    )
    parser.add_argument(
        "--memory-gb",
        metavar="GB",
        type=positive_int,
        help="of a training's job; without: by what the plan lets it hold",
    )
    parser.add_argument("--partition", metavar="NAME", help="of SLURM")
    parser.add_argument("--account", metavar="NAME", help="of SLURM")
    parser.add_argument(
        "--snakemake",
        dest="snakemake_options",
        metavar="OPTIONS",
        help='more options of Snakemake, as one word: "-j 20"',
    )
    parser.add_argument("--dry-run", action="store_true", help="print what is to do, and do nothing")
    parser.add_argument(
        "--print-sbatch", action="store_true", help="print job arrays for SLURM, which need no Snakemake"
    )
    parser.add_argument("--page", metavar="FILE", type=Path, help="with `status`: write it as a page, too")


def run(options: Options) -> int:
    if options["source"] == STATUS:
        return _status({key: options[key] for key in ("out", "experiment", "page") if key in options})
    if options["source"] is not None:
        options["source"] = Path(options["source"])
    from nnunet_ext.end_to_end.workflow.experiment import workflow

    ran = workflow(**options)
    for step, reason in ran.failed.items():
        complain("workflow", f"step {step}: {reason}")
    if ran.waiting:
        print(f"not begun for want of these: {', '.join(ran.waiting)}", file=sys.stderr)
    if ran.failed:
        print("Repeat the command when the cause is gone: what is done is not repeated.", file=sys.stderr)
    return 1 if ran.failed else 0


def _status(options: Options) -> int:
    from nnunet_ext.end_to_end.workflow.status import workflow_status

    found = workflow_status(**options)
    print(found.text)
    return 0
