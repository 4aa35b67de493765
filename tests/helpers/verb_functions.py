"""The verbs of the command line, their parsers, and the function that each of them calls."""

import argparse
import shlex

import nnunet_ext
from nnunet_ext.cli.main import main, make_parser

#: Verb -> public name of the function it calls.
PUBLIC = {
    "phantom": "make_phantoms",
    "convert": "convert",
    "register": "register_files",
    "postprocessing": "choose_postprocessing",
    "predict": "predict",
    "rtstruct": "rtstruct",
    "install": "install_model",
    "evaluate": "evaluate",
    "report": "report",
    "view": "view",
    "hook": "write_hooks",
    "doctor": "doctor",
}
#: Verb -> public name of another function that it calls with some of its options.
OTHER = {"phantom": "make_phantoms_from_maps"}
#: Modules and names of other functions that are not public.
OTHER_FUNCTIONS = (
    ("nnunet_ext.end_to_end.prediction_profile", "profile_prediction"),
    ("nnunet_ext.end_to_end.workflow.status", "workflow_status"),
)
#: Verb -> module and name of the function it calls.
FUNCTIONS = {
    **{verb: (nnunet_ext._MODULES[name], name) for verb, name in PUBLIC.items()},
    "learn-resampling": ("nnunet_ext.superresolution.from_dataset", "learn_resampling"),
    "finetune": ("nnunet_ext.end_to_end.finetuning", "finetune"),
    "atlas": ("nnunet_ext.atlas.contouring", "contour_by_atlases"),
    "channels": ("nnunet_ext.dataset_conversion.channels", "select_channels"),
    "preprocess": ("nnunet_ext.end_to_end.preprocessing", "preprocess"),
    "schedule": ("nnunet_ext.end_to_end.plan_schedule", "set_schedule"),
    "demo": ("nnunet_ext.end_to_end.demo", "demo"),
    "study": ("nnunet_ext.end_to_end.workflow.study", "study"),
    "workflow": ("nnunet_ext.end_to_end.workflow.experiment", "workflow"),
    "benchmark train": ("nnunet_ext.end_to_end.training_benchmark", "benchmark_train"),
    "benchmark predict": ("nnunet_ext.end_to_end.prediction_benchmark", "benchmark_predict"),
    "benchmark convert": ("nnunet_ext.end_to_end.conversion_benchmark", "benchmark_convert"),
    "benchmark learning": ("nnunet_ext.end_to_end.learning.benchmark", "benchmark_learning"),
    "benchmark methods": ("nnunet_ext.end_to_end.learning.methods", "benchmark_methods"),
}


def run(command: str) -> int:
    """Run a verb, typed without `nnunet_ext`."""
    return main(shlex.split(command))


def verb_parsers() -> dict[str, argparse.ArgumentParser]:
    """Parsers of the verbs that run, the kinds of a benchmark by both words."""
    parsers = dict(_choices(make_parser()))
    kinds = _choices(parsers.pop("benchmark"))
    return {**parsers, **{f"benchmark {kind}": parser for kind, parser in kinds.items()}}


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return parser._subparsers._group_actions[0].choices
