"""Experiments on small volumes through the whole report: what is compared, and what is written."""

from __future__ import annotations

import re
import shutil

import pytest
from small_experiments import CASES, LABELS, label_map, run, write

from nnunet_ext.evaluation.evaluating import evaluate
from nnunet_ext.labels.sides import chinese_name
from nnunet_ext.messages import Message
from nnunet_ext.reporting.reference_study import entries
from nnunet_ext.reporting.reporting import report


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
    assert {p.kind for p in compared.pictures} == {"box", "overlay", "pair", "surface", "preprocessing"}
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
    heads = {"DSC %", "HD95 mm", "plain HD95 mm"}
    assert {text for text in texts if isinstance(text, str)} <= {"good", "poor", *heads}
    chinese = {text.text("zh", chinese_name) for text in texts if isinstance(text, Message)}
    assert not [text for text in chinese if not re.search("[\u4e00-\u9fff]", text)]
    assert "与 good 的配对比较：Dice 相似系数（DSC），%" in chinese
    assert "容差（mm）：左晶状体 0.98、视交叉 2.5。" in chinese


def test_reference_study_alone_brings_every_entry_and_the_chiasms_box_plots_whatever_organ_is_hardest(data, tmp_path):
    found = run(data, tmp_path, "good", reference_study=True, cases=CASES[:1])
    shown = {t.name: [str(cell.text) for row in t.rows for cell in row] for t in found.tables if "study" in t.name}
    assert sorted(shown) == ["study_3_1", "study_3_2", "study_3_3", "study_3_5", "study_3_6", "study_3_7"]
    for entry in entries():
        cells = shown[f"study_{entry.table.replace('.', '_')}"]
        assert any(cell.removesuffix(" ‡").removesuffix(" *") == entry.text for cell in cells), entry
    assert found.box_organ == "OpticChiasm"
    assert run(data, tmp_path, "good", cases=CASES[:1]).box_organ == "Lens_L"  # the hardest
    other = run(data, tmp_path / "lens", "good", reference_study=True, box_organ="Lens_L", cases=CASES[:1])
    assert [p.name for p in other.pictures if p.kind == "box"] == ["box_OpticChiasm", "box_Lens_L", "box_all_organs"]


def test_scores_in_the_tables_are_those_of_the_evaluations(compared):
    (table,) = [table for table in compared.tables if table.name == "dsc_percent"]
    rows = {str(row[0].text): row[1:] for row in table.rows}
    good, poor = (experiment.scores.per_organ["Lens_L"]["dsc_percent"].value for experiment in compared.experiments)
    assert [cell.text.split(" +-")[0] for cell in rows["Lens_L"]] == [f"{good:.2f}", f"{poor:.2f}"]
    assert [cell.best for cell in rows["Lens_L"]] == [True, False]
    assert rows["Lens_L"][1].text.endswith("†")  # seven pairs, all worse but one equal


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
