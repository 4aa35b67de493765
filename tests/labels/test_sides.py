"""Sides in names, in every spelling."""

from __future__ import annotations

import pytest

from nnunet_ext.labels.sides import chinese_name, organ_word, side_of


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
