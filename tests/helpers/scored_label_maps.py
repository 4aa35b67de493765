"""Label maps of a lens and a chiasm, on a small oblique grid, and their scores."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.evaluation.evaluating import evaluate

SHAPE = (5, 7, 11)
SPACING_MM = (3.0, 0.8, 0.7)
DIAGONAL_MM = math.sqrt(15.0**2 + 5.6**2 + 7.7**2)
LABELS = {"background": 0, "Lens_L": 1, "OpticChiasm": 2}

LENS = np.s_[2, 2:4, 2:6]  # 8 voxels
CHIASM = np.s_[1:3, 5, 7:9]  # 4 voxels


def label_map(*regions: tuple, shape: tuple[int, int, int] = SHAPE, dtype: type = np.uint8) -> np.ndarray:
    out = np.zeros(shape, dtype)
    for region, value in regions:
        out[region] = value
    return out


REFERENCE = label_map((LENS, 1), (CHIASM, 2))
HALF_LENS = label_map((np.s_[2, 2:4, 2:4], 1), (CHIASM, 2))  # DSC 2 * 4 / (4 + 8) = 66.7


def image(array: np.ndarray, *, oblique: bool = True) -> sitk.Image:
    out = sitk.GetImageFromArray(array)
    out.SetSpacing(SPACING_MM[::-1])
    out.SetOrigin((-12.5, 31.0, 7.25))
    if oblique:
        turn = sitk.Euler3DTransform((0, 0, 0), 0.20, -0.15, 0.10)
        out.SetDirection(turn.GetMatrix())
    return out


def write(folder: Path, case: str, content: np.ndarray | sitk.Image, ending: str = ".nii.gz") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(content if isinstance(content, sitk.Image) else image(content), str(folder / f"{case}{ending}"))


def score(folders: tuple[Path, Path, Path], **options):
    fixed = {"labels": LABELS, "tolerance_mm": 1.0, "n_processes": 1, "show_progress": False}
    return evaluate(*folders, **(fixed | options))
