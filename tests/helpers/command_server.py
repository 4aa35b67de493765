"""The server of `forked_commands.py`, started when a test first asks and stopped with the test process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "forked_commands.py"


@contextmanager
def serving(folder: Path) -> Iterator[list[str]]:
    """The words that, put before a command, run it in a fork of the server; socket and log lie in `folder`."""
    socket, log = folder / "socket", folder / "server.log"
    serve = [sys.executable, str(SCRIPT), str(socket)]
    with log.open("w") as file:
        # nnU-Net reads these when it is imported.
        environment = {**os.environ, "nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1", "nnUNet_compile": "f"}
        server = subprocess.Popen(serve, cwd=folder, env=environment, stdout=file, stderr=file)
    try:
        while not socket.exists():
            assert server.poll() is None, log.read_text()
            time.sleep(0.05)
        yield serve
    finally:
        server.terminate()
        server.wait()
