"""A SLURM of one node on this machine, with a make-believe GPU, for tests. Without SLURM they skip with a reason."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("slurm_one_node.sh")
#: Exit code if there is a SLURM already, which is left alone.
ANOTHERS = 3


@contextlib.contextmanager
def slurm_node(folder: Path) -> Iterator[None]:
    """SLURM runs meanwhile, with its files in a folder. The test is skipped if it can't."""
    for program in ("slurmctld", "slurmd", "sbatch", "munged"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.skip(f"SLURM is not installed: there is no {program}")
    if os.geteuid() != 0:
        pytest.skip("only root starts a SLURM")
    environment = {**os.environ, "SLURM_TEST_DIR": str(folder), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    begun = subprocess.run([SCRIPT, "start"], env=environment, capture_output=True, text=True, check=False)
    if begun.returncode == ANOTHERS:
        pytest.skip(f"SLURM did not start: {begun.stderr.strip()}")
    try:
        if begun.returncode != 0:
            pytest.skip(f"SLURM did not start: {begun.stderr.strip()[-300:]}")
        yield
    finally:
        subprocess.run(["scancel", "--me"], check=False, capture_output=True)
        subprocess.run([SCRIPT, "stop"], env=environment, check=False, capture_output=True)


def slurm(*words: str) -> str:
    """What a command of SLURM says."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
