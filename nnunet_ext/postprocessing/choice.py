"""The postprocessing that a model brings, from its JSON files, which may have been made by anybody.

Ours is chosen per organ by `nnunet_ext postprocessing` and lies in the model's folder as `organ_postprocessing.json`. The
model's `dataset.json` holds a copy, because `nnUNetv2_export_model_to_zip` packs that file and not ours.

nnU-Net's is chosen by `nnUNetv2_find_best_configuration`, which leaves `postprocessing.json` and `postprocessing.pkl`. The
second is never opened, because unpickling runs code. The first names functions, and the only one that nnU-Net 2.8.1 has is
the only one that is called here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ext.files import Shape, misfit, read_json, shown
from nnunet_ext.installation.models import POSTPROCESSING
from nnunet_ext.labels.pairs import dataset_pairs
from nnunet_ext.postprocessing.steps import NUMBERS, OWN_SIDE, Change, Step, postprocessed

FILE = POSTPROCESSING
#: Of the model's `dataset.json`.
KEY = Path(FILE).stem
#: The only function that nnU-Net's `postprocessing.json` may name.
STOCK_FUNCTION = "remove_all_but_largest_component_from_segmentation"
#: More steps for an organ make no sense.
MOST_STEPS = 16

_CHOICE_JSON: Shape = {"organs": {str: [dict]}}
_STOCK_JSON: Shape = {"postprocessing_fns": [str], "postprocessing_kwargs": [dict]}
_REMEDY = "choose it again with nnunet_ext postprocessing, or predict with --no-postprocessing"
_STOCK_REMEDY = "run nnUNetv2_find_best_configuration again, or predict with --no-postprocessing"


@dataclass(frozen=True)
class Postprocessing:
    """What a model brings.

    Attributes:
        source: The file it was read from, relative to the model.
        steps: Organ -> steps, ours.
        largest_of: Groups of label values, nnU-Net's. Of each group, taken together, the largest component stays.
        pairs: Names of left and right organs.
    """

    source: str
    steps: Mapping[str, Sequence[Step]] = field(default_factory=dict)
    largest_of: Sequence[Sequence[int]] = ()
    pairs: Sequence[tuple[str, str]] = ()

    def apply(
        self, label_map: np.ndarray, labels: Mapping[str, int], *, spacing_mm: Sequence[float]
    ) -> tuple[np.ndarray, dict[str, Change]]:
        """See `postprocessed`."""
        if not self.largest_of:
            return postprocessed(label_map, self.steps, labels, spacing_mm=spacing_mm, pairs=self.pairs)
        from nnunetv2.postprocessing.remove_connected_components import (
            remove_all_but_largest_component_from_segmentation,
        )

        result = label_map
        for values in self.largest_of:
            result = remove_all_but_largest_component_from_segmentation(result, list(values))
        changes = {}
        for organ, value in labels.items():
            before, after = (int(np.count_nonzero(one == value)) for one in (label_map, result))
            if value != 0 and after < before:
                changes[organ] = Change(0, before - after, after == 0)
        return result, changes

    def to_json(self) -> dict[str, Any]:
        """For `predictions.json`, which refuses to mix predictions with different ones."""
        return {
            "file": self.source,
            "organs": {organ: [step.to_json() for step in steps] for organ, steps in self.steps.items()},
            "largest_of": [list(values) for values in self.largest_of],
        }


def read_postprocessing(model: Path, dataset_json: Mapping) -> Postprocessing | None:
    """The postprocessing of a trained model. Ours comes before nnU-Net's. None if it has neither.

    Args:
        model: Folder of the trained configuration.
        dataset_json: The model's.

    Raises:
        ValueError: If a file is damaged, or asks for anything but known steps on the model's organs.
    """
    labels = dataset_json["labels"]
    pairs = dataset_pairs(dataset_json, where=str(Path(model, "dataset.json")))
    file = Path(model, FILE)
    if file.is_file():
        content = read_json(file, _CHOICE_JSON, remedy=_REMEDY)
        return Postprocessing(FILE, read_steps(content, labels, str(file), pairs), pairs=pairs)
    if KEY in dataset_json:
        where = f"{model / 'dataset.json'}: {KEY}"
        steps = read_steps(dataset_json[KEY], labels, where, pairs)
        return Postprocessing(f"dataset.json: {KEY}", steps, pairs=pairs)
    found = sorted(Path(model).glob("crossval_results_folds_*/postprocessing.json"), key=lambda path: len(str(path)))
    if not found:
        return None
    content = read_json(found[-1], _STOCK_JSON, remedy=_STOCK_REMEDY)  # of most folds
    source = found[-1].relative_to(model).as_posix()
    return Postprocessing(source, largest_of=_stock_groups(content, labels, found[-1]))


def read_steps(
    content: object, labels: Mapping[str, Any], where: str, pairs: Sequence[tuple[str, str]] = ()
) -> dict[str, tuple[Step, ...]]:
    """Organ -> steps of a choice. Organs without a step are left out.

    Args:
        content: As JSON has it.
        labels: `labels` of the model's `dataset.json`.
        where: File, for messages.
        pairs: Names of left and right organs.

    Raises:
        ValueError: Naming the file, the organ and the value that is not what it should be.
    """
    if wrong := misfit(content, _CHOICE_JSON):
        raise ValueError(f"{where} is not what it should be: {wrong}; {_REMEDY}")
    assert isinstance(content, dict)  # as `misfit` says
    found = {}
    for organ, steps in content["organs"].items():
        value = labels.get(organ)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{where} names '{organ}', which is no organ of the model; {_REMEDY}")
        if len(steps) > MOST_STEPS:
            raise ValueError(f"{where}: '{organ}' has {len(steps)} steps, more than {MOST_STEPS}; {_REMEDY}")
        if steps:
            found[organ] = tuple(_step(step, f"{where}: '{organ}'") for step in steps)
            if any(step.name == OWN_SIDE for step in found[organ]) and not any(organ in pair for pair in pairs):
                raise ValueError(f"{where}: '{organ}' has the step {OWN_SIDE}, and no left or right partner; {_REMEDY}")
    return found


def _step(content: Mapping[str, Any], where: str) -> Step:
    name = content.get("step")
    if not isinstance(name, str) or name not in NUMBERS:
        raise ValueError(f"{where} has the step {shown(name)}, which is none of {', '.join(NUMBERS)}; {_REMEDY}")
    stated = NUMBERS[name]
    if content.keys() != {"step", *(() if stated is None else stated[:1])}:
        raise ValueError(f"{where}: the step {shown(dict(content))} has other entries than it needs; {_REMEDY}")
    if stated is None:
        return Step(name)
    number = content[stated[0]]
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 < number <= stated[1]:
        raise ValueError(
            f"{where}: {stated[0]} of {name} is {shown(number)}; it must be above 0 and at most {stated[1]:g}; {_REMEDY}"
        )
    return Step(name, float(number))


def _stock_groups(content: Mapping[str, Any], labels: Mapping[str, Any], file: Path) -> tuple[tuple[int, ...], ...]:
    """Groups of label values of nnU-Net's `postprocessing.json`."""
    functions, arguments = content["postprocessing_fns"], content["postprocessing_kwargs"]
    if len(functions) != len(arguments):
        raise ValueError(f"{file} names {len(functions)} functions and {len(arguments)} arguments; {_STOCK_REMEDY}")
    known = {value for value in labels.values() if isinstance(value, int) and value > 0}
    groups = []
    for function, given in zip(functions, arguments, strict=True):
        if function != STOCK_FUNCTION:
            raise ValueError(f"{file} names the function {shown(function)}, not {STOCK_FUNCTION}; {_STOCK_REMEDY}")
        if not {"labels_or_regions"} <= given.keys() <= {"labels_or_regions", "background_label"}:
            raise ValueError(f"{file}: the arguments {shown(given)} are not those of {STOCK_FUNCTION}; {_STOCK_REMEDY}")
        values = _flat(given["labels_or_regions"])
        if given.get("background_label", 0) != 0 or not values or not set(values) <= known:
            raise ValueError(
                f"{file}: {shown(given)} names other labels than the model's {sorted(known)}; {_STOCK_REMEDY}"
            )
        groups.append(tuple(values))
    return tuple(groups)


def _flat(values: object) -> list[int]:
    """Label values of a label, a region, or a list of them. Nothing if there is anything else."""
    if isinstance(values, int) and not isinstance(values, bool):
        return [values]
    if not isinstance(values, list):
        return []
    parts = [_flat(value) for value in values]
    return [value for part in parts for value in part] if all(parts) else []
