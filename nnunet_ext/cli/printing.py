"""Lines that several verbs print: errors, failed cases, counts of cases."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def complain(verb: str, message: str, *, exit_code: int = 1) -> int:
    """Print an error as one line on standard error, and return the exit code."""
    print(f"nnunet_ext {verb}: error: {' '.join(message.split())}", file=sys.stderr)
    return exit_code


def report_cases(verb: str, out: Path, of_all: Iterable[object], summary: Any) -> int:
    """Print the warnings of a run over cases, its counts and its files. The exit code.

    Args:
        verb: Of the command.
        out: Folder that was written.
        of_all: Warnings of no single case.
        summary: Of the run, with `warnings` by case, `failed` and `files`.
    """
    for message in of_all:
        print(f"warning: {message}", file=sys.stderr)
    for case, messages in summary.warnings.items():
        for message in messages:
            print(f"warning: case '{case}': {message}", file=sys.stderr)
    print(f"{out}: {counts(summary)}")
    print(summary.files)
    return report_failed(verb, summary.failed)


def report_failed(verb: str, failed: Mapping[str, str]) -> int:
    """Print one line per failed case. The exit code is 1 if there is any."""
    for case, reason in failed.items():
        complain(verb, f"case '{case}': {reason}")
    return 1 if failed else 0


def counts(summary: Any) -> str:
    """Numbers of cases written, skipped and failed, of a `ConversionSummary` or a `PredictionSummary`."""
    done, skipped, failed = (_count(getattr(summary, name)) for name in ("written", "skipped", "failed"))
    return f"{done} written, {skipped} skipped (already there), {failed} failed"


def _count(cases: Any) -> int:
    return cases if isinstance(cases, int) else len(cases)
