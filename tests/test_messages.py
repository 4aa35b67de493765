"""Messages: every kind has its texts and is used, and a message survives files and processes."""

from __future__ import annotations

import ast
import json
import pickle
import string
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

import nnunet_ext
from nnunet_ext.labels.sides import chinese_name
from nnunet_ext.messages import Message, in_english, places

KINDS = json.loads((resources.files("nnunet_ext") / "messages.json").read_text(encoding="utf-8"))


def emitted() -> list[tuple[str, ast.Call]]:
    """Every call of `Message` in the installed package, and where it stands."""
    calls = []
    for file in sorted(Path(nnunet_ext.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Message":
                calls.append((f"{file.name}:{node.lineno}", node))
    return [(where, call) for where, call in calls if not where.startswith("messages.py")]


def fields(text: str) -> list[tuple[str, str]]:
    return sorted((place, form) for _, place, form, _ in string.Formatter().parse(text) if place is not None)


def test_both_texts_of_a_kind_have_the_same_places():
    for kind, texts in KINDS.items():
        assert texts.keys() == {"en", "zh"}, kind
        assert fields(texts["en"]) == fields(texts["zh"]), kind


def test_every_kind_in_the_code_has_texts_with_the_values_it_is_given():
    for where, call in emitted():
        kind, *values = (ast.literal_eval(call.args[0]), *call.args[1:])
        given = {ast.literal_eval(key) for dictionary in values for key in dictionary.keys}
        assert not call.keywords, where
        assert kind in KINDS, where
        assert given == places(kind), where


def test_no_kind_is_unused():
    assert sorted(KINDS.keys() - {ast.literal_eval(call.args[0]) for _, call in emitted()}) == []


@pytest.mark.parametrize(
    ("message", "english", "chinese"),
    [
        (
            Message("channels_lacking", {"channels": ["CT", "T1"], "lacking": ["T2"]}),
            "predicted from CT and T1 alone, without T2",
            "仅由 CT、T1 预测，缺少 T2",
        ),
        (
            Message("volume_unusual", {"organ": "Lens_L", "ml": np.float32(0.02), "low": 0.1, "high": 0.3}),
            "Lens_L measures 0.02 ml, usual are 0.1 to 0.3 ml",
            "左晶状体的体积为 0.02 ml，通常为 0.1 至 0.3 ml",
        ),
        (
            Message("no_voxel", {"organs": ["Eye_L", "Cochlea_X"]}),
            "no voxel of Eye_L, Cochlea_X",
            "没有任何体素属于左眼球、Cochlea_X",
        ),
        (
            Message("of_channel", {"channel": "T1", "message": Message("short_gaps", {"n": 4, "mm": 4.0})}),
            "T1: 4 gaps between slices are shorter than the 4 mm of the grid: detail is lost",
            "T1：4 处层间距小于网格的 4 mm：细节有损失",
        ),
        (
            Message("channel_is", {"channel": "T1", "message": Message("contrast_enhanced")}),
            "T1 is contrast-enhanced",
            "T1 为增强图像",
        ),
        (
            Message("slices_lost", {"channel": "T1", "n": 3, "all": 40, "plane": Message("axial")}),
            "T1: 3 of 40 axial slices hold one value where the body goes on: they were lost on export, or lie beyond what "
            "was scanned",
            "T1：40 层横断面中有 3 层在身体范围内只有一个数值：可能在导出时丢失，或在扫描范围之外",
        ),
    ],
)
def test_a_message_says_the_same_in_english_and_chinese_and_after_a_file(message, english, chinese):
    assert in_english([message]) == [english]
    assert message.text("zh", chinese_name) == chinese
    again = Message.from_json(json.loads(json.dumps(message.to_json())))
    assert (again, hash(again)) == (message, hash(message))
    assert pickle.loads(pickle.dumps(message)) == message


@pytest.mark.parametrize(
    "content",
    [
        "no voxel of Eye_L",
        {"kind": "no_voxel"},
        {"kind": "of_a_later_version", "values": {}},
        {"kind": "no_voxel", "values": {"organ": "Eye_L"}},
        {"kind": "short_gaps", "values": {"n": 1, "mm": "wide"}},
        {"kind": ["no_voxel"], "values": {}},
    ],
)
def test_what_is_no_message_is_refused(content):
    with pytest.raises(ValueError, match="is no message"):
        Message.from_json(content)


def test_what_is_personal_is_taken_out_of_inner_values_too():
    reason = Message("rtstruct_refused", {"error": "Miller is cut off"})
    message = Message("rtstruct_left_out", {"label": "Miller", "reason": reason})
    hidden = message.changed(lambda text: text.replace("Miller", "***"))
    assert str(hidden) == "the RTSTRUCT, ***, is left out: *** is cut off"
