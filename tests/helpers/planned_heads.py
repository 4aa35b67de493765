"""A synthetic raw dataset of six heads in three spacings, one of them stored in another orientation, to be planned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.rivals.deeplab import library_problem

NAME = "Dataset501_Heads"
LABELS = {"background": 0, "Eye_L": 1, "Eye_R": 2, "OpticChiasm": 3}
EXTENT_MM = (66.0, 62.0, 58.0)  # x, y, z
#: Organs in mm in LPS, from the head's centre: left is +x, posterior +y.
ORGANS_MM = {1: ((10, -14, 4), 4.5), 2: ((-10, -14, 4), 4.5), 3: ((0, 4, -4), 3.5)}
SPACINGS_MM = [(1.5, 1.6, 3.0), (1.7, 1.5, 2.8), (1.6, 1.7, 3.1)]  # x, y, z
FINEST_ZYX = (2.8, 1.5, 1.5)
OBLIQUE = sitk.Euler3DTransform((0, 0, 0), 0.10, -0.08, 0.12).GetMatrix()
RIVALS = ["3d_anatomynet", "3d_focusnet", *(["2d_deeplab"] if library_problem() is None else [])]
STUDY_LOCALIZER = "3d_localizer_80x256x256"
STUDY = [
    "3d_fullres_80x256x256", STUDY_LOCALIZER,
    "3d_cascade_32x128x128", "3d_organ_crops_32x128x128", "3d_cascade_32x96x96", "3d_organ_crops_32x96x96",
    "3d_cascade_16x64x64", "3d_organ_crops_16x64x64",
]  # fmt: skip
CONFIGURATIONS = ["3d_lowres", "3d_fullres", "3d_cascade_fullres", *STUDY, *RIVALS]
#: A grid on which these small heads are as many voxels as real ones on the study's.
FINE_ZYX = [0.7, 0.23, 0.23]


def head(spacing_mm, *, seed: int = 0, shift_mm=(0.0, 0.0, 0.0), direction=OBLIQUE) -> tuple[list, sitk.Image]:
    """CT and T1 of a head of 20 mm radius in air, and its label map; axes in (oblique) LPS order."""
    size = [round(e / s) for e, s in zip(EXTENT_MM, spacing_mm, strict=True)]
    axes = [(np.arange(n) + 0.5) * s - n * s / 2 for n, s in zip(size, spacing_mm, strict=True)]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    points = np.stack([x, y, z], -1) - shift_mm
    inside = (points**2).sum(-1) <= 20.0**2
    noise = np.random.default_rng(seed).standard_normal(inside.shape)
    labels = np.zeros(inside.shape, np.uint8)
    for value, (centre, radius) in ORGANS_MM.items():
        labels[((points - centre) ** 2).sum(-1) <= radius**2] = value
    arrays = [np.where(inside, 40.0, -1000.0) + 5 * noise, np.where(inside, 300.0, 5.0) + 3 * noise, labels]
    made = []
    for array in arrays:
        image = sitk.GetImageFromArray(array if array is labels else array.astype(np.float32))
        image.SetSpacing(spacing_mm)
        image.SetOrigin((-30.0, 12.0, 5.0))
        image.SetDirection(direction)
        made.append(image)
    return made[:2], made[2]


def write_case(raw: Path, case: str, images: list, label: sitk.Image) -> None:
    for i, image in enumerate(images):
        sitk.WriteImage(image, str(raw / "imagesTr" / f"{case}_{i:04d}.nii.gz"))
    sitk.WriteImage(label, str(raw / "labelsTr" / f"{case}.nii.gz"))


def write_dataset_json(raw: Path, **changes) -> None:
    cases = sorted(f.name.removesuffix(".nii.gz") for f in (raw / "labelsTr").glob("*.nii.gz"))
    content = {
        "channel_names": {"0": "CT", "1": "T1"},
        "labels": LABELS,
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        # Named, so that nnU-Net does not start twelve processes to list them.
        "dataset": {
            c: {"images": [f"imagesTr/{c}_{i:04d}.nii.gz" for i in range(2)], "label": f"labelsTr/{c}.nii.gz"}
            for c in cases
        },
        **changes,
    }
    (raw / "dataset.json").write_text(json.dumps(content))


def make_raw(root: Path, *, spacings=SPACINGS_MM, n: int = 6) -> Path:
    """The raw dataset and its fingerprint; returns the raw folder."""
    raw, preprocessed = root / "raw" / NAME, root / "preprocessed" / NAME
    for folder in (raw / "imagesTr", raw / "labelsTr", preprocessed, root / "results"):
        folder.mkdir(parents=True)
    for i in range(n):
        images, label = head(spacings[i % len(spacings)], seed=i, shift_mm=(i - 2.0, 0.5 * i, -i / 2))
        if i == 4:  # the same head, other axes
            images, label = [sitk.DICOMOrient(x, "PIR") for x in images], sitk.DICOMOrient(label, "PIR")
        write_case(raw, f"head_{i:02d}", images, label)
    write_dataset_json(raw)
    statistics = dict.fromkeys(("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5"), 1.0)
    (preprocessed / "dataset_fingerprint.json").write_text(
        json.dumps(
            {
                "foreground_intensity_properties_per_channel": {"0": statistics, "1": statistics},
                "median_relative_size_after_cropping": 0.3,  # nnU-Net would normalise inside the nonzero mask
                "spacings": [[s[2], s[1], s[0]] for s in spacings],
                "shapes_after_crop": [[20, 40, 40]] * len(spacings),
            }
        )
    )
    return raw


def set_paths(monkeypatch, root: Path) -> None:
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(root / name))


def plans_file(root: Path, name: str = "CascadeOARPlansSmall") -> Path:
    return root / "preprocessed" / NAME / f"{name}.json"
