"""Left and right partners, by names, by a table and by plans."""

from __future__ import annotations

import pytest

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.labels.pairs import (
    dataset_pairs,
    left_right_pairs,
    old_plan_warning,
    pair_names,
    plan_pairs,
    unclear_sides,
)
from nnunet_ext.labels.table import default_label_table


def test_left_right_pairs_are_read_from_the_names():
    labels = {"background": 0, "A_R": 1, "B": 2, "A_L": 3, "C_L": 4}
    assert left_right_pairs(labels) == [(3, 1)]


SPELLINGS = [
    ("Eye_L", "Eye_R", "Lens_L", "Lens_R"),
    ("left_eye", "right_eye", "left_lens", "right_lens"),
    ("eye_left", "eye_right", "lens_left", "lens_right"),
    ("Left Eye", "Right Eye", "Left Lens", "Right Lens"),
    ("LeftEye", "RightEye", "LensLeft", "LensRight"),
    ("eyeL", "eyeR", "LensL", "LensR"),
    ("LEye", "REye", "LLens", "RLens"),
    ("EYEL", "EYER", "LENSLT", "LENSRT"),
    ("Lt. Eye", "Rt. Eye", "LENS-LT", "LENS-RT"),
    ("L-Parotid", "R-Parotid", "Cochlea (L)", "Cochlea (R)"),
    ("Cochlea_L_PRV03", "Cochlea_R_PRV03", "Cochlea_L", "Cochlea_R"),
    ("Eye_AL", "Eye_AR", "Eye_PL", "Eye_PR"),
    ("OS", "OD", "Macula_OS", "Macula_OD"),
    ("macula os", "macula od", "OS_retina", "OD_retina"),
    ("Auge links", "Auge rechts", "linke Linse", "rechte Linse"),
    ("linkes_Auge", "rechtes_Auge", "Cochlea_li", "Cochlea_re"),
    ("li_Cochlea", "re_Cochlea", "linker Sehnerv", "rechter Sehnerv"),
    ("\u0152il gauche", "\u0152il droit", "Cochl\u00e9e gauche", "Cochl\u00e9e droite"),
    ("Parotide_G", "Parotide_D", "Cristallin G", "Cristallin D"),
    ("左眼", "右眼", "左侧晶体", "右侧晶体"),
    ("眼球左", "眼球右", "视神经（左）", "视神经（右）"),
    ("Bulbus_sin", "Bulbus_dex", "Nervus opticus sinister", "Nervus opticus dexter"),
    ("Occhio_sx", "Occhio_dx", "ojo izquierdo", "ojo derecho"),
    ("OS lens left", "OD lens right", "Os_frontale_L", "Os_frontale_R"),
    ("Segment_D_L", "Segment_D_R", "Left Macula (OS)", "Right Macula (OD)"),
    ("lh-insula", "rh-insula", "Left-Hippocampus", "Right-Hippocampus"),
]


@pytest.mark.parametrize("names", SPELLINGS, ids=" ".join)
def test_names_are_paired_in_every_spelling(names: tuple[str, ...]):
    shuffled = [names[3], names[0], "Chiasm", names[2], names[1]]
    named = pair_names(shuffled)
    assert sorted(named.pairs) == sorted([names[:2], names[2:]])
    assert named.unclear == []


def test_two_spellings_of_one_organ_are_partners_where_nothing_is_closer():
    assert pair_names(["left_eye", "Eye_R"]).pairs == [("left_eye", "Eye_R")]
    assert pair_names(["Lens_L", "lens-R"]).pairs == [("Lens_L", "lens-R")]
    mixed = pair_names(["left_lens", "Lens_L", "Lens_R", "right_lens"])
    assert mixed.pairs == [("left_lens", "right_lens"), ("Lens_L", "Lens_R")]


@pytest.mark.parametrize(
    ("names", "pairs", "unclear"),
    [
        (["Eye_L", "Eye_R", "PTV_R"], [("Eye_L", "Eye_R")], ["'PTV_R'", "no left partner"]),
        (["左眼", "脑干"], [], ["'左眼'", "no right partner"]),
        (["Eye_AL", "Eye_PL", "Eye_PR"], [("Eye_PL", "Eye_PR")], ["'Eye_AL'", "no right partner"]),
        (["left_eye", "Eye_L", "EyeR"], [], ["'EyeR'", "2 partners, 'left_eye' and 'Eye_L'"]),
        (["left_eye", "right_eye", "Eye_L"], [("left_eye", "right_eye")], ["'Eye_L'", "no right partner"]),
        (["parotidl", "parotidr"], [], ["'parotidl' and 'parotidr' may be left and right"]),
        (["LE", "RE"], [], ["'LE' and 'RE' may be left and right"]),
        (["LA", "RA"], [], ["'LA' and 'RA' may be left and right"]),
        (["Rib_L1", "Rib_R1"], [], ["'Rib_L1' and 'Rib_R1' may be left and right"]),
        ([f"Level_{c}" for c in "ABCDEFGHIJKLMNOPQR"], [], ["'Level_L' may mean left", "'Level_R' may mean right"]),
    ],
)
def test_names_that_leave_the_side_open_are_named(names: list[str], pairs: list, unclear: list[str]):
    named = pair_names(names)
    assert named.pairs == pairs
    text = "; ".join(named.unclear)
    assert all(part in text for part in unclear), text
    twice = [name for pair in named.proposed for name in pair]
    assert len(twice) == len(set(twice))


@pytest.mark.parametrize(
    "names",
    [
        ["L1", "L2", "L3", "L4", "L5", "T1"],
        [f"Segment_{c}" for c in "ABCDEFG"],
        ["Node_L", "Node_R", "Node_D"],
        ["Os_frontale", "Os_occipitale"],
        ["PTV_re-irradiation", "GTV", "Level"],
        [*ORGANS],
    ],
)
def test_names_without_a_side_leave_nothing_open(names: list[str]):
    assert unclear_sides(names) is None


def test_two_words_for_one_organ_are_proposed_as_a_pair():
    named = pair_names(["左眼", "右眼球", "Lens_L", "Lens_R"])
    assert (named.pairs, len(named.unclear)) == ([("Lens_L", "Lens_R")], 2)
    assert named.proposed == [("Lens_L", "Lens_R"), ("左眼", "右眼球")]


def test_what_is_open_comes_with_the_lines_to_write():
    text = unclear_sides(["background", "left_eye", "right_eye", "PTV_R"])
    assert 'left_right_pairs = [["left_eye", "right_eye"]]' in text
    assert '"left_right_pairs": [["left_eye", "right_eye"]]' in text
    assert "mirror_left_right = false" in text
    assert '"mirror_left_right": false' in text
    assert "\n" not in text


def test_a_stated_list_is_the_whole_list():
    content = {"labels": {"background": 0, "Eye_L": 1, "Eye_R": 2, "Level_L": 3, "Level_R": 4}}
    assert dataset_pairs(content) == [("Eye_L", "Eye_R"), ("Level_L", "Level_R")]
    assert dataset_pairs({**content, "left_right_pairs": [["Eye_L", "Eye_R"]]}) == [("Eye_L", "Eye_R")]
    assert dataset_pairs({**content, "left_right_pairs": []}) == []


def test_plans_hold_the_pairs_and_older_plans_keep_the_rule_of_endings():
    labels = {"background": 0, "left_eye": 1, "right_eye": 2, "Lens_L": 3, "Lens_R": 4}
    assert plan_pairs({"left_right_pairs": [["left_eye", "right_eye"]]}, labels) == [("left_eye", "right_eye")]
    assert plan_pairs({}, labels) == [("Lens_L", "Lens_R")]
    assert "'left_eye' and 'right_eye' are not exchanged" in old_plan_warning({}, labels)
    assert old_plan_warning({"left_right_pairs": []}, labels) is None
    assert old_plan_warning({}, default_label_table().dataset_labels) is None


def test_plans_of_other_labels_are_refused():
    with pytest.raises(
        ValueError, match=r"plans P: left_right_pairs names 'a', which is no label.*Plan the dataset again"
    ):
        plan_pairs({"plans_name": "P", "left_right_pairs": [["a", "b"]]}, {"background": 0, "c": 1})
