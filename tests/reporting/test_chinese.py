"""Sentences of the package in Chinese: what is carried over, and that no place is lost."""

from __future__ import annotations

import json
import re
from importlib import resources

import pytest

from nnunet_ext.reporting.chinese import in_chinese

SENTENCES = json.loads(
    (resources.files("nnunet_ext.reporting") / "assets" / "sentences.json").read_text(encoding="utf-8")
)


def test_both_forms_of_a_sentence_have_the_same_places():
    for english, chinese in SENTENCES.items():
        assert sorted(re.findall(r"\{\w+\}", english)) == sorted(re.findall(r"\{\w+\}", chinese)), english


def test_every_sentence_is_recognised_and_what_it_names_is_carried_over():
    for english in SENTENCES:
        places = re.findall(r"\{(\w+)\}", english)
        values = {p: "localizer" if p == "stage" else "all organs" if p == "sentence" else f"x{p}7" for p in places}
        chinese = in_chinese(english.format(**values))
        assert chinese is not None, english
        kept = [value for place, value in values.items() if place not in ("stage", "sentence")]
        assert all(value in chinese for value in kept), (english, chinese)


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("Eye_L", "左眼球"),
        ("Cochlea_X", None),
        ("something new happened", None),
        ("Bold: p < 0.05. No test with fewer than 6 pairs.", "粗体：p < 0.05。少于 6 对时不作检验。"),
        ("Bold: p < 0.05. Something new.", None),
        ("Tolerances in mm: Eye_L 1.65, Lens_L 0.98.", "容差（mm）：左眼球 1.65、左晶状体 0.98。"),
        ("segmenter HD95 mm", "分割网络：HD95 mm"),
    ],
)
def test_organs_come_by_their_chinese_names_and_the_unknown_stays(english, chinese):
    assert in_chinese(english) == chinese
