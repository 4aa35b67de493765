"""The command `nnunet_ext`: its parser, its errors and its end. Each verb has a file of its own beside this one.

A verb parses its arguments and calls one public function of `nnunet_ext`. Options that are not given are not passed on,
so a default is defined in one place, the function. A verb imports that function when it runs. So `--help` is quick, and a
broken dependency stops only its own verb.
"""

import argparse
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from nnunet_ext._version import __version__
from nnunet_ext.cli import (
    atlas,
    benchmark,
    channels,
    convert,
    demo,
    doctor,
    evaluate,
    finetune,
    hook,
    install,
    learn_resampling,
    phantom,
    postprocessing,
    predict,
    preprocess,
    register,
    report,
    rtstruct,
    schedule,
    study,
    view,
    workflow,
)
from nnunet_ext.cli.arguments import Verb, add_verbs, common_options
from nnunet_ext.cli.printing import complain
from nnunet_ext.files import in_one_line

#: Verb -> its module, in the order of `--help`.
VERBS: Mapping[str, Verb] = {
    "phantom": phantom,
    "convert": convert,
    "channels": channels,
    "register": register,
    "preprocess": preprocess,
    "schedule": schedule,
    "learn-resampling": learn_resampling,
    "finetune": finetune,
    "postprocessing": postprocessing,
    "predict": predict,
    "atlas": atlas,
    "rtstruct": rtstruct,
    "install": install,
    "evaluate": evaluate,
    "report": report,
    "view": view,
    "hook": hook,
    "doctor": doctor,
    "demo": demo,
    "study": study,
    "workflow": workflow,
    "benchmark": benchmark,
}
#: Exit code of a command that was interrupted, as shells have it: 128 and the number of SIGINT.
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code.

    0 means that all went well, 1 that something failed, which a line on standard error names, and 130 that it was
    interrupted. If the arguments make no sense, argparse raises SystemExit with 2.
    """
    options = vars(make_parser().parse_args(argv))
    verb, debug = options.pop("verb"), options.pop("debug", False)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # Chinese organ names on a console that has no such letters
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("nnunet_ext").setLevel(logging.DEBUG if debug else logging.INFO)
    terminate = _interrupt_on_terminate()
    try:
        return VERBS[verb].run(options)
    except KeyboardInterrupt:
        return complain(verb, "interrupted", exit_code=INTERRUPTED)
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, ImportError):
            return complain(verb, f"{error}. Run `nnunet_ext doctor` to see what is missing")
        return complain(verb, in_one_line(error))
    finally:
        if terminate is not None:
            signal.signal(signal.SIGTERM, terminate)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="nnunet_ext",
        description="A localizer -> ROI crop -> segmenter cascade for small head organs at risk, on top of nnU-Net v2.",
        epilog="To plan and train, use nnU-Net's own commands with -pl CascadeOARPlanner and -tr CascadeOARTrainer.",
        parents=[common_options()],
    )
    parser.add_argument("--version", action="version", version=f"nnunet_ext {__version__}")
    add_verbs(parser.add_subparsers(title="verbs", dest="verb", required=True, metavar="VERB"), VERBS)
    return parser


def _interrupt_on_terminate() -> Any:
    """The handler of SIGTERM so far. SIGTERM, a batch system's way to interrupt, now ends a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # of a program that calls `main`, and its business
        return None
    return signal.signal(signal.SIGTERM, signal.default_int_handler)


def command() -> NoReturn:
    """The command of a shell, which is `main` and the end of its process."""
    code = main()
    if code == INTERRUPTED or any(thread.name.startswith("nnunet_ext") for thread in threading.enumerate()):
        # Interrupted while a thread reads the next case, or a library of C++ works in threads of its own. One that comes
        # back to an interpreter which has ended takes the process down with it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
