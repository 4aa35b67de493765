"""Small oblique heads as folders of images, and their conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.dataset_conversion.convert import convert
from nnunet_ext.images.reading import read_image

DATA = Path(__file__).parents[3] / "shared" / "data"
SHAPE, SPACING_MM = (30, 36, 44), (6.0, 5.5, 5.0)


def oblique() -> tuple[float, ...]:
    transform = sitk.Euler3DTransform()
    transform.SetRotation(0.08, -0.1, 0.12)
    return transform.GetMatrix()


def to_image(array: np.ndarray, code: str = "LPS") -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    image.SetDirection(oblique())
    image.SetOrigin((-110.0, -95.0, 300.0))
    return sitk.DICOMOrient(image, code)


def volumes(seed: int = 0) -> dict[str, np.ndarray]:
    """CT, T1, T2 and labels 1..7 of a small oblique head, arrays in canonical order, L on the larger x."""
    rng = np.random.default_rng(seed)
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPE, SPACING_MM, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    head = np.sqrt((z / 78) ** 2 + (y / 85) ** 2 + (x / 75) ** 2) < 1
    ct = np.where(head, 40, -1000) + rng.integers(-10, 10, SHAPE)
    t1 = np.where(head, 120, 2) + rng.integers(0, 10, SHAPE)
    label = np.zeros(SHAPE, dtype=np.uint8)
    for value, (k, j, i) in enumerate(
        [(15, 6, 28), (15, 6, 13), (15, 4, 28), (15, 4, 13), (15, 10, 26), (15, 10, 15), (15, 14, 21)], start=1
    ):
        label[k : k + 2, j : j + 2, i : i + 2] = value
    return {"CT": ct.astype(np.int16), "T1": t1.astype(np.int16), "T2": (260 - t1).astype(np.int16), "label": label}


def write_case(folder: Path, *, seed: int = 0, code: str = "LPS", ending: str = ".nii.gz", skip=(), **arrays) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in {**volumes(seed), **arrays}.items():
        if name not in skip and array is not None:
            sitk.WriteImage(to_image(array, code), str(folder / f"{name}{ending}"))
    return folder


def run(source: Path, **options):
    quick = {"n4": False, "preview": False, "n_processes": 1, "show_progress": False}
    options = {"dataset_id": 501, "name": "Heads", **quick, **options}
    return convert(source, raw_folder=source.parent / "raw", **options)


def files_of(dataset: Path, case: str) -> list[str]:
    return sorted(p.relative_to(dataset).as_posix() for p in dataset.rglob("*") if p.is_file() and case in p.name)


def array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(read_image(path))


def write_masks(folder: Path, masks: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, mask in masks.items():
        sitk.WriteImage(to_image(mask.astype(np.uint8) * 255), str(folder / f"{name}.nii.gz"))


def truncate(path: Path, share: float = 0.6) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
