"""A network file system without locks that shows files late, for processes of their own (`late_files.c`)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")
LATE_S = 3.0


def late_files(folder: Path, built: Path) -> dict[str, str]:
    """Environment in which locks keep nobody out, and files of others below a folder are seen 3 s late."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler")
    library = built / "late_files.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return {**os.environ, "LD_PRELOAD": str(library), "LATE_FOLDER": str(folder), "LATE_S": str(LATE_S)}
