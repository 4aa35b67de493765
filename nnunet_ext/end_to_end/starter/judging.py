"""Scores of a starter on people that it has not seen: by subset of the channels and by grid."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.evaluation.evaluating import evaluate
from nnunet_ext.files import read_json
from nnunet_ext.images.channels import image_like
from nnunet_ext.images.label_maps import read_label_map
from nnunet_ext.images.reading import read_image
from nnunet_ext.images.writing import write_image
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.labels.pairs import left_right_pairs
from nnunet_ext.prediction.predicting import predict

#: Rows of the card.
SUBSETS = (("CT", "T1", "T2"), ("CT",), ("T1",), ("T2",), ("T1", "T2"))
#: Distances that differ by less are one.
SAME_MM = 1e-6
LABELS = {"background": 0, **{organ: value for value, organ in enumerate(ORGANS, 1)}}


def judge_all(model: Path, cases: Sequence[Path], out: Path, *, device: str = "cpu") -> list[dict]:
    """All rows of the card for some people.

    Args:
        model: Folder of the segmenter.
        cases: Case folders of the people, see `renderings.JUDGED`, `JUDGED_WITHOUT_CT` and `TURNED`.
        out: Folder for images, predictions and scores.
        device: Of the networks.

    Returns:
        One entry per case and subset, see `judge`, with `case`, `subset` and `kind`, which is `own`, `turned` or `mirrored`.
    """
    kinds: dict[str, list[Path]] = {"with_ct": [], "without_ct": [], "turned": []}
    for case in cases:
        options = read_json(case / "phantom.json")["options"]
        own = "without_ct" if options["misalignment_mm"] == 0 else "with_ct"
        kinds["turned" if options["deformed"] else own].append(case)
    rows = []
    for subset in SUBSETS:
        of_grid = kinds["with_ct" if "CT" in subset else "without_ct"]
        found = judge(model, of_grid, subset, out / "own", device=device)
        rows += [{"kind": "own", "subset": list(subset), "case": case, **score} for case, score in found.items()]
    mirrored = [mirror(case, out / "mirrored_cases") for case in kinds["turned"]]
    for kind, some in (("turned", kinds["turned"]), ("mirrored", mirrored)):
        found = judge(model, some, SUBSETS[0], out / kind, device=device)
        rows += [{"kind": kind, "subset": list(SUBSETS[0]), "case": case, **score} for case, score in found.items()]
    return rows


def mirror(case: Path, out: Path) -> Path:
    """A case whose left is its right, with the labels exchanged, in a folder of `out`."""
    folder = out / case.name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(case / "phantom.json", folder / "phantom.json")
    for name in ("CT", "T1", "T2", "label"):
        file = case / f"{name}.nii.gz"
        image = read_label_map(file) if name == "label" else read_image(file)
        array = sitk.GetArrayFromImage(image)[..., ::-1]
        if name == "label":
            values = np.arange(len(LABELS))
            for left, right in left_right_pairs(LABELS):
                values[[left, right]] = right, left
            array = values.astype(array.dtype)[array]
        write_image(image_like(np.ascontiguousarray(array), image), folder / f"{name}.nii.gz")
    return folder


def judge(
    model: Path, cases: Sequence[Path], subset: Sequence[str], out: Path, *, device: str = "cpu"
) -> dict[str, dict]:
    """Contour cases from some of their channels and score them.

    Args:
        model: Folder of the segmenter.
        cases: Case folders of phantoms.
        subset: Channels that the model sees.
        out: Folder for images, predictions and scores.
        device: Of the networks.

    Returns:
        Case -> `person`, `spacing_mm`, the number of `wrong_side`, and organ -> `dsc_percent`, `hd95_mm` and `flag`.
    """
    name = "_".join(subset)
    images, masks, references = (out / folder / name for folder in ("images", "masks", "references"))
    for folder in (images, references):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for case in cases:
        (images / case.name).mkdir()
        for channel in subset:
            (images / case.name / f"{channel}.nii.gz").symlink_to((case / f"{channel}.nii.gz").resolve())
        (references / f"{case.name}.nii.gz").symlink_to((case / "label.nii.gz").resolve())
    done = predict(
        images=images, out=masks, model=model, folds=("all",), device=device, overwrite=True, show_progress=False
    )
    if done.failed:
        raise RuntimeError(f"cases without contours: {done.failed}")
    summary = evaluate(masks, references, masks / "scores", labels=LABELS, n_processes=1, show_progress=False)
    scores: dict[str, dict] = {}
    for case in cases:
        record = read_json(case / "phantom.json")
        wrong = wrong_side(read_label_map(masks / f"{case.name}.nii.gz"), read_label_map(case / "label.nii.gz"))
        scores[case.name] = {
            "person": record["person"],
            "spacing_mm": record["spacing_mm"],
            "wrong_side": wrong,
            "organs": {},
        }
    for row in summary.rows:
        scores[row.case]["organs"][row.organ] = {
            "dsc_percent": _number(row.dsc_percent),
            "hd95_mm": _number(row.hd95_mm),
            "flag": row.flag,
        }
    return scores


def wrong_side(found: sitk.Image, reference: sitk.Image) -> int:
    """Voxels of a left organ on the right of the midline, and the reverse.

    The midline is the plane halfway between the centres of the reference's left and right organs, that of a turned head
    too. No head is quite symmetric, so a voxel counts only if it lies further across than the organ itself does.
    """
    values = sitk.GetArrayFromImage(found)
    truth = sitk.GetArrayFromImage(reference)
    pairs = left_right_pairs(LABELS)
    centres = []
    for side in range(2):
        of_pairs = [_centre(truth == pair[side], reference) for pair in pairs if all((truth == v).any() for v in pair)]
        centres.append(np.mean(of_pairs, axis=0))
    middle, across = (centres[0] + centres[1]) / 2, centres[0] - centres[1]
    across /= np.linalg.norm(across)
    wrong = 0
    for pair in pairs:
        for side, sign in enumerate((1.0, -1.0)):
            of_found, of_reference = (
                sign * ((_places(array == pair[side], image) - middle) @ across)
                for array, image in ((values, found), (truth, reference))
            )
            wrong += int(np.count_nonzero(of_found < of_reference.min(initial=0.0) - SAME_MM))
    return wrong


def _places(mask: np.ndarray, image: sitk.Image) -> np.ndarray:
    """Points of a mask's voxels in mm, `(n, 3)`."""
    index = np.argwhere(mask)[:, ::-1] * image.GetSpacing()
    return index @ np.reshape(image.GetDirection(), (3, 3)).T + image.GetOrigin()


def _centre(mask: np.ndarray, image: sitk.Image) -> np.ndarray:
    return _places(mask, image).mean(axis=0)


def means(scores: Iterable[Mapping], organs: Sequence[str] = ORGANS) -> dict[str, float]:
    """Mean DSC of each organ over cases."""
    rows = list(scores)
    return {o: float(np.nanmean([_dsc(row["organs"][o]) for row in rows])) for o in organs}


def _dsc(cell: Mapping) -> float:
    return float("nan") if cell["dsc_percent"] is None else cell["dsc_percent"]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 3)
