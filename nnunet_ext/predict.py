"""Contour a folder of cases with both stages in one process: which cases, what becomes of each, and the record of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from batchgenerators.utilities.file_and_folder_operations import join
from nnunetv2.paths import nnUNet_results
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from tqdm import tqdm

import nnunet_ext
from nnunet_ext.cascade_predictor import CascadePredictor, choose_device

SEGMENTER = "3d_cascade_fullres"


@dataclass
class PredictionSummary:
    """What a run did: case names written, kept from an earlier run, failed (with reason), and warnings per case."""

    out: Path
    written: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)


def predict(
    *,
    dataset_id: int | str,
    images: Path,
    out: Path,
    configuration: str = SEGMENTER,
    folds: Sequence[int | str] | None = None,
    trainer: str = "CascadeOARTrainer",
    plans: str = "CascadeOARPlans",
    checkpoint: str = "checkpoint_final.pth",
    device: str | None = None,
    use_mirroring: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
) -> PredictionSummary:
    """Segment every case, with both stages in one process.

    Writes `out/<case><file ending>` on each case's own grid, `out/dataset.json` (so that `nnunet_ext evaluate` knows the
    labels, and the organs that the configuration leaves out) and `out/predictions.json` (per case: box, fallback, warnings,
    seconds). A case that fails is named and the others are finished; a case whose mask exists is skipped unless `overwrite`.

    Args:
        dataset_id: nnU-Net dataset the models were trained on: id or name.
        images: Folder with `<case>_0000<ending>`, `<case>_0001<ending>`, ..., or with one folder per case that holds one
            image per channel; those are prepared as `nnunet_ext convert` prepared the training images.
        configuration: Any configuration that is trained. Its localizer, if it has one, is the one its plan names.
        folds: Folds to average; None for all that are trained.
        device: `cuda`, `cpu` or `mps`; None for the GPU if there is one.
        use_mirroring: See `CascadePredictor`.

    Raises:
        FileNotFoundError: If the images folder, a case or a model is not there.
    """
    images, out = Path(images), Path(out)
    if not images.is_dir():
        raise FileNotFoundError(f"images folder {images} does not exist.")
    if not nnUNet_results.is_set():
        raise FileNotFoundError(
            "the environment variable nnUNet_results is not set; it names the folder of the models."
        )
    models = join(nnUNet_results, maybe_convert_to_dataset_name(dataset_id))
    predictor = CascadePredictor(
        Path(models, f"{trainer}__{plans}__{configuration}"),
        folds=folds,
        checkpoint=checkpoint,
        device=choose_device(device),
        use_mirroring=use_mirroring,
    )
    ending = predictor.dataset_json["file_ending"]
    cases, others = find_cases(images, ending)
    folders = {f.name: f for f in sorted(images.iterdir()) if f.is_dir() and not f.name.startswith(".")}
    if not cases and not folders:
        raise FileNotFoundError(
            f"no case in {images}: files must be named <case>_0000{ending}, <case>_0001{ending}, ..., or every case be a "
            "folder with one image per channel."
        )
    out.mkdir(parents=True, exist_ok=True)
    write_json(predictor.dataset_json, out / "dataset.json")
    summary = PredictionSummary(out)
    summary.warnings.update({f.name: [f"left out: not named <case>_0000{ending}"] for f in others})
    manifest_file = out / "predictions.json"
    manifest = read_manifest(manifest_file)
    manifest.update(
        {
            "nnunet_ext": nnunet_ext.__version__,
            "models": [folder.name for folder in predictor.models],
            "channels": predictor.channels,
            "use_mirroring": use_mirroring,
        }
    )
    both = sorted(set(cases) & set(folders))
    if both:
        raise ValueError(f"{both} are both files and folders in {images}; keep one of each.")
    for case, files in tqdm({**cases, **folders}.items(), desc="Predicting", unit="case", disable=not show_progress):
        output_file = out / f"{case}{ending}"
        if output_file.is_file() and not overwrite:
            summary.skipped.append(case)
            continue
        start = perf_counter()
        try:
            if isinstance(files, Path):
                result = predictor.predict_folder(files, output_file)
            else:
                result = predictor.predict_files(channel_files(case, files, predictor.channels, ending), output_file)
        except Exception as e:  # whatever is wrong with one case, the others are finished
            summary.failed[case] = f"{type(e).__name__}: {e}"
            manifest["cases"][case] = {"failed": summary.failed[case]}
        else:
            summary.written.append(case)
            if result.warnings:
                summary.warnings[case] = result.warnings
            manifest["cases"][case] = {**result.record(), "runtime_s": round(perf_counter() - start, 2)}
        write_json(manifest, manifest_file)
    return summary


def find_cases(folder: Path, ending: str) -> tuple[dict[str, list[Path]], list[Path]]:
    """Cases of an nnU-Net images folder with their files in channel order, and the files named otherwise."""
    cases: dict[str, list[Path]] = {}
    others = []
    for file in sorted(folder.glob(f"*{ending}")):
        if match := re.fullmatch(rf"(.+)_\d{{4}}{re.escape(ending)}", file.name):
            cases.setdefault(match[1], []).append(file)
        else:
            others.append(file)
    return dict(sorted(cases.items())), others


def channel_files(case: str, files: Sequence[Path], channels: Sequence[str], ending: str) -> dict[str, Path]:
    """Channel name -> file of a case whose files are numbered as the model's channels are.

    Raises:
        ValueError: On a number the model has no channel for.
    """
    names = {f"{case}_{number:04d}{ending}": channel for number, channel in enumerate(channels)}
    if odd := [f.name for f in files if f.name not in names]:
        raise ValueError(
            f"the model was trained on the channels {', '.join(channels)}, so the files must be {', '.join(names)}; "
            f"found {', '.join(odd)}"
        )
    return {names[f.name]: f for f in files}


def read_manifest(file: Path) -> dict:
    """The manifest of an earlier run into the same folder, or a new one."""
    if file.is_file():
        manifest = json.loads(file.read_text())
        if isinstance(manifest.get("cases"), dict):
            return manifest
    return {"cases": {}}


def write_json(content: Mapping, file: Path) -> None:
    """Write JSON under a temporary name, then rename."""
    temporary = file.with_name(f".{file.name}.partial")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, file)
