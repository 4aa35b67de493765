"""The table of labels: names that users draw, files, and what they state about sides."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_ext.labels.organs import ORGANS
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
