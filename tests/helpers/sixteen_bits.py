"""What 16 bits change in masks, by `nnunet_ext predict` and by nnU-Net's own prediction, next to 32 bits.

    python tests/helpers/sixteen_bits.py MODEL IMAGES OUT

MODEL is the folder of a trained segmenter, with its localizer in the folder beside it, and IMAGES a folder of
`<case>_0000.nii.gz`, ... in the form of the training images. On a CPU, autocast computes in the format of a GPU (float16)
or of a processor (bfloat16), with other rounding than a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_ext import CascadePredictor
from nnunet_ext.images.file_names import image_stem

PRECISIONS = ("float32", "bfloat16", "float16")


def cases_of(images: Path) -> dict[str, list[Path]]:
    files = sorted(images.glob("*_[0-9][0-9][0-9][0-9].nii.gz"))
    cases: dict[str, list[Path]] = {}
    for file in files:
        cases.setdefault(str(image_stem(file)).rpartition("_")[0], []).append(file)
    return cases


def predict_ours(
    model: Path, images: Path, out: Path, precision: str, folds: Sequence[int | str] | None = None
) -> None:
    predictor = CascadePredictor(model, folds=folds, device=torch.device("cpu"), full_precision=True)
    predictor.precision = precision
    regrown = []
    for case, files in cases_of(images).items():
        channels = dict(zip(predictor.channels, files, strict=True))
        if predictor.predict_files(channels, out / f"{case}.nii.gz").regrown:
            regrown.append(case)
    return regrown


def predict_stock(
    model: Path,
    images: Path,
    out: Path,
    precision: str,
    folds: Sequence[int | str] | None = None,
    located: Path | None = None,
) -> None:
    """What `nnUNetv2_predict --disable_tta` computes, in this process. `located` holds the localizer's masks."""
    out.mkdir(parents=True)
    with contextlib.redirect_stdout(None):
        stage = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
        stage.initialize_from_trained_model_folder(str(model), use_folds=folds)
        with torch.autocast("cpu", getattr(torch, precision), enabled=precision != "float32"):
            stage.predict_from_files_sequential(
                [[str(file) for file in files] for files in cases_of(images).values()],
                [str(out / case) for case in cases_of(images)],
                folder_with_segs_from_prev_stage=None if located is None else str(located),
            )


def compare(exact: Path, rounded: Path, labels: dict[str, int]) -> dict:
    """DSC in percent and the number of voxels that differ, over all cases.

    Per organ it is the mean over the cases that show it in either mask. `dsc_of_all` counts the voxels of all organs and
    cases together, so that one voxel of a lens weighs no more than one of an eye.
    """
    organs = {name: value for name, value in labels.items() if value != 0}
    dsc: dict[str, list[float]] = {name: [] for name in organs}
    different = drawn = both = either = 0
    for file in sorted(exact.glob("*.nii.gz")):
        a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / file.name))) for folder in (exact, rounded))
        different, drawn = different + int((a != b).sum()), drawn + int(((a > 0) | (b > 0)).sum())
        for name, value in organs.items():
            n, n_both = int((a == value).sum() + (b == value).sum()), int(((a == value) & (b == value)).sum())
            both, either = both + n_both, either + n
            if n:
                dsc[name].append(200 * n_both / n)
    means = {name: float(np.mean(values)) for name, values in dsc.items() if values}
    return {
        "dsc_percent": means,
        "dsc_of_all": 200 * both / either if either else float("nan"),
        "voxels_different": different,
        "voxels_drawn": drawn,
    }


def table(found: dict[str, dict[str, dict]]) -> str:
    """Markdown with a row for each way of predicting and number format."""
    lines = ["| | DSC of all voxels % | mean DSC % | lowest DSC % | voxels that differ |", "|---|---|---|---|---|"]
    for way, by_precision in found.items():
        for precision, result in by_precision.items():
            dsc = result["dsc_percent"]
            lowest = min(dsc, key=lambda name: dsc[name])
            mean, least = np.mean(list(dsc.values())), f"{dsc[lowest]:.2f} ({lowest})"
            voxels = f"{result['voxels_different']} of {result['voxels_drawn']}"
            lines.append(f"| {way}, {precision} | {result['dsc_of_all']:.2f} | {mean:.2f} | {least} | {voxels} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    a = parser.parse_args()
    plans = json.loads((a.model / "plans.json").read_text())
    name, _, configuration = a.model.name.rpartition("__")
    localizer = a.model.with_name(f"{name}__{plans['configurations'][configuration]['previous_stage']}")
    folds = [f.parent.name.removeprefix("fold_") for f in sorted(a.model.glob("fold_*/checkpoint_final.pth"))]
    for precision in PRECISIONS:
        predict_ours(a.model, a.images, a.out / "ours" / precision, precision, folds)
        predict_stock(localizer, a.images, a.out / "located" / precision, precision, folds)
        located = a.out / "located" / precision
        predict_stock(a.model, a.images, a.out / "stock" / precision, precision, folds, located)
    labels = json.loads((a.model / "dataset.json").read_text())["labels"]
    ways = {"nnunet_ext predict": "ours", "nnUNetv2_predict, both stages": "stock"}
    print(
        table(
            {
                way: {p: compare(a.out / folder / "float32", a.out / folder / p, labels) for p in PRECISIONS[1:]}
                for way, folder in ways.items()
            }
        )
    )


if __name__ == "__main__":
    main()
