"""Plans with another number of epochs or iterations, beside those that they are made of."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_ext.files import read_json, write_json
from nnunet_ext.nnunet_folders import find_dataset
from nnunet_ext.training.schedule import REFERENCE_KEY, TRAINING_KEY, TrainingSchedule

_PLANS = {"plans_name": str, "configurations": {str: {"training?": dict}}}


def with_schedule(
    plans: Mapping[str, Any],
    *,
    epochs: Mapping[str, int | None],
    iterations: int | None = None,
) -> dict[str, Any]:
    """Plans with other numbers in the `training` entries.

    Args:
        plans: Are left as they are.
        epochs: Configuration -> `num_epochs`. None leaves the plan's.
        iterations: `iterations_per_epoch` of these configurations. None leaves the plan's.

    Raises:
        ValueError: If a configuration has no such entry, or a number is none.
    """
    changed = copy.deepcopy(dict(plans))
    for configuration, num_epochs in epochs.items():
        configured = changed["configurations"].get(configuration, {})
        if configured.get(TRAINING_KEY) is None:
            raise ValueError(f"the plans {plans['plans_name']} have no training of {configuration}")
        for entry in (configured[key] for key in (TRAINING_KEY, REFERENCE_KEY) if configured.get(key) is not None):
            entry.update({} if num_epochs is None else {"num_epochs": num_epochs})
            entry.update({} if iterations is None else {"iterations_per_epoch": iterations})
            TrainingSchedule.from_plan(entry, where=f"{plans['plans_name']}, {configuration}")
    return changed


def set_schedule(
    dataset_id: int | str,
    name: str,
    *,
    plans: str = "CascadeOARPlans",
    epochs: int | None = None,
    iterations: int | None = None,
    configurations: Sequence[str] | None = None,
) -> Path:
    """Write plans of another name with another schedule. They share the preprocessed data, and models go elsewhere.

    Args:
        dataset_id: Number or name of the data set.
        name: Of the new plans.
        plans: Name of those that are copied.
        epochs: Of a training at most. None leaves the plan's.
        iterations: Of an epoch. None leaves the plan's.
        configurations: Those that are changed. None are all.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: If data set or plans are not there.
        ValueError: If the name is that of other plans or no name, or a configuration or number is none.
    """
    folder = find_dataset("nnUNet_preprocessed", dataset_id, "preprocessed data")
    file = folder / f"{plans}.json"
    if not file.is_file():
        there = sorted(path.stem for path in folder.glob("*Plans*.json"))
        raise FileNotFoundError(f"there are no plans {plans} in {folder} ({', '.join(there) or 'it holds none'})")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or "__" in name or name == plans:
        raise ValueError(
            f"plans name {name!r}: use letters, digits, '.', '-' and single '_', and another name than {plans}"
        )
    old = read_json(file, _PLANS, remedy="plan again")
    wanted = configurations or [key for key, entry in old["configurations"].items() if "training" in entry]
    new = with_schedule(old, epochs=dict.fromkeys(wanted, epochs), iterations=iterations)
    new["plans_name"] = name
    target = folder / f"{name}.json"
    if not target.is_file() or json.loads(target.read_text(encoding="utf-8")) != new:
        write_json(new, target, indent=4)
    return target
