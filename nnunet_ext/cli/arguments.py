"""The verbs' contract with the parser, types of arguments, and options of several verbs.

A verb is a module with `SUMMARY`, `EXAMPLE`, `add_arguments(parser)` and `run(options)`, which returns the exit code.
Nothing heavy is imported before `run`.
"""

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

#: Arguments as parsed. An option that is not given is not in it, so its default is the function's.
Options = dict[str, Any]


class Verb(Protocol):
    """A module of this package that holds a verb."""

    SUMMARY: str
    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, options: Options) -> int: ...


def common_options() -> argparse.ArgumentParser:
    """Parent of all parsers."""
    # SUPPRESS: an option that is not given is not in the result at all, also where two parsers share it.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error, and more log lines")
    return common


def add_verbs(to: Any, verbs: Mapping[str, Verb]) -> None:
    """Add a parser for each verb.

    Args:
        to: Result of `add_subparsers`.
        verbs: Name -> module.
    """
    for name, verb in verbs.items():
        parser = to.add_parser(
            name,
            help=verb.SUMMARY,
            description=verb.SUMMARY[0].upper() + verb.SUMMARY[1:] + ".",
            epilog=f"example:\n  {verb.EXAMPLE}" if verb.EXAMPLE else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
            parents=[common_options()],
        )
        verb.add_arguments(parser)


# --- options of several verbs -----------------------------------------------------------------------------------------


def add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-np", dest="n_processes", metavar="N", type=positive_int, help="processes to run at a time")


def add_parts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-num_parts",
        metavar="N",
        type=positive_int,
        help="share the cases among N processes; this one takes part -part_id",
    )
    parser.add_argument("-part_id", metavar="K", type=natural_number, help="0 to N - 1")


def add_rtstruct(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rtstruct", action="store_true", help="DICOM: write an RTSTRUCT beside each label map")
    parser.add_argument(
        "--smooth-contours",
        action="store_true",
        help="with --rtstruct: round the steps of the voxels off, within half a voxel and at the same area",
    )


def add_viewer_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--viewer-limit-mb",
        metavar="MB",
        type=megabytes,
        help="size of the images in the page, worst cases first; 0 for none, without: 400",
    )


def add_dicom_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--series",
        dest="series_file",
        metavar="FILE",
        type=Path,
        help="DICOM: TOML file, which series is which channel",
    )
    parser.add_argument(
        "--key", dest="key_file", metavar="FILE", type=Path, help="DICOM: private file, which case is which patient"
    )


# --- types of arguments -----------------------------------------------------------------------------------------------


class PairAction(argparse.Action):
    """Store two numbers as a tuple. argparse stores a list."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(namespace, self.dest, tuple(values))


class TestAction(argparse.Action):
    """Names of cases, or `test_share` for a single number with a decimal point, such as `0.25`."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if len(values) == 1 and re.fullmatch(r"[0-9]*[.][0-9]+", values[0]):
            namespace.test_share = float(values[0])
        else:
            namespace.test_cases = values


class ToleranceAction(argparse.Action):
    """One number of `1.5`, a mapping of `Lens_L=1 Eye_L=2`."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        tolerance: float | dict[str, float]
        try:
            if len(values) == 1 and "=" not in values[0]:
                tolerance = float(values[0])
            else:
                tolerance = {organ: float(mm) for organ, mm in (text.split("=") for text in values)}
        except ValueError:
            parser.error(f"{option} {' '.join(values)}: give one distance in mm, or ORGAN=MM for each organ")
        setattr(namespace, self.dest, tolerance)


def named_folder(text: str) -> tuple[str, Path]:
    """`NAME=FOLDER`, or a folder named as itself. Of a trained model, its configuration's name.

    Names and folders may hold `=` (`lr=0.1`). A text that is a folder is that folder. Else the first `=` with a folder
    to its right divides it, or the last `=` if there is none.
    """
    places = [at for at, letter in enumerate(text) if letter == "="]
    if not places or Path(text).exists():
        return Path(text).name.rpartition("__")[2], Path(text)
    at = next((at for at in places if text[at + 1 :] and Path(text[at + 1 :]).exists()), places[-1])
    if not text[at + 1 :]:
        raise argparse.ArgumentTypeError(f"{text} names no folder: NAME=FOLDER")
    return text[:at] or Path(text[at + 1 :]).name.rpartition("__")[2], Path(text[at + 1 :])


def model_of_run(text: str) -> Path | tuple[str, Path]:
    """A folder, or `NAME=FOLDER`, divided as by `named_folder`."""
    return Path(text) if "=" not in text or Path(text).exists() else named_folder(text)


def whole_number(least: int) -> Callable[[str], int]:
    """Reads a number of at least so much. argparse would name the function instead of the fault."""

    def read(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number of {least} or more")
        return int(text)

    return read


positive_int = whole_number(1)
natural_number = whole_number(0)


def megabytes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a size in MB of 0 or more")
    return number
