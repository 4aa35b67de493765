"""Phantoms made once for all test processes of a run: each takes seconds, and many tests need one and only read it."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from nnunet_ext.phantom import making as phantom
from nnunet_ext.phantom.one_case import Phantom


class PhantomStore:
    """Keeps what `make_phantom` returns, a file per phantom below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._make = folder, phantom.make_phantom
        folder.mkdir(exist_ok=True)

    def __call__(
        self, seed: int, case: int, *, size: str, unregistered: bool = False, with_truth: bool = False
    ) -> Phantom:
        """The phantom that `make_phantom` makes of these options, a copy of the caller's own."""
        plain = self.folder / f"{seed}_{case}_{size}_{unregistered}"
        full = plain.with_name(f"{plain.name}_with_truth")
        with FileLock(f"{plain}.lock"):
            file = full if with_truth or full.is_file() else plain
            if not file.is_file():
                made = self._make(seed, case, size=size, unregistered=unregistered, with_truth=with_truth)
                file.write_bytes(pickle.dumps(made))
        found = pickle.loads(file.read_bytes())
        return found if with_truth else replace(found, truth=None)

    def write(self, out: Path, **options) -> list[Path]:
        """What `make_phantoms` writes, from the phantoms that are kept."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(phantom, "make_phantom", self)
            return phantom.make_phantoms(out, n_processes=1, show_progress=False, **options)
