"""Experiments on small volumes through the whole report: what is compared, what is written, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread

from nnunet_ext.evaluation.evaluating import evaluate
from nnunet_ext.labels.sides import chinese_name
from nnunet_ext.messages import Message
from nnunet_ext.reporting.plots import draw_box_plots
from nnunet_ext.reporting.reference_study import SYSTEMS
from nnunet_ext.reporting.reporting import report

SHAPE, SPACING_MM = (9, 24, 32), (3.0, 0.8, 0.7)
LABELS = {"background": 0, "Lens_L": 1, "OpticChiasm": 2}
CASES = [f"case_{number}" for number in range(7)]


def label_map(shift: int = 0) -> np.ndarray:
    out = np.zeros(SHAPE, np.uint8)
    out[3:5, 6:12, 20 + shift : 26 + shift] = 1
    out[5:7, 16:19, 8 + shift : 14 + shift] = 2
    return out


def write(folder: Path, name: str, array: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.1, -0.15, 0.1).GetMatrix())
    sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A raw dataset of seven cases with one preview, `good` and `poor` predictions, and their evaluations."""
    root = tmp_path_factory.mktemp("data")
    raw = root / "Dataset501_Head"
    rng = np.random.default_rng(0)
    for number, case in enumerate(CASES):
        write(raw / "labelsTs", case, label_map())
        for channel in (0, 1):
            write(raw / "imagesTs", f"{case}_000{channel}", rng.normal(40, 60, SHAPE).astype(np.int16))
        write(root / "good", case, label_map(1 if number == 2 else 0))
        poor = label_map(2 if number < 6 else 3)
        write(root / "poor", case, np.where(poor == 2, 0, poor) if number == 4 else poor)  # chiasm missed
    (raw / "dataset.json").write_text(json.dumps({"labels": LABELS, "channel_names": {"0": "CT", "1": "T1"}}))
    (raw / "preview" / "case_4").mkdir(parents=True)
    (raw / "preview" / "case_4" / "1_couch_and_mask.png").write_bytes(b"picture")
    for name in ("good", "poor"):
        evaluate(root / name, raw / "labelsTs", root / f"evaluation_{name}", n_processes=1, show_progress=False)
    return root


def run(data: Path, out: Path, *names: str, **options):
    runs = [(name, data / f"evaluation_{name}") for name in names]
    return report(runs, out, **({"n_processes": 1, "show_progress": False} | options))


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory):
    return run(data, tmp_path_factory.mktemp("report"), "good", "poor")


def test_report_holds_tables_in_both_forms_and_figures_in_both_forms(compared):
    names = {table.name for table in compared.tables}
    assert {
        "overview",
        "dsc_percent",
        "hd95_mm",
        "surface_dice",
        "wilcoxon_dsc_percent",
        "systems_OpticChiasm",
    } <= names
    for table in compared.tables:
        assert (compared.out / "tables" / f"{table.name}.md").read_text().startswith(f"### {table.title}")
        assert r"\toprule" in (compared.out / "tables" / f"{table.name}.tex").read_text()
    for picture in compared.pictures:
        assert (compared.out / picture.png).is_file()
        assert picture.svg is None or (compared.out / picture.svg).read_text().startswith("<?xml")
    assert {picture.kind for picture in compared.pictures} == {"box", "overlay", "surface", "preprocessing"}
    assert not list(compared.out.rglob(".*"))  # nothing half-written
    page = (compared.out / "report.md").read_text()
    assert "| OpticChiasm |" in page
    assert f"![{compared.pictures[0].title}]({compared.pictures[0].png})" in page


@pytest.mark.parametrize("study", [False, True])
def test_what_the_report_says_it_can_say_in_chinese(data, tmp_path, study):
    found = run(data, tmp_path, "good", "poor", reference_study=study, cases=CASES[:1])
    texts = {text for t in found.tables for text in (t.title, *t.notes, *t.header)}
    texts |= {row[0].text for t in found.tables if t.name == "dsc_percent" for row in t.rows}
    texts |= {p.title for p in found.pictures if p.kind in ("box", "curves", "preprocessing")}
    published = {system.name for system in SYSTEMS}
    assert {text for text in texts if isinstance(text, str)} <= {"good", "poor", "DSC %", "HD95 mm", *published}
    chinese = {text.text("zh", chinese_name) for text in texts if isinstance(text, Message)}
    assert not [text for text in chinese if not re.search("[\u4e00-\u9fff]", text)]
    assert "与 good 的配对比较：Dice 相似系数（DSC），%" in chinese
    assert "容差（mm）：左晶状体 0.98、视交叉 2.5。" in chinese


def test_scores_in_the_tables_are_those_of_the_evaluations(compared):
    (table,) = [table for table in compared.tables if table.name == "dsc_percent"]
    rows = {str(row[0].text): row[1:] for row in table.rows}
    good, poor = (experiment.scores.per_organ["Lens_L"]["dsc_percent"].value for experiment in compared.experiments)
    assert [cell.text.split(" +-")[0] for cell in rows["Lens_L"]] == [f"{good:.2f}", f"{poor:.2f}"]
    assert [cell.best for cell in rows["Lens_L"]] == [True, False]
    assert rows["Lens_L"][1].text.endswith("†")  # seven pairs, all worse but one equal


def test_worst_median_and_best_case_are_drawn_the_worst_first(compared):
    assert compared.shown_cases[0] == "case_4"  # its chiasm was missed
    assert len(compared.shown_cases) == 3
    overlays = [p for p in compared.pictures if p.kind == "overlay" and p.case == "case_4"]
    assert [p.experiment for p in overlays] == ["good", "poor", None]  # and both side by side
    side_by_side = imread(compared.out / overlays[-1].png)
    assert side_by_side[..., :3].std() > 0.1
    (copied,) = [p for p in compared.pictures if p.kind == "preprocessing"]
    assert (compared.out / copied.png).read_bytes() == b"picture"
    assert str(copied.title) == "case_4: couch and mask"


def test_missed_organ_does_not_flatten_the_box_plot_but_is_named(compared):
    scores = {experiment.name: experiment.scores for experiment in compared.experiments}
    dsc, hd95 = draw_box_plots(scores, "OpticChiasm").axes
    found_mm = [v for s in scores.values() for c, v in s.values("OpticChiasm", "hd95_mm").items() if c != "case_4"]
    assert max(found_mm) < hd95.get_ylim()[1] < 10  # the diagonal of the image is 42 mm
    assert [text.get_text() for text in hd95.texts] == ["▲ 1 of 7\nnot found"]
    assert round(hd95.texts[0].get_position()[0]) == 1  # above `poor`
    assert dsc.texts[:] == []
    labels = [
        text.get_text() for text in draw_box_plots(scores, "OpticChiasm", with_study=True).axes[1].get_xticklabels()
    ]
    assert labels[:3] == ["good", "poor", "study: 80x256x256"]  # the study gives no HD95 of its localizer


def test_hardest_organ_gets_the_box_plots_unless_one_is_named(data, compared, tmp_path):
    assert compared.box_organ == "OpticChiasm"
    found = run(data, tmp_path, "good", box_organ="Lens_L", cases=["case_1"])
    assert found.box_organ == "Lens_L"
    assert (tmp_path / "figures" / "box_Lens_L.png").is_file()
    assert found.shown_cases == ("case_1",)
    with pytest.raises(ValueError, match="no experiment has an organ 'Eye_L'; there are Lens_L, OpticChiasm"):
        run(data, tmp_path, "good", box_organ="Eye_L")
    with pytest.raises(ValueError, match="case 'case_9' is not among the 7 cases"):
        run(data, tmp_path, "good", cases=["case_9"])


def test_experiments_on_other_cases_are_compared_on_the_common_ones(data, tmp_path):
    few = tmp_path / "few"
    for case in CASES[:4]:
        write(few, case, label_map())
        shutil.copy(data / "Dataset501_Head/labelsTs" / f"{case}.nii.gz", tmp_path / f"{case}.nii.gz")
    evaluate(few, tmp_path, tmp_path / "evaluation", labels=LABELS, n_processes=1, show_progress=False)
    found = report(
        [("good", data / "evaluation_good"), ("few", tmp_path / "evaluation")],
        tmp_path / "out",
        cases=["case_1"],
        n_processes=1,
        show_progress=False,
    )
    assert found.cases == ("case_0", "case_1", "case_2", "case_3")
    assert "on the 4 cases that all experiments have; good has 3 more: case_4, case_5, case_6" in str(found.remarks[0])
    assert Message("no_p_value", {"least": 6, "n": 4}) in found.remarks
    assert Message("no_images_to_draw_on", {"names": ["few"]}) in found.remarks


def test_predictions_are_evaluated_where_references_are_named(data, tmp_path):
    references = data / "Dataset501_Head" / "labelsTs"
    runs = [("a/b", data / "good")]
    with pytest.raises(
        FileNotFoundError, match=r"run 'a/b': .*good holds predictions; name the folder of their references"
    ):
        report(runs, tmp_path, show_progress=False)
    found = report(runs, tmp_path, references=references, cases=["case_0"], n_processes=1, show_progress=False)
    assert found.experiments[0].folder == tmp_path / "evaluations" / "a_b"
    assert found.experiments[0].scores.ok


def test_a_damaged_prediction_costs_the_other_experiment_no_picture(data, tmp_path):
    references = data / "Dataset501_Head" / "labelsTs"
    shutil.copytree(data / "poor", tmp_path / "poor")
    file = tmp_path / "poor" / "case_1.nii.gz"
    file.write_bytes(file.read_bytes()[:-20])
    runs = [("poor", tmp_path / "poor"), ("good", data / "evaluation_good")]
    options = {"references": references, "cases": ["case_1"], "n_processes": 1, "show_progress": False}
    found = report(runs, tmp_path / "out", **options)
    assert list(found.failed) == ["case_1 (poor)"]
    assert {picture.experiment for picture in found.pictures if picture.case == "case_1"} == {"good"}
    assert [picture.kind for picture in found.pictures if picture.experiment == "good"] == ["overlay", "surface"]
    assert sum("case_1.nii.gz is cut off" in str(remark) for remark in found.remarks) == 1


def test_what_cannot_be_compared_is_named(data, tmp_path):
    with pytest.raises(ValueError, match="two runs are called 'good'"):
        run(data, tmp_path, "good", "good")
    with pytest.raises(FileNotFoundError, match=r"run 'x': .*nowhere is not a folder"):
        report([("x", data / "nowhere")], tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"is neither an evaluation .* nor a trained model .* nor a folder of label"
    ):
        report([("x", data)], tmp_path)

    def other(name: str, **changes) -> Path:
        content = json.loads((data / "evaluation_good" / "evaluation.json").read_text())
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation.json").write_text(json.dumps(content | changes))
        return tmp_path / name

    content = json.loads((data / "evaluation_good" / "evaluation.json").read_text())
    first = ("good", data / "evaluation_good")
    tolerances = other("tolerances", tolerance_mm={"Lens_L": 3.0, "OpticChiasm": 2.5})
    with pytest.raises(ValueError, match=r"Lens_L has a tolerance of 0\.98 mm in good and 3 mm in x.*--tolerance-mm"):
        report([first, ("x", tolerances)], tmp_path)
    content["per_case"]["case_5"]["Lens_L"]["reference_ml"] *= 1.5
    references = other("references", per_case=content["per_case"])
    with pytest.raises(ValueError, match=r"case 'case_5': the reference of Lens_L has .* not the same contours"):
        report([first, ("x", references)], tmp_path)
    renamed = other("renamed", per_case={f"head_{case}": scores for case, scores in content["per_case"].items()})
    with pytest.raises(ValueError, match=r"no case in common: good: case_0, case_1, case_2, \.\.\.; x: head_case_0"):
        report([first, ("x", renamed)], tmp_path)


def test_overlay_that_cannot_be_drawn_is_named_and_the_others_are_finished(data, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(data / "Dataset501_Head" / "imagesTs", images)
    (images / "case_0_0000.nii.gz").write_bytes(b"damaged")
    found = run(data, tmp_path / "out", "good", images=images, cases=["case_0", "case_1"])
    assert [(remark.kind, remark.values["case"]) for remark in found.remarks] == [("case_not_drawn", "case_0")]
    kinds = {case: sorted(p.kind for p in found.pictures if p.case == case) for case in ("case_0", "case_1")}
    assert kinds == {"case_0": ["surface"], "case_1": ["overlay", "surface"]}
