"""Two tiny phantoms, as files and as DICOM, and the command that converts them; `helpers/fault_inputs.py` spoils copies."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from fault_inputs import CASES, LABELS
from filelock import FileLock
from shared_phantoms import PhantomStore

from nnunet_ext.cli.main import main
from nnunet_ext.phantom import making as phantom
from nnunet_ext.phantom.one_case import Phantom

#: Of the phantoms.
N_SLICES = 43


@pytest.fixture(scope="session")
def phantoms(shared_phantom: PhantomStore) -> Path:
    """The folders `files` and `dicom` with the same two phantoms, made once for all test processes of a run."""
    root = shared_phantom.folder / "slabs"
    with pytest.MonkeyPatch.context() as patch, FileLock(f"{root}.lock"):
        patch.setattr(phantom, "make_phantom", functools.partial(_slab, shared_phantom))
        for name, dicom in (("files", False), ("dicom", True)):
            phantom.make_phantoms(root / name, n_cases=len(CASES), size="tiny", dicom=dicom, n_processes=1)
    return root


def _slab(make: Callable, *options, **more) -> Phantom:
    """The slices around a phantom's organs: half of the files to write, and to read in every test."""
    whole = make(*options, **more)
    held = np.flatnonzero(sitk.GetArrayFromImage(whole.label).any(axis=(1, 2)))
    first = int(held.mean()) - N_SLICES // 2
    images = {name: getattr(whole, name)[:, :, first : first + N_SLICES] for name in ("ct", "t1", "t2", "label")}
    return dataclasses.replace(whole, **images)


@pytest.fixture(scope="session")
def phantom_files(phantoms: Path) -> Path:
    """`CASE/{CT,T1,T2,label}.nii.gz` of two tiny phantoms; read only."""
    return phantoms / "files"


@pytest.fixture(scope="session")
def phantom_dicom(phantoms: Path) -> Path:
    """`CASE/{CT,T1,T2}/*.dcm` and `CASE/RTSTRUCT.dcm` of the same phantoms; read only."""
    return phantoms / "dicom"


@dataclass
class Converter:
    """`nnunet_ext convert` in this process; what it printed and wrote."""

    raw: Path
    output: Callable[[], tuple[str, str]]

    @property
    def dataset(self) -> Path:
        return self.raw / "Dataset901_Faults"

    def __call__(self, source: Path, *more: str | Path, clean: bool = False) -> SimpleNamespace:
        """Exit code, standard output and error of the command; without the bias field unless `clean`, to be quick."""
        shutil.rmtree(self.dataset, ignore_errors=True)
        self.dataset.with_name(f"{self.dataset.name}.key.csv").unlink(missing_ok=True)
        quick = [] if clean else ["--no-n4", "--no-clean"]
        command = ["convert", source, "-d", "901", "-n", "Faults", "-np", "1", "--no-preview", *quick, *more]
        code = main([str(word) for word in command])
        captured = self.output()
        return SimpleNamespace(code=code, out=captured[0], err=captured[1], text=captured[0] + captured[1])

    def files(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.dataset / folder).glob("*"))

    def labels(self, case: str, split: str = "Tr") -> np.ndarray:
        """The converted label map, `(Z, Y, X)`."""
        path = self.dataset / f"labels{split}" / f"{case}.nii.gz"
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))

    def voxels(self, case: str, split: str = "Tr") -> dict[str, int]:
        array = self.labels(case, split)
        return {organ: int((array == value).sum()) for organ, value in LABELS.items() if value}

    def record(self, case: str) -> dict:
        """The case's provenance file."""
        return json.loads((self.dataset / "provenance" / f"{case}.json").read_text(encoding="utf-8"))


@pytest.fixture
def converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Converter:
    """`converter(SRC, "--list")` converts into a raw folder of this test."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))

    def output() -> tuple[str, str]:
        captured = capsys.readouterr()
        return captured.out, captured.err

    return Converter(tmp_path / "raw", output)
