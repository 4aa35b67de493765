"""Batches of nnU-Net's loaders, with an error that says which training lost a process that loads cases, and what to do.

Checked against nnunetv2 2.8.1 and batchgenerators 0.25.5. Their own error names no training, and points to a message above.
After SIGKILL, as of a machine out of memory, there is none.
"""

from __future__ import annotations

import signal
from typing import Any


class LoaderDied(RuntimeError):
    """A process that loads cases has ended. The message says of which training, why and what to do."""


def next_batch(loader: Any, *, of: str, go_on: str) -> dict:
    """The next batch of a loader with or without processes of its own.

    Args:
        loader: Of training or validation cases.
        of: Names the training.
        go_on: The command that goes on with it.

    Raises:
        LoaderDied: If a process of the loader has ended.
    """
    processes = list(getattr(loader, "_processes", ()))  # the loader forgets them when it ends
    try:
        return next(loader)
    except RuntimeError as error:
        ended = [process.exitcode for process in processes if process.exitcode is not None]
        if not ended:
            raise
        # The loader itself ends the others by SIGTERM.
        killed = next((-code for code in ended if code < 0 and -code != signal.SIGTERM), None)
        if killed is None:
            cause = "failed, with an error that stands above; repair the file or the entry of the plan that it names"
        else:
            cause = (
                f"was killed ({signal.Signals(killed).name}), most often because memory ran out; give the job more of it, "
                f"or load with fewer processes (nnUNet_n_proc_DA, now {len(processes)})"
            )
        raise LoaderDied(f"{of}: a process that loads cases {cause}. Go on with: {go_on}") from error
