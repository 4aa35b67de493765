"""The card's tables say how many, how much they differ, and the worst."""

from __future__ import annotations

import json

import numpy as np
import SimpleITK as sitk
from PIL import Image

from nnunet_ext.end_to_end.starter.card import main, tables
from nnunet_ext.end_to_end.starter.judging import LABELS
from nnunet_ext.labels.organs import ORGANS


def row(kind: str, subset: list[str], dsc: float | None, *, wrong: int = 0, flag: str = "") -> dict:
    cell = {"dsc_percent": dsc, "hd95_mm": None if dsc is None else 100 - dsc, "flag": flag}
    return {
        "kind": kind,
        "subset": subset,
        "case": "phantom_001",
        "person": "a",
        "spacing_mm": [1.0, 1.0, 2.5],
        "wrong_side": wrong,
        "organs": {organ: dict(cell) for organ in ORGANS},
    }


def test_a_cell_is_mean_sd_and_the_worst_case():
    text = tables([row("own", ["T1"], 90.0), row("own", ["T1"], 80.0, wrong=3, flag="missed")])
    assert "| T1 | 1 x 1 x 2.5 | 2 | 85.0 ± 5.8 (80.0) |" in text
    assert "| T1 | 1 x 1 x 2.5 | 2 | 15.0 ± 5.8 (20.0) |" in text
    assert "| CT | 1 x 1 x 2.5 | 0 | - | - | - | - |" in text
    assert "- T1: 7 of 14 organs without a voxel" in text
    assert "- Heads own: in 1 of 2 predictions a voxel lies on the wrong side of the midline, 3 voxels in all" in text


def test_organs_that_nobody_has_do_not_count_and_turned_heads_are_no_row():
    text = tables([row("own", ["CT"], None), row("own", ["CT"], 70.0), row("turned", ["CT", "T1", "T2"], 10.0)])
    assert "| CT | 1 x 1 x 2.5 | 2 | 70.0 ± 0.0 (70.0) |" in text
    assert "10.0" not in text
    assert "- Heads turned: in 0 of 1 predictions" in text


def judged_head(out, name: str, row_: dict) -> dict:
    """A head of an eye and a chiasm on disk, with a prediction that is the reference."""
    labels = np.zeros((12, 30, 40), np.uint8)
    labels[4:8, 5:12, 22:30], labels[5:7, 18:22, 18:22] = LABELS["Eye_L"], LABELS["OpticChiasm"]
    label = sitk.GetImageFromArray(labels)
    label.SetSpacing((1.5, 1.5, 2.5))
    masks = out / "judging" / "leg_1_0" / "own" / "masks" / "CT_T1_T2"
    for folder in (out / "judged" / name, masks):
        folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(label, str(masks / f"{name}.nii.gz"))
    sitk.WriteImage(label, str(out / "judged" / name / "label.nii.gz"))
    sitk.WriteImage(sitk.Cast(label, sitk.sitkInt16) * 40 + 7, str(out / "judged" / name / "T1.nii.gz"))
    return {**row_, "case": name}


def test_a_document_gets_the_tables_between_its_marks_and_the_picture_the_worst_head_first(tmp_path):
    three = ["CT", "T1", "T2"]
    rows = [judged_head(tmp_path, f"phantom_00{i}", row("own", three, dsc)) for i, dsc in enumerate((90.0, 80.0))]
    folder = tmp_path / "models" / "leg_1" / "0"
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps(rows))
    document = tmp_path / "card.md"
    document.write_text("# Card\n\n<!-- scores -->old<!-- end of scores -->\n\nThe end.\n")
    picture = tmp_path / "heads.jpg"
    assert main([str(tmp_path), "--document", str(document), "--picture", str(picture)]) == 0
    text = document.read_text()
    assert text.startswith("# Card\n\n<!-- scores -->\n\nDSC in %")
    assert text.endswith("<!-- end of scores -->\n\nThe end.\n")
    assert "old" not in text
    assert "| CT+T1+T2 | 1 x 1 x 2.5 | 2 | 85.0 ± 5.8 (80.0) |" in text
    with Image.open(picture) as made:
        assert made.width == 900
        assert made.height > 900
