"""Inputs that public bug reports of this field describe, made from copies of two tiny phantoms."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from nnunet_ext.labels.organs import ORGANS

CASES = ("phantom_000", "phantom_001")
LABELS = {"background": 0, **{organ: value for value, organ in enumerate(ORGANS, start=1)}}


def copy_cases(source: Path, target: Path, cases: Sequence[str] = CASES[:1]) -> Path:
    """A folder with copies of some phantoms, to spoil."""
    for case in cases:
        shutil.copytree(source / case, target / case)
    return target


def edit(path: Path, change: Callable[[pydicom.Dataset], object]) -> None:
    """Change a DICOM file in place, whatever the standard says about the values."""
    dataset = pydicom.dcmread(path, force=True)
    change(dataset)
    dataset.save_as(path)


def slices(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.dcm"))


def write_like(values: np.ndarray, image: sitk.Image, path: Path) -> Path:
    """An array `(Z, Y, X)` on the grid of an image."""
    out = sitk.GetImageFromArray(values)
    out.CopyInformation(image)
    sitk.WriteImage(out, str(path), True)
    return path


def scored(phantom_files: Path, folder: Path, n_cases: int = 2) -> Path:
    """`folder` with `labelsTs`, `pred` (the references moved by one voxel) and a `dataset.json` for both."""
    for part in ("labelsTs", "pred"):
        (folder / part).mkdir(parents=True)
    for number in range(n_cases):
        source = phantom_files / CASES[number % len(CASES)] / "label.nii.gz"
        shutil.copy(source, folder / "labelsTs" / f"case_{number:03d}.nii.gz")
        image = sitk.ReadImage(str(source))
        moved = np.roll(sitk.GetArrayFromImage(image), 1, axis=2)
        write_like(moved, image, folder / "pred" / f"case_{number:03d}.nii.gz")
    content = {"channel_names": {"0": "CT", "1": "T1", "2": "T2"}, "labels": LABELS, "numTraining": 2}
    for place in (folder, folder / "pred"):
        (place / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz"}), encoding="utf-8")
    return folder


def set_raw(dataset: pydicom.Dataset, keyword: str, value: bytes) -> None:
    """Put the bytes of a value, whatever its type and the character set say."""
    tag = Tag(tag_for_keyword(keyword))
    value += b" " * (len(value) % 2)
    vr = dictionary_VR(tag)
    dataset._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, True, True)
