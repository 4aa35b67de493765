"""Text of headers in any character set."""

from __future__ import annotations

from pathlib import Path

import pytest
from drawn_contours import series

from nnunet_ext.dicom.rtstruct_reader import read_rtstruct
from nnunet_ext.dicom.rtstruct_writer import write_contours
from nnunet_ext.dicom.text import decode_text, readable_text

CHINESE = ("左眼球", "视交叉")


@pytest.mark.parametrize(
    ("stated", "encoding"),
    [
        ("GB18030", "gb18030"),
        ("ISO_IR 192", "utf-8"),
        ("ISO_IR 100", "gb2312"),
        ("ISO_IR 100", "utf-8"),
        ("", "gb18030"),
        ("", "utf-8"),
        ("UNHEARD OF", "utf-8"),
    ],
)
def test_chinese_names_are_read_whatever_character_set_is_stated(tmp_path: Path, stated: str, encoding: str):
    ct = series(tmp_path / "ct")
    holders = {letter * len(name.encode(encoding)): name for letter, name in zip("XY", CHINESE, strict=True)}
    path = tmp_path / "RS"
    write_contours({holder: [] for holder in holders}, ct, path)
    raw = path.read_bytes().replace(b"ISO_IR 192", stated.encode().ljust(10))
    for holder, name in holders.items():
        raw = raw.replace(holder.encode(), name.encode(encoding))
    path.write_bytes(raw)
    assert tuple(roi.name for roi in read_rtstruct(path).rois) == CHINESE


ESCAPED = {
    "chinese": (["", "ISO 2022 IR 58"], b"\x1b$)A" + "左眼球".encode("gb2312"), "左眼球"),
    "chinese, declared alone": (["ISO 2022 IR 58"], b"\x1b$)A" + "左眼球".encode("gb2312"), "左眼球"),
    "chinese, not declared": ([], b"\x1b$)A" + "左眼球".encode("gb2312"), "左眼球"),
    "chinese, declared as latin": (["ISO_IR 100"], b"\x1b$)A" + "左眼球".encode("gb2312"), "左眼球"),
    "chinese, traditional": (["", "ISO 2022 IR 58"], b"\x1b$)A" + "視神經".encode("gbk") + b"_R", "視神經_R"),
    "chinese, back to ascii": (
        ["", "ISO 2022 IR 58"],
        b"Eye \x1b$)A" + "左".encode("gb2312") + b"\x1b(B L",
        "Eye 左 L",
    ),
    "chinese, escape forgotten": (["", "ISO 2022 IR 58"], "左眼球".encode("gb2312"), "左眼球"),
    "korean": (["", "ISO 2022 IR 149"], b"\x1b$)C" + "시신경".encode("euc_kr"), "시신경"),
    "korean, escape forgotten": (["", "ISO 2022 IR 149"], "시신경".encode("euc_kr"), "시신경"),
    "japanese": (["", "ISO 2022 IR 87"], "視神経".encode("iso2022_jp"), "視神経"),
    "japanese kana": (
        ["ISO 2022 IR 13", "ISO 2022 IR 87"],
        "ﾔﾏﾀﾞ".encode("shift_jis") + "右".encode("iso2022_jp"),
        "ﾔﾏﾀﾞ右",
    ),
    "kana without escape": (["ISO_IR 13"], "ﾂｱ".encode("shift_jis"), "ﾂｱ"),
    "greek": (["ISO 2022 IR 100", "ISO 2022 IR 126"], b"\x1b-F" + "μάτι".encode("iso8859_7"), "μάτι"),
    "russian": (["ISO_IR 144"], "глаз".encode("iso8859_5"), "глаз"),
    "gbk": (["GBK"], "視神經".encode("gbk"), "視神經"),
    "gb 18030": (["GB18030"], "左眼球".encode("gb18030"), "左眼球"),
    "gb 18030 that is utf-8": (["GB18030"], "左视神经".encode(), "左视神经"),
    "utf-8 that is gb 2312": (["ISO_IR 192"], "左眼球".encode("gb2312"), "左眼球"),
    "utf-8 that is latin": (["ISO_IR 192"], "Müller".encode("latin-1"), "Müller"),
    "padded": (["", "ISO 2022 IR 58"], b" \x1b$)A" + "左眼球".encode("gb2312") + b" \x00", "左眼球"),
}


@pytest.mark.parametrize("kind", ESCAPED)
def test_names_are_decoded_from_their_bytes(kind: str):
    charsets, raw, name = ESCAPED[kind]
    assert decode_text(raw, charsets) == name


def test_each_component_and_group_of_a_person_is_decoded():
    mark = b"\x1b$)A"
    raw = b"Zhang^San=" + mark + "张".encode("gb2312") + b"^" + mark + "三".encode("gb2312")
    assert decode_text(raw, ["", "ISO 2022 IR 58"]) == "Zhang^San=张^三"
    raw = b"Yamada^Tarou=" + b"^".join(part.encode("iso2022_jp") for part in ("山田", "太郎")) + b"=" + b"^".join(
        part.encode("iso2022_jp") for part in ("やまだ", "たろう"))  # fmt: skip
    assert decode_text(raw, ["", "ISO 2022 IR 87"]) == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    raw = b"\x1b-F" + "Διον".encode("iso8859_7") + b"^" + "é".encode("latin-1")  # ^ puts the first set back
    assert decode_text(raw, ["ISO 2022 IR 100", "ISO 2022 IR 126"]) == "Διον^é"


def test_western_names_stay_as_they_are():
    for name in ("Müller", "Pääkkönen", "Léa", "Øre"):
        assert readable_text(name, {"SpecificCharacterSet": "ISO_IR 100"}) == name
