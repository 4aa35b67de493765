"""A small oblique head with masks of two organs, as files of a case, and its conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.dataset_conversion.convert import convert
from nnunet_ext.images.geometry import orientation_code
from nnunet_ext.images.reading import read_image
from nnunet_ext.labels.table import default_label_table

SHAPE, SPACING_MM = (9, 12, 14), (7.0, 4.5, 3.6)  # z, y, x; boxes of 12 voxels are eyes of 1.4 ml
TABLE = default_label_table()


def grid(code: str = "LPS") -> sitk.Image:
    image = sitk.Image(SHAPE[::-1], sitk.sitkUInt8)
    image.SetSpacing(SPACING_MM[::-1])
    turn = sitk.Euler3DTransform((0, 0, 0), 0.08, -0.1, 0.12)
    image.SetDirection(turn.GetMatrix())
    image.SetOrigin((-20.0, 15.5, 300.25))
    return sitk.DICOMOrient(image, code)


def like(values: np.ndarray, where: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(values)
    image.CopyInformation(where)
    return image


def masks(where: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Two boxes that overlap in one voxel, left one on the larger x of LPS."""
    left, right = (np.zeros(SHAPE, np.uint8) for _ in range(2))
    left[3:5, 4:6, 9:12], right[4:6, 5:7, 3:6] = 1, 1
    right[4, 5, 9] = 1
    turned = (sitk.DICOMOrient(like(mask, grid()), orientation_code(where)) for mask in (left, right))
    return tuple(map(sitk.GetArrayFromImage, turned))


def write_ct(root: Path) -> Path:
    """`src/p7` with a CT of grey values; its labels are still to come."""
    folder = root / "src" / "p7"
    folder.mkdir(parents=True)
    values = np.random.default_rng(1).integers(-900, 900, SHAPE).astype(np.int16)
    sitk.WriteImage(like(values, grid()), str(folder / "CT.nii.gz"))
    return folder


def run(case: Path, **more):
    options = {
        "modalities": ["CT"],
        "n4": False,
        "clean_ct": False,
        "allow_non_hu": True,
        "n_processes": 1,
        "preview": False,
    }
    raw = case.parent.parent / "raw"
    summary = convert(case.parent, dataset_id=7, name="X", raw_folder=raw, show_progress=False, **{**options, **more})
    found = sorted(summary.dataset_folder.glob("labelsT[rs]/*.nii.gz"))
    return summary, sitk.GetArrayFromImage(read_image(found[0])) if found else None
