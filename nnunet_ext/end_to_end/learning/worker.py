"""One step of a study in a process of its own: `python -m nnunet_ext.end_to_end.learning.worker OUT RUNS TASK OPTIONS`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nnunet_ext.end_to_end.learning.costs import measure
from nnunet_ext.end_to_end.learning.data import plan_stock
from nnunet_ext.end_to_end.learning.methods import score_atlases
from nnunet_ext.end_to_end.learning.scoring import score
from nnunet_ext.end_to_end.learning.study import Study
from nnunet_ext.end_to_end.learning.training import train

TASKS: dict[str, Callable] = {
    "plan_stock": plan_stock,
    "costs": measure,
    "train": train,
    "score": score,
    "atlas": score_atlases,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a task. Its options are JSON."""
    out, runs, task, options = sys.argv[1:] if argv is None else argv
    TASKS[task](Study(Path(out), Path(runs)), **json.loads(options))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
