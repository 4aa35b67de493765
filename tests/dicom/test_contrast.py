"""Names and headers of real scanners and hospitals, and the channel that each is."""

from __future__ import annotations

import pytest

from nnunet_ext.dicom.contrast import classify, is_combined, plain_words
from nnunet_ext.messages import Message


def channel(**headers) -> tuple[str, str, list[str]]:
    values = {"Modality": "MR", **headers}
    return classify(
        lambda tag: str(values.get(tag, "")), lambda tag: None if isinstance(values.get(tag), str) else values.get(tag)
    )


def table(text: str) -> list[str]:
    return [name.strip() for name in text.strip().split("|")]


T1 = table("""
T1 | t1_mprage_sag | t1_mpr_ns_sag_p2_iso | MPRAGE_GRAPPA2 | mocoMEMPRAGE | MEMPRAGE RMS | AX T1 FLAIR | AX T1 FLAIR+C |
OAx T1 FLAIR | Sag BRAVO | AX BRAVO +C | 3D FSPGR | IR-FSPGR | Ax T1 MEMP | Sag T1 CUBE +C | T1W_TSE | sT1W_3D_TFE |
WIP T1W_3D_TFE | T1W/3D/TFE | cs_T1W_3D_TFE | eTHRIVE | BrainVIEW T1 | T1 FFE | AXT1 | SAG3DT1 | 3DT1MPRAGE | T1wTSE |
t1_space_sag_iso | T1 SPC | t1_fl2d_tra | t1_fl3d_FA_15 | sub-01_T1w | T1 BLADE | T1 IR TSE | T1 TIRM | t1_mprage_R2 |
t1_gre_fsp_3d_sag | T1 GRE | T1 MTC +C | t1_mp2rage_sag_UNI_Images | mp2rage UNI-DEN | T1 MPR | t1_tse_dark-blood |
T1 arterial phase | T1 no phase wrap | T1 post fossa | Ax T1 ASSET | Ax T1 flow comp | T1 B1corr | T1 prescan norm |
T1加权 | 轴位T1WI | 矢状位T1 | T1-gewichtet tra | T1 pondéré | \uff34\uff11 \uff34\uff33\uff25
""")
T2 = table("""
T2 | T2W_TSE | sT2W_TSE | t2_space_sag | t2_spc_sag_p2_iso | t2_haste_tra | t2_blade_tra | AX T2 PROPELLER |
Ax T2 FRFSE | AX T2 FSE ASSET | T2W_DRIVE | 3D T2 DRIVE | T2 VISTA | Sag CUBE T2 | BrainVIEW T2 | T2 MultiVane | T2 RADAR |
T2 FASE | t2_fse_arms_tra | AXT2 | T2FSE | T2 headcoil | T2 tse epilepsy | T2 post | T2W_TSE_3mm_FA90 | T2-weighted |
T2加权 | 矢状位T2 | T2 gewichtet
""")
NEITHER = {
    "field map": table("gre_field_mapping | FieldMap | IM_0027_fMAP | B0 map | B1map | tfl_b1map | T1 B0"),
    "computed map": table("R2* | R2star | qT1 | qT2 | T1 map | T1Map | T1_mapping | T2 MapIt | MOLLI | T1rho | MTR | PDFF | "
                          "t1_mp2rage_sag_T1_Images | FatFrac: Ax T1"),
    "one of several inversions": table("mp2rage_INV1 | mp2rage_INV2 | second inversion T1"),
    "real or imaginary part": table("T1 real | T1 PSIR | T1 imaginary"),
    "phase": table("T1 phase | T1_PHS | Pha_Images"),
    "fat or opposed phase": table("t1_tse_dixon_tra_F | t1_vibe_dixon_opp | t1_vibe_dixon_out | FAT: Ax T1 FLEX | "
                                  "OutPhase: Ax T1 LAVA | T1 opposed phase | T1 out of phase | T1 in/out phase | "
                                  "mDIXON OP T1 | T1反相位"),
    "T2*": table("T2_me2d GRE | t2_fl2d_hemo | T2 Hämo | T2 MEDIC | T2 MERGE | T2* | T2-star | AX T2 * | SWI | "
                 "QSM | 磁敏感"),
    "angiography": table("TOF | 3D TOF | T1 TOF | MRA | 2D PC | phase contrast | 血管成像"),
    "diffusion": table("DWI | isoDWI | ep2d_diff | eADC | TRACEW | b1000 | 弥散 | HARDI"),
    "perfusion or dynamic": table("ASL | pCASL | PWI | relCBF | DSC | T1 DCE | t1 twist dynamic | 灌注"),
    "subtraction": table("T1 SUB | T1 Subtraktion | 减影"),
    "projection": table("mIP_Images(SW) | T1 MIP"),
    "balanced gradient echo": table("CISS | FIESTA-C | T2 CISS 3D | bTFE | TrueFISP | DESS"),
    "synthetic": table("Synthetic T1 | SyMRI T2W | MAGiC T1"),
    "STIR": table("STIR | T2 STIR"),
    "double inversion": table("DIR"),
    "FLAIR or STIR": table("FLAIR | T2 FLAIR | T2FLAIR | t2_tirm_tra_dark-fluid | t2_spc_da-fl | TIRM | T2压水"),
    "localizer or calibration": table("localizer | Lokalisator | survey | 3-pl loc | AAHScout | Coil sens | SENSE ref | "
                                      "RefScan | ASSET calibration | 定位"),
    "fluid": table("内耳水成像"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"), [*((name, "T1") for name in T1), *((name, "T2") for name in T2)], ids=[*T1, *T2]
)
@pytest.mark.parametrize("where", ["SeriesDescription", "ProtocolName"])
def test_plain_t1_and_t2_are_known_by_their_names(where: str, name: str, expected: str):
    assert channel(**{where: name})[:2] == (expected, "named so")


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in NEITHER.items() for name in names])
def test_names_of_other_images_are_no_channel_and_say_their_kind(kind: str, name: str):
    # Echo and repetition time that would do for a T1: the words go first.
    for times in ({}, {"EchoTime": 4.9, "RepetitionTime": 400.0, "ScanningSequence": "GR"}):
        found, reason, notes = channel(SeriesDescription=name, ProtocolName=name, **times)
        assert (found, notes) == ("", [])
        assert f"({kind})" in reason


@pytest.mark.parametrize(
    "name", ["T2 GRE", "T2 FFE", "T2 EG", "T2 fl3d", "PD", "PD_TSE", "PDW", "T1_T2", "t2_spc_ir", "FA"]
)
def test_other_names_that_are_neither_t1_nor_t2(name: str):
    assert channel(SeriesDescription=name, EchoTime=4.9, RepetitionTime=400.0, ScanningSequence="GR")[0] == ""


@pytest.mark.parametrize(
    "kind",
    [
        "P\\ND", "R\\IR", "R_IR\\R\\IR", "I_FFE\\I\\FFE", "PHASE MAP\\P\\FFE", "B0 MAP\\B0", "T1 MAP", "T2_STAR MAP",
        "DIXON\\FAT", "DIXON\\OPP_PHASE", "F\\F\\DERIVED", "OP\\OP\\DERIVED", "FAT_FRACTION", "PROJECTION IMAGE\\MIP",
        "SUBTRACTION", "SWI\\NORM", "VELOCITY MAP\\V", "ADC", "PERFUSION\\CBF", "ANGIO\\TOF", "PSIR",
    ],
)  # fmt: skip
def test_image_types_of_other_images_are_no_channel(kind: str):
    found, reason, _ = channel(SeriesDescription="t1", ImageType=f"ORIGINAL\\PRIMARY\\{kind}")
    assert found == ""
    assert reason.startswith("its image type says ")


@pytest.mark.parametrize(
    "kind",
    ["M\\ND\\NORM\\DIS2D", "M_FFE\\M\\FFE", "M_IR\\M\\IR", "AXIAL", "OTHER\\MEAN", "MPR", "DIXON\\IN_PHASE"],
)
def test_image_types_of_plain_images_change_nothing(kind: str):
    assert channel(SeriesDescription="t1 tse", ImageType=f"ORIGINAL\\PRIMARY\\{kind}") == ("T1", "named so", [])


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"SeriesDescription": "t1_vibe_opp-in_tra_in", "ImageType": "ORIGINAL\\PRIMARY\\M\\IN_PHASE"}, "T1"),
        ({"SeriesDescription": "t1_vibe_opp-in_tra_opp", "ImageType": "ORIGINAL\\PRIMARY\\M\\OPP_PHASE"}, ""),
        ({"ComplexImageComponent": "PHASE"}, ""),
        ({"ComplexImageComponent": "REAL"}, ""),
        ({"ComplexImageComponent": "MAGNITUDE"}, "T1"),
        ({"RawDataType": 1.0}, ""),  # GE
        ({"RawDataType": 0.0}, "T1"),
        ({"DiffusionBValue": 800.0}, ""),
        ({"DiffusionBValue": 0.0}, "T1"),  # Philips writes it into every image
        ({"SequenceName": "*fm2d2"}, ""),
        ({"SequenceName": "*fl3d1_ns"}, "T1"),
        ({"SequenceName": "*tfl3d1_16ns"}, "T1"),
        ({"ScanningSequence": "EP\\GR"}, ""),
        ({"SeriesDescription": "T2", "ScanningSequence": "GR"}, ""),
        ({"SeriesDescription": "T2 grase", "ScanningSequence": "SE\\GR"}, "T2"),
        ({"SeriesDescription": "T2", "ScanningSequence": "SE\\IR"}, ""),
        ({"SeriesDescription": "T1", "ScanningSequence": "SE\\IR"}, "T1"),
        ({"SeriesDescription": "mp2rage", "InversionTime": 2700.0}, ""),
        ({"SeriesDescription": "PD+T2", "EchoTime": 12.0, "RepetitionTime": 3000.0}, ""),
        ({"SeriesDescription": "PD+T2", "EchoTime": 95.0, "RepetitionTime": 3000.0}, "T2"),
    ],
)
def test_other_elements_of_the_header_count(headers: dict, expected: str):
    assert channel(**{"SeriesDescription": "t1 tse", **headers})[0] == expected


@pytest.mark.parametrize(
    ("description", "protocol", "expected"),
    [
        ("Ax T1 POST", "BRAIN W DWI PERFUSION", "T1"),  # the protocol of the whole examination
        ("t2_tse_tra", "T1 T2 FLAIR DWI", "T2"),
        ("SUB", "t1_vibe", ""),
        ("Mag_Images", "t2_swi_tra", ""),
        ("series 5", "gre_field_mapping", ""),
        ("series 5", "t1_mprage", "T1"),
    ],
)
def test_the_description_goes_before_the_protocol(description: str, protocol: str, expected: str):
    assert channel(SeriesDescription=description, ProtocolName=protocol)[0] == expected


WITH_AGENT = table("""
AX T1 FLAIR+C | T1+C | T1 +Gd | T1 post | T1post | T1 C+ | T1C+ | T1C | T1ce | T1GD | T1 KM | T1 nach KM | t1 tra +KM |
T1增强 | T1强化 | T1 w/ contrast | T1 with contrast | T1_POST_GD | T1 gado | T1 pre op post Gd | T1 enhanced | CE-T1 |
T1 (C+) | T1 post-contrast | T1 + C | T1W+C | T1 MPRAGE+C | T1 après injection | T1 mit KM
""")
WITHOUT_AGENT = table("""
T1 | T1 native | T1 nativ | T1 w/o | T1 w/o contrast | T1 without contrast | T1 pre contrast | T1 PRE | AXT1PRE | T1 pre Gd |
T1 ohne KM | T1 vor KM | T1 non-contrast | T1 unenhanced | T1 C- | T1 -C | T1平扫 | T1增强前 | T1 sans injection |
T1 c-spine | T1 post fossa | T1 posterior | T1 postop | T1 w/wo contrast | T1 no contrast
""")


@pytest.mark.parametrize("name", WITH_AGENT)
def test_contrast_agent_is_noted(name: str):
    found, _, notes = channel(SeriesDescription=name)
    assert (found, notes) == ("T1", [Message("contrast_enhanced")])


@pytest.mark.parametrize("name", WITHOUT_AGENT)
def test_no_contrast_agent_is_noted_where_none_was_given(name: str):
    found, _, notes = channel(SeriesDescription=name)
    assert (found, notes) == ("T1", [])


@pytest.mark.parametrize(
    ("agent", "noted"),
    [("Gadovist", True), ("10 ml", True), ("", False), ("NONE", False), ("No contrast", False), ("n/a", False), ("0", False),
     ("nativ", False), ("ohne KM", False), ("无", False)],
)  # fmt: skip
def test_an_agent_of_the_header_is_noted_unless_it_is_none(agent: str, noted: bool):
    assert (Message("contrast_enhanced") in channel(SeriesDescription="t1", ContrastBolusAgent=agent)[2]) is noted


@pytest.mark.parametrize(
    ("name", "noted"),
    [
        ("T1 fs", True), ("T1FS", True), ("T2WFS", True), ("T2 fat sat", True), ("T2-fat_sat", True), ("T1 spir", True),
        ("T2 SPAIR", True), ("T1压脂", True), ("T1 fettgesättigt", True), ("t1_vibe_we", True), ("t1_vibe_dixon_W", True),
        ("WATER: Ax T1 FLEX", True), ("T2W mDIXON TSE water", True),
        ("T1", False), ("T1 no fs", False), ("T1 w/o FS", False), ("T2 non fat sat", False), ("t1_vibe_dixon_in", False),
        ("T1WI", False),
    ],
)  # fmt: skip
def test_fat_saturation_is_noted(name: str, noted: bool):
    found, _, notes = channel(SeriesDescription=name)
    assert found in ("T1", "T2")
    assert (Message("fat_saturated") in notes) is noted


def test_fat_saturation_of_the_header_is_noted():
    assert channel(SeriesDescription="t1", ScanOptions="PFP\\FS")[2] == [Message("fat_saturated")]
    assert channel(SeriesDescription="t1", ImageType="DERIVED\\PRIMARY\\W\\W")[2] == [Message("fat_saturated")]


def test_words_are_plain():
    assert plain_words("T1-Gewichtet_KM+") == "t1 gewichtet km+"
    assert plain_words("mocoMEMPRAGE 压脂T2WI") == "moco memprage 压脂 t2"


def test_the_mean_of_echoes_is_known():
    for headers in ({"ImageType": "ORIGINAL\\PRIMARY\\OTHER\\MEAN"}, {"SeriesDescription": "MEMPRAGE_4e RMS"}):
        assert is_combined(lambda tag, headers=headers: headers.get(tag, ""))
    assert not is_combined({"ImageType": "ORIGINAL\\PRIMARY\\M", "SeriesDescription": "MEMPRAGE"}.get)


@pytest.mark.parametrize(
    ("headers", "channel"),
    [
        ({"SeriesDescription": "t1_mprage_sag"}, "T1"),
        ({"SeriesDescription": "AX T1 FLAIR", "EchoTime": 20, "RepetitionTime": 2000}, "T1"),
        ({"SeriesDescription": "Sag BRAVO"}, "T1"),
        ({"SeriesDescription": "eT2W_TSE"}, ""),  # a house name: the mapping file
        ({"SeriesDescription": "T2W_TSE", "EchoTime": 90, "RepetitionTime": 4000}, "T2"),
        ({"ProtocolName": "T2 tra"}, "T2"),
        ({"SeriesDescription": "T2 FLAIR"}, ""),
        ({"SeriesDescription": "AX T2", "EchoTime": 120, "RepetitionTime": 9000, "InversionTime": 2500}, ""),  # FLAIR
        ({"SeriesDescription": "AX T2 STIR-like", "EchoTime": 80, "RepetitionTime": 4000, "InversionTime": 160}, ""),
        ({"SeriesDescription": "t2_spc_ir_sag_da-fl_iso"}, ""),
        ({"SeriesDescription": "T2 space dark-fluid"}, ""),
        ({"SeriesDescription": "T2压水"}, ""),
        ({"SeriesDescription": "横断位T2WI抑脂"}, "T2"),
        ({"SeriesDescription": "t2*"}, ""),
        ({"SeriesDescription": "T2-star"}, ""),
        ({"SeriesDescription": "T2_mapping"}, ""),
        ({"SeriesDescription": "T1 SUB"}, ""),
        ({"SeriesDescription": "t1 twist dynamic"}, ""),
        ({"SeriesDescription": "isoDWI", "EchoTime": 90, "RepetitionTime": 4000}, ""),
        ({"SeriesDescription": "eADC", "EchoTime": 90, "RepetitionTime": 4000}, ""),
        ({"EchoTime": 90, "RepetitionTime": 4000, "ScanningSequence": "EP\\SE"}, ""),
        ({"EchoTime": 90, "RepetitionTime": 4000, "SequenceName": "*ep_b1000t"}, ""),
        ({"EchoTime": 90, "RepetitionTime": 4000, "ImageType": "DERIVED\\PRIMARY\\DIFFUSION\\ADC"}, ""),
        ({"SeriesDescription": "t2 tse", "ImageType": "ORIGINAL\\PRIMARY\\P\\ND"}, ""),  # phase
        ({"EchoTime": 20, "RepetitionTime": 28, "ScanningSequence": "GR"}, ""),  # susceptibility
        ({"EchoTime": 3.6, "RepetitionTime": 22, "ScanningSequence": "GR", "AngioFlag": "Y"}, ""),
        ({"EchoTime": 2.9, "RepetitionTime": 2300, "InversionTime": 900, "ScanningSequence": "GR\\IR"}, "T1"),
        ({"SeriesDescription": "T2 STIR"}, ""),
        ({"SeriesDescription": "ADC"}, ""),
        ({"SeriesDescription": "T1", "EchoTime": 100, "RepetitionTime": 4000}, ""),
        ({"SeriesDescription": "brain", "EchoTime": 10, "RepetitionTime": 500}, "T1"),
        ({"SeriesDescription": "brain", "EchoTime": 100, "RepetitionTime": 4000}, "T2"),
        ({"SeriesDescription": "brain", "EchoTime": 100, "RepetitionTime": 9000, "InversionTime": 2500}, ""),
        ({"SeriesDescription": "brain"}, ""),
        ({"Modality": "CT", "SeriesDescription": "T1"}, "CT"),
        ({"Modality": "US"}, ""),
    ],
)
def test_channels_are_recognised_from_the_headers(headers: dict, channel: str):
    values = {"Modality": "MR", **headers}
    found, reason, _ = classify(lambda tag: str(values.get(tag, "")), lambda tag: values.get(tag))
    assert found == channel
    assert reason


@pytest.mark.parametrize(
    "headers",
    [
        {"ContrastBolusAgent": "Gd"},
        {"SeriesDescription": "t1 tse +C"},
        {"ProtocolName": "gd"},
        {"SeriesDescription": "T1增强"},
    ],
)
def test_a_contrast_enhanced_t1_is_a_t1_with_a_note(headers: dict):
    values = {"Modality": "MR", "SeriesDescription": "t1 tse", **headers}
    assert classify(lambda tag: values.get(tag, ""), lambda tag: None)[::2] == ("T1", [Message("contrast_enhanced")])
