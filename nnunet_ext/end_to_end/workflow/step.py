"""A step of a workflow as plain data: a command that a user could type, its files and what it needs.

`study`, and whatever else runs such a list, learn from it all that they know. All paths are relative to the folder of
the workflow, in which every command runs, unless they lie outside of it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Resources:
    """What a step takes.

    Attributes:
        processes: Processes that compute at a time.
        memory_gb: Memory of the machine, all processes together.
        gpus: GPUs that it has for itself.
        minutes: Time that it is expected to take. It is no limit.
    """

    processes: int = 1
    memory_gb: float = 4.0
    gpus: int = 0
    minutes: float = 5.0


@dataclass(frozen=True)
class Step:
    """One command of a workflow.

    Attributes:
        name: Also of its log. Letters, digits, `.`, `_` and `-`.
        title: For people.
        command: Words of the command, without those of `how`.
        outputs: Files and folders that are there when it has ended well.
        inputs: Files and folders that it reads. Those that are outputs of other steps decide the order.
        how: More words of the command, which change how it is computed and not what: `-np 2`.
        resources: What it takes.
        lasting: Whether its outputs take so long to make that no run may remove them.
        after: Names of steps of the list that come before it, besides those whose outputs it reads. Several steps may
            write into one folder, which is the output of the step after them all.
        removes: Files and folders that are removed whenever its command begins. None are its outputs, if another command
            or other inputs made them.
    """

    name: str
    title: str
    command: tuple[str, ...]
    outputs: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    how: tuple[str, ...] = ()
    resources: Resources = field(default_factory=Resources)
    lasting: bool = False
    after: tuple[str, ...] = ()
    removes: tuple[str, ...] | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The whole command."""
        return (*self.command, *self.how)

    @property
    def line(self) -> str:
        """The whole command as a user types it."""
        return shlex.join(self.words)


def producers(steps: Sequence[Step]) -> dict[str, tuple[str, ...]]:
    """Name of each step -> names of the steps that it comes after, by their outputs or their names.

    Raises:
        ValueError: If a name is there twice or unusable, an output has two steps, or a step needs what comes later.
    """
    makers: dict[str, str] = {}
    found: dict[str, tuple[str, ...]] = {}
    all_outputs = {output for step in steps for output in step.outputs}
    names = {step.name for step in steps}
    for step in steps:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", step.name):
            raise ValueError(f"step {step.name!r}: use letters, digits, '.', '_' and '-' for its name")
        if step.name in found:
            raise ValueError(f"two steps have the name {step.name}")
        for path in step.inputs:
            if path in all_outputs and path not in makers:
                raise ValueError(f"step {step.name} needs {path}, which a later step makes")
        if later := [name for name in step.after if name in names and name not in found]:
            raise ValueError(f"step {step.name} comes after {later[0]}, which is a later step")
        before = [*(makers[path] for path in step.inputs if path in makers), *(n for n in step.after if n in names)]
        found[step.name] = tuple(dict.fromkeys(before))
        for path in step.outputs:
            if path in makers:
                raise ValueError(f"{path} is made by two steps, {makers[path]} and {step.name}")
            makers[path] = step.name
    return found


def fingerprints(steps: Sequence[Step]) -> dict[str, str]:
    """Name of each step -> hash of its command and of all commands before it that decide its inputs.

    Errors as for `producers`.
    """
    before = producers(steps)
    found: dict[str, str] = {}
    for step in steps:
        content = json.dumps([step.command, [found[name] for name in before[step.name]]])
        found[step.name] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return found


def absolute_words(words: Sequence[str]) -> tuple[str, ...]:
    """Words of a command that runs elsewhere: those that name something here name it from there, too."""
    return tuple(
        str(Path(word).resolve()) if not word.startswith("-") and Path(word).exists() else word for word in words
    )
