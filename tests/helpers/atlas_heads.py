"""Heads of several people on small grids, as a raw data set of CTs and as new cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from map_heads import head_numbers

LABELS = {"background": 0, "Eye_L": 1, "Eye_R": 2, "Brainstem": 3}
#: Numbers of the label map -> HU.
_HU = {0: -1000, 511: 20, 507: -90, 515: 900, 24: 5, 3: 40, 42: 40, 2: 28, 41: 28, 506: 70, 530: 40, 85: 45}
LOW_MM, HIGH_MM = np.array([-92.0, -96.0, -90.0]), np.array([92.0, 142.0, 116.0])
#: Stretch of each person's head along x, y and z.
PEOPLE = [(1.0, 1.0, 1.0), (0.95, 1.03, 0.97), (1.05, 0.98, 1.02), (0.97, 0.96, 1.04)]
SPACING_MM = (4.0, 4.4, 5.0)


def head(
    person: int,
    *,
    spacing_mm=SPACING_MM,
    angles=(0.0, 0.0, 0.0),
    axes: str = "LPS",
    offset_mm=(0.0, 0.0, 0.0),
    low_mm=LOW_MM,
    high_mm=HIGH_MM,
    seed: int = 0,
) -> tuple[sitk.Image, sitk.Image]:
    """CT and label map. The grid lies at an angle to the head's axes, which are those of the patient."""
    low_mm, high_mm, spacing = np.asarray(low_mm), np.asarray(high_mm), np.asarray(spacing_mm)
    direction = np.reshape(sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix(), (3, 3))
    size = np.ceil((high_mm - low_mm) / spacing).astype(int)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), axis=-1)
    origin = (low_mm + high_mm) / 2 - direction @ (spacing * (size - 1) / 2)
    points = ((index * spacing) @ direction.T + origin) / PEOPLE[person]
    numbers = head_numbers(points)
    values = np.full(numbers.shape, 30.0)
    for number, hu in _HU.items():
        values[numbers == number] = hu
    values += np.random.default_rng((person, seed)).normal(0, 8, values.shape)
    labels = np.zeros(numbers.shape, np.uint8)
    labels[(numbers == 506) & (points[..., 0] > 0)] = 1
    labels[(numbers == 506) & (points[..., 0] < 0)] = 2
    labels[(np.abs(points - (0, 40, -10)) < (14, 12, 16)).all(axis=-1)] = 3
    made = []
    for array in (values.astype(np.int16), labels):
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
        image.SetSpacing(spacing.tolist())
        image.SetOrigin((origin + offset_mm).tolist())
        image.SetDirection(direction.ravel().tolist())
        made.append(sitk.DICOMOrient(image, axes))
    return made[0], made[1]


def write_raw(root: Path, people=(1, 2, 3), *, channel_names=None, **changes) -> Path:
    """A raw data set of the CTs of some people below `root/raw`."""
    raw = root / "raw" / "Dataset601_Atlases"
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for person in people:
        ct, labels = head(person, angles=(0.05 * person, 0.0, -0.04), offset_mm=(20.0 * person, 0.0, -15.0))
        sitk.WriteImage(ct, str(raw / "imagesTr" / f"person_{person}_0000.nii.gz"), True)
        sitk.WriteImage(labels, str(raw / "labelsTr" / f"person_{person}.nii.gz"), True)
    content = {"channel_names": channel_names or {"0": "CT"}, "labels": LABELS, "file_ending": ".nii.gz", **changes}
    (raw / "dataset.json").write_text(json.dumps(content))
    return raw


def dsc(a: sitk.Image, b: sitk.Image, value: int) -> float:
    one, other = (sitk.GetArrayViewFromImage(image) == value for image in (a, b))
    return float(2 * np.count_nonzero(one & other) / max(1, np.count_nonzero(one) + np.count_nonzero(other)))
