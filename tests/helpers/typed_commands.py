"""Commands as a user types them, in a folder that holds nnU-Net's three folders."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path


class TypedCommands:
    """Runs commands in `folder` and returns what each printed.

    Args:
        folder: Working folder. `raw`, `preprocessed` and `results` of nnU-Net lie in it.
        forked: Words that spare a command importing nnU-Net (`forked_commands.py`).
        timeout_s: Longest time of one command.
    """

    def __init__(self, folder: Path, forked: Sequence[str], *, timeout_s: float = 600) -> None:
        self.folder, self.forked, self.timeout_s = folder, list(forked), timeout_s
        self.environment = {
            **os.environ,
            **{f"nnUNet_{n}": str(folder / n) for n in ("raw", "preprocessed", "results")},
            "nnUNet_def_n_proc": "1",
            "nnUNet_n_proc_DA": "1",
            "nnUNet_compile": "f",
        }

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.forked, *arguments], env=self.environment, cwd=self.folder, capture_output=True, text=True,
            timeout=self.timeout_s, check=False,
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert done.returncode == 0, f"{arguments} returned {done.returncode}\n{output[-4000:]}"
        return output
