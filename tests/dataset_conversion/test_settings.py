"""Channels, label table and window of a conversion."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nnunet_ext.cases.preparing import ChannelOptions
from nnunet_ext.dataset_conversion.settings import (
    Settings,
    checked_modalities,
    checked_window,
    default_modalities,
    label_table_of,
)
from nnunet_ext.labels.organs import ORGANS


def test_channels_keep_their_order_and_the_ct_its_spelling():
    assert checked_modalities(["T2", "ct", "PET"]) == ("T2", "CT", "PET")
    assert checked_modalities("CT") == ("CT",)


@pytest.mark.parametrize("names", [[], ["CT", "T1", "ct"], ["T1", "t1"]])
def test_a_channel_is_given_once(names: list[str]):
    with pytest.raises(ValueError, match="give each channel once"):
        checked_modalities(names)


@pytest.mark.parametrize("window", [(240, -160), (5, 5), (-math.inf, 0), (0, math.nan)])
def test_a_window_without_values_is_refused(window: tuple[float, float]):
    with pytest.raises(ValueError, match="is empty"):
        checked_window(window)
    assert checked_window(("-160", 240)) == (-160.0, 240.0)


def test_the_public_set_has_no_t2_and_no_lenses(tmp_path: Path):
    assert default_modalities("hanseg") == ("CT", "T1")
    assert default_modalities("dicom") == default_modalities("folders") == ("CT", "T1", "T2")
    assert label_table_of("folders", None).names == ORGANS
    assert set(ORGANS) - set(label_table_of("hanseg", None).names) == {"Lens_L", "Lens_R"}
    (tmp_path / "labels.toml").write_text("[labels]\nBrain = []\n")
    assert label_table_of("hanseg", tmp_path / "labels.toml").names == ("Brain",)


def test_settings_are_recorded_as_plain_json():
    settings = Settings(("CT", "T1"), label_table_of("folders", None), ChannelOptions(window_hu=(-160.0, 240.0)))
    record = settings.as_dict()
    assert record["modalities"] == ["CT", "T1"]
    assert list(record["label_table"]) == list(ORGANS)
    assert record["orientation"] == "LPS"
    assert tuple(record["window_hu"]) == (-160.0, 240.0)
