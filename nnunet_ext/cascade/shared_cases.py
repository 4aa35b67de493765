"""Cases that several processes of one machine hold together, in a file that all of them map into memory."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch.distributed as dist

from nnunet_ext.cascade.roi_dataset import InMemoryDataset, StoredCase
from nnunet_ext.files import first_line

#: Names of a `StoredCase`'s arrays.
ARRAYS = ("data", "seg", "localizer_map")
#: Bytes to which every array is aligned in the file.
ALIGNMENT = 64


def hold_together(dataset: InMemoryDataset, limit_bytes: float, folder: Path | None = None) -> tuple[int, str | None]:
    """Like `InMemoryDataset.hold` in every process of a group, but with one copy for all of them.

    Rank 0 writes the cases to a file, all map it, and it is deleted. What is mapped stays until the last process ends. Every
    process of the group must call this at the same time, on the same machine.

    Args:
        dataset: The same in every process.
        limit_bytes: For all cases, as in `InMemoryDataset.hold`.
        folder: Local folder for the file. None is the system's for temporary files (`TMPDIR`).

    Returns:
        Bytes that the cases take, and why none is held, if the file could not be written.
    """
    plan: list = [None, 0, None]  # folder of the files, bytes, what went wrong
    if dist.get_rank() == 0:
        try:
            plan[0] = tempfile.mkdtemp(prefix="nnunet_ext_cases_", dir=folder)
            plan[1] = write_cases(dataset.cases_to_hold(limit_bytes), Path(plan[0]))
        except OSError as error:
            plan[1:] = 0, f"the cases are read from disk: {first_line(error)} in {folder or tempfile.gettempdir()}"
    dist.broadcast_object_list(plan, src=0)
    place, n_bytes, problem = plan
    try:
        if problem is None:
            dataset.held = read_cases(Path(place))
        dist.barrier()
    finally:
        if dist.get_rank() == 0 and place is not None:
            shutil.rmtree(place, ignore_errors=True)
    return n_bytes, problem


def write_cases(cases: Iterable[tuple[str, StoredCase]], folder: Path) -> int:
    """Write cases one after the other, arrays to `arrays`, all else to `index`. Returns the bytes of the arrays."""
    index, used = [], 0
    with (folder / "arrays").open("wb") as file:
        for name, case in cases:
            places = {}
            for key in ARRAYS:
                if (array := getattr(case, key)) is None:
                    continue
                array = np.ascontiguousarray(array)
                file.write(bytes(-file.tell() % ALIGNMENT))
                places[key] = (file.tell(), array.dtype.str, array.shape)
                file.write(array.data)
                used += array.nbytes
            index.append((name, places, replace(case, data=np.empty(0), seg=np.empty(0), localizer_map=None)))
    (folder / "index").write_bytes(pickle.dumps(index))
    return used


def read_cases(folder: Path) -> dict[str, StoredCase]:
    """The cases that `write_cases` has written just now. Their arrays can't be written to."""
    index = pickle.loads((folder / "index").read_bytes())
    file = folder / "arrays"
    content = (
        np.memmap(file, mode="r", dtype=np.uint8).view(np.ndarray) if file.stat().st_size else np.empty(0, np.uint8)
    )

    def array(offset: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return content[offset : offset + n_bytes].view(dtype).reshape(shape)

    return {
        name: replace(case, **{key: array(*place) for key, place in places.items()}) for name, places, case in index
    }
