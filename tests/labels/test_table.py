from pathlib import Path

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
from nnunet_ext.labels.sides import chinese_name, organ_word, side_of
from nnunet_ext.labels.table import LabelTable, default_label_table, load_label_table


@pytest.mark.parametrize(
    ("drawn", "organ"),
    [
        ("Eye_L", "Eye_L"),
        ("Eye_AL", "Eye_L"),
        ("Eye_PL", "Eye_L"),
        ("right eye", "Eye_R"),
        ("LENS-LT", "Lens_L"),
        ("lens_right", "Lens_R"),
        ("optic_nerve_left", "OpticNrv_L"),
        ("R OpticNerve", "OpticNrv_R"),
        ("Chiasm", "OpticChiasm"),
        ("optic_chiasma", "OpticChiasm"),
        ("左晶体", "Lens_L"),
        ("右晶状体", "Lens_R"),
        ("晶体-L", "Lens_L"),
        ("左眼球", "Eye_L"),
        ("右眼", "Eye_R"),
        ("左侧视神经", "OpticNrv_L"),
        ("視神經_R", "OpticNrv_R"),
        ("视交叉", "OpticChiasm"),
        ("左眼晶状体", "Lens_L"),
        ("\uff2c\uff25\uff2e\uff33\uff3f\uff32", "Lens_R"),  # LENS_R in full-width letters
        ("Linse links", "Lens_L"),
        ("rechtes Auge", "Eye_R"),
        ("N. opticus li", "OpticNrv_L"),
        ("Nerf optique droit", "OpticNrv_R"),
        ("Cristallin_G", "Lens_L"),
        ("Œil droit", "Eye_R"),
        ("Sehnervenkreuzung", "OpticChiasm"),
        ("Gon", None),
        ("Lens_OD", "Lens_R"),
        ("OS lens", "Lens_L"),
        ("linker Sehnerv", "OpticNrv_L"),
        ("Oculus sinister", None),  # no alias of the eye
        ("OpticNrv_L_PRV03", None),
        ("脑干", None),
        ("Brainstem", None),
        ("lens", None),  # no side
    ],
)
def test_default_table_maps_drawn_names_to_tg263(drawn: str, organ: str | None):
    assert default_label_table().organ(drawn) == organ


def test_label_values_follow_the_order_and_leave_0_to_background():
    assert default_label_table().dataset_labels == {"background": 0, **{name: i + 1 for i, name in enumerate(ORGANS)}}


def test_left_right_pairs_are_read_from_the_names():
    labels = {"background": 0, "A_R": 1, "B": 2, "A_L": 3, "C_L": 4}
    assert left_right_pairs(labels) == [(3, 1)]


def test_load_label_table_keeps_the_order_and_takes_other_organs(tmp_path: Path):
    path = tmp_path / "organs.toml"
    path.write_text('[labels]\nTumour = ["GTV", "gross tumour"]\nOpticChiasm = ["X"]\nBrain = []\n')
    table = load_label_table(path)
    assert table.names == ("Tumour", "OpticChiasm", "Brain")
    assert [table.organ(name) for name in ("gross_Tumour", "x", "chiasm", "BRAIN", "Eye_L")] == [
        "Tumour",
        "OpticChiasm",
        "OpticChiasm",  # built-in aliases stay
        "Brain",
        None,
    ]
    assert table.as_dict() == {"Tumour": ["GTV", "gross tumour"], "OpticChiasm": ["X"], "Brain": []}


def test_an_alias_given_to_another_organ_beats_the_built_in_one(tmp_path: Path):
    path = tmp_path / "organs.toml"
    path.write_text('[labels]\nOpticChiasm = []\nOpticPath = ["Chiasm"]\n')
    table = load_label_table(path)
    assert (table.organ("chiasm"), table.organ("opt_chiasm")) == ("OpticPath", "OpticChiasm")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels = ", "is not TOML"),
        ("[organs]\nA = []\n", "no \\[labels\\]"),
        ("[labels]\n", "names no organ"),
        ("[labels]\nA = 3\n", "A = 3 is not a list"),
        ('[labels]\nA = [["x", 3]]\n', "is not a list of names"),
        ('[labels]\nA = [["x", ["y"]]]\n', "is not a list of names"),
        ('[labels]\nA = ["x"]\nB = ["X"]\n', "'X' stands for both 'A' and 'B'"),
        ("[labels]\nbackground = []\n", "background"),
        ('[labels]\nA = ["--"]\n', "no letter"),
    ],
)
def test_load_label_table_names_what_is_wrong(tmp_path: Path, text: str, message: str):
    path = tmp_path / "organs.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_label_table(path)


def test_load_label_table_raises_when_the_file_is_missing(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"none\.toml"):
        load_label_table(tmp_path / "none.toml")


def test_two_spellings_of_one_organ_are_no_conflict():
    assert LabelTable(("Lens_L",), {"Lens_L": ("lens l", "LENS-L")}).organ("lensL") == "Lens_L"


VERSIONS = [
    ("OpticNrv_L", "Optic Nerve Left"), ("左眼球", "Eye_L"), ("Chiasm", "optic_chiasma"), ("LENS-LT", "lens lt"),
    ("Eye_AL", "eye ant left"), ("Linse links", "Lens_L"),
]  # fmt: skip


@pytest.mark.parametrize("names", VERSIONS)
def test_two_names_of_one_whole_organ_or_of_one_part_are_two_versions(names):
    with pytest.raises(ValueError, match="is drawn twice, as first and second; delete or rename one of them"):
        default_label_table().check_drawn_once(zip(names, ("first", "second"), strict=True))


@pytest.mark.parametrize(
    "names", [("Eye_AL", "Eye_PL"), ("Eye_Ant_L", "eye post left"), ("Eye_L", "Eye_AL"), ("Lens_L", "Lens_R"),
              ("Brainstem", "Brainstem"), ("右 Eye_A", "Eye_PR")]
)  # fmt: skip
def test_parts_other_organs_and_unknown_names_are_drawn_once(names):
    default_label_table().check_drawn_once((name, name) for name in names)


@pytest.fixture
def own_table(tmp_path: Path) -> LabelTable:
    path = tmp_path / "organs.toml"
    path.write_text(
        '[labels]\nBrain = ["Brain_L", "right brain", "Hirn"]\nGTV = ["GTV 1", "GTV-2", "gross tumour"]\n'
        'Cortex = [["Grey", "Gyri"], "Rinde"]\nEyes = ["left eye", "Eye_L", "right eye"]\nLevel_2 = ["LN 2", "Level II"]\n',
        encoding="utf-8",
    )
    return load_label_table(path)


@pytest.mark.parametrize(
    ("names", "united"),
    [
        (("Brain_L", "right brain"), True),
        (("Brain", "Hirn"), False),
        (("GTV 1", "GTV-2"), True),
        (("GTV", "gross tumour"), False),
        (("Grey", "Gyri"), True),
        (("Cortex", "Rinde"), False),
        (("left eye", "right eye"), True),
        (("left eye", "Eye_L"), False),
        (("Level_2", "LN 2"), False),  # the number is the organ's own
    ],
)
def test_a_users_aliases_are_parts_by_side_place_number_or_declaration(own_table: LabelTable, names, united: bool):
    if united:
        own_table.check_drawn_once((name, name) for name in names)
        return
    with pytest.raises(ValueError, match="drawn twice") as caught:
        own_table.check_drawn_once((name, name) for name in names)
    assert f'= [["{names[0]}", "{names[1]}"]]' in str(caught.value)


def test_parts_that_a_file_declares_stay_with_the_table(own_table: LabelTable):
    assert own_table.as_dict()["Cortex"] == ["Rinde", ["Grey", "Gyri"]]
    assert own_table.organ("gyri") == "Cortex"
    assert (own_table.is_part("GYRI"), own_table.is_part("rinde")) == (True, False)


# ------------------------------------------------------------------------------------------------ left and right


@pytest.mark.parametrize(
    ("name", "side", "stem"),
    [
        ("Eye_L", "L", "Eye"),
        ("eye_r", "R", "eye"),
        ("Lens-R", "R", "Lens"),
        ("Eye.L", "L", "Eye"),
        ("Lens (L)", "L", "Lens"),
        ("Lens Lt", "L", "Lens"),
        ("LENS-LT", "L", "LENS"),
        ("Lt. Lens", "L", "Lens"),
        ("left_eye", "L", "eye"),
        ("LEFT EYE", "L", "EYE"),
        ("LeftEye", "L", "Eye"),
        ("EyeLeft", "L", "Eye"),
        ("eyeL", "L", "eye"),
        ("EyeR", "R", "Eye"),
        ("LEye", "L", "Eye"),
        ("EYEL", "L", "Eye"),  # as the label table reads it
        ("lefteye", "L", "eye"),
        ("RON", "R", "ON"),
        ("rightparotid", "R", "parotid"),
        ("LN_Neck_II_L", "L", "LN_Neck_II"),
        ("Cochlea_L_PRV03", "L", "Cochlea_PRV03"),
        ("Lens_R_PRV", "R", "Lens_PRV"),
        ("rib_left_1", "L", "rib_1"),
        ("ctx-lh-insula", "L", "ctx-insula"),
        ("Eye_AL", "L", "Eye_A"),
        ("Eye_PR", "R", "Eye_P"),
        ("Eye_A_L", "L", "Eye_A"),
        ("Level_2R", "R", "Level_2"),
        ("Lens_OD", "R", "Lens"),
        ("OS_lens", "L", "lens"),
        ("Macula_OS", "L", "Macula"),
        ("Linse rechts", "R", "Linse"),
        ("linkes Auge", "L", "Auge"),
        ("Auge_li", "L", "Auge"),
        ("Cochlea re", "R", "Cochlea"),
        ("Nerf optique droit", "R", "Nerf optique"),
        ("\u0152il gauche", "L", "\u0152il"),
        ("Cristallin_G", "L", "Cristallin"),
        ("左眼", "L", "眼"),
        ("左眼球", "L", "眼球"),
        ("右侧视神经", "R", "视神经"),
        ("眼球（左）", "L", "眼球"),
        ("晶体-R", "R", "晶体"),
        ("\uff2c\uff25\uff2e\uff33\uff3f\uff32", "R", "LENS"),
        ("ojo izquierdo", "L", "ojo"),
        ("PTV_R", "R", "PTV"),
        ("Vertebra_L", "L", "Vertebra"),
    ],
)
def test_a_whole_word_in_any_spelling_gives_a_name_its_side(name: str, side: str, stem: str):
    assert side_of(name) == (side, stem)


@pytest.mark.parametrize(
    "name",
    [
        "Lens", "Lense", "Larynx", "Lips", "Lobe", "Level", "Lid", "Liver", "Rectum",
        "Retina", "Rib", "gland", "Gland_Lacrimal", "Brainstem", "OpticChiasm", "Chiasm", "Pituitary", "Upright",
        "Cleft", "L5", "VB_L1", "T2", "R2star", "A_LAD", "Esophagus_S", "Larynx_SG", "LN_Neck",
        "Os_frontale", "re-irradiation", "Re_Plan", "Segment_D", "Segment_G", "Eyes_L+R", "Eyes_LR", "左右眼", "双眼",
        "视交叉", "脑干", "Sehnervenkreuzung", "Gon", "Lymphnodes", "GTVp", "PTV70", "GTV_MR", "background",
    ],
)  # fmt: skip
def test_a_letter_or_syllable_within_a_word_is_no_side(name: str):
    assert side_of(name) is None


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


@pytest.mark.parametrize(
    ("name", "word"),
    [("left_eye", "Eye"), ("EyeL", "Eye"), ("左晶体", "Lens"), ("OpticNrv_R", "OpticNrv"), ("Chiasma", "OpticChiasm"),
     ("Parotid_L", "Parotid"), ("Brainstem", "Brainstem"), ("OpticNrv_L_PRV03", "OpticNrv_PRV03")],
)  # fmt: skip
def test_organs_are_known_without_their_side(name: str, word: str):
    assert organ_word(name) == word


@pytest.mark.parametrize(
    ("name", "chinese"),
    [("Eye_L", "左眼球"), ("right lens", "右晶状体"), ("OpticNrvL", "左视神经"), ("OpticChiasm", "视交叉"), ("左眼", None),
     ("on", None), ("left", None), ("PTV_R", None)],
)  # fmt: skip
def test_chinese_names_do_not_depend_on_the_spelling(name: str, chinese: str | None):
    assert chinese_name(name) == chinese


# ------------------------------------------------------------------------------------ what tables, data sets and plans state


@pytest.mark.parametrize("place", ["above", "below", "elsewhere"])
def test_the_label_table_states_pairs_and_the_switch_above_or_below_its_labels(tmp_path: Path, place: str):
    sides, labels = (
        'left_right_pairs = [["a", "b"]]\nmirror_left_right = false\n',
        "[labels]\na = []\nb = []\nPTV_R = []\n",
    )
    path = tmp_path / "organs.toml"
    path.write_text(
        {"above": sides + labels, "below": labels + sides, "elsewhere": f"{labels}[training]\n{sides}"}[place]
    )
    table = load_label_table(path)
    assert table.names == ("a", "b", "PTV_R")
    assert table.pairs == [("a", "b")]
    assert table.side_entries == {"left_right_pairs": [["a", "b"]], "mirror_left_right": False}


def test_a_table_that_states_nothing_adds_nothing_and_pairs_by_name():
    table = default_label_table()
    assert table.side_entries == {}
    assert table.pairs == [("Eye_L", "Eye_R"), ("Lens_L", "Lens_R"), ("OpticNrv_L", "OpticNrv_R")]


def test_a_stated_list_is_the_whole_list():
    content = {"labels": {"background": 0, "Eye_L": 1, "Eye_R": 2, "Level_L": 3, "Level_R": 4}}
    assert dataset_pairs(content) == [("Eye_L", "Eye_R"), ("Level_L", "Level_R")]
    assert dataset_pairs({**content, "left_right_pairs": [["Eye_L", "Eye_R"]]}) == [("Eye_L", "Eye_R")]
    assert dataset_pairs({**content, "left_right_pairs": []}) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('left_right_pairs = "A B"', "'A B', not a list of pairs"),
        ('left_right_pairs = ["A", "B"]', "not a list of pairs"),
        ('left_right_pairs = [["A", "B", "Eye_L"]]', "not a list of pairs"),
        ("left_right_pairs = [[1, 2]]", "not a list of pairs"),
        ('left_right_pairs = [["A", "b"]]', r"names 'b', which is no label \(A, B, Eye_L, Eye_R\)"),
        ('left_right_pairs = [["A", "A"]]', "'A' twice"),
        ('left_right_pairs = [["A", "B"], ["Eye_L", "A"]]', "'A' twice"),
        ('left_right_pairs = [["Eye_R", "Eye_L"]]', r"right one first; write \['Eye_L', 'Eye_R'\]"),
        ('mirror_left_right = "no"', "is 'no'; write true or false"),
        ("mirror_left_right = 0", "is 0; write true or false"),
        ("mirror_leftright = false", "mirror_leftright, above .labels., is not known: write mirror_left_right"),
    ],
)
def test_a_wrong_line_about_sides_is_named_with_its_value(tmp_path: Path, line: str, message: str):
    path = tmp_path / "organs.toml"
    path.write_text(f"{line}\n[labels]\nA = []\nB = []\nEye_L = []\nEye_R = []\n")
    with pytest.raises(ValueError, match=rf"organs\.toml.*{message}"):
        load_label_table(path)


def test_a_line_about_sides_above_and_below_the_labels_is_refused(tmp_path: Path):
    path = tmp_path / "organs.toml"
    path.write_text("mirror_left_right = true\n[labels]\nA = []\nmirror_left_right = false\n")
    with pytest.raises(ValueError, match=r"mirror_left_right, below \[labels\], is written twice"):
        load_label_table(path)


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
