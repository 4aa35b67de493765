"""Pictures of the steps of a conversion."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.cases.preparing import ChannelOptions, prepare_channels
from nnunet_ext.dataset_conversion.preview import draw_previews
from nnunet_ext.labels.table import default_label_table
from nnunet_ext.phantom.one_case import Phantom


@pytest.fixture(scope="module")
def phantom(shared_phantom) -> Phantom:
    return shared_phantom(0, 0, size="tiny")


def draw(phantom: Phantom, out: Path, options: ChannelOptions) -> list[str]:
    originals = {"CT": phantom.ct, "T1": phantom.t1}
    labels = sitk.GetArrayFromImage(phantom.label)
    channels = prepare_channels(originals, options, keep=labels > 0, keep_steps=True)
    return draw_previews("case_1", out, channels=channels, labels=labels, label_values=default_label_table().values)


def test_every_step_has_a_small_picture(phantom: Phantom, tmp_path: Path):
    files = draw(phantom, tmp_path, ChannelOptions(window_hu=(-160, 240)))
    assert files == ["1_couch_and_mask.png", "2_bias_field.png", "3_window.png", "4_alignment.png", "5_labels.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    for file in files:
        assert 3_000 < (tmp_path / file).stat().st_size < 200_000, file
        assert matplotlib.image.imread(tmp_path / file)[..., :3].std() > 0.05, file


def test_a_step_that_was_not_done_has_no_picture(phantom: Phantom, tmp_path: Path):
    assert draw(phantom, tmp_path, ChannelOptions(clean_ct=False, n4=False)) == ["4_alignment.png", "5_labels.png"]


def test_what_was_taken_off_is_red_and_only_in_the_middle(phantom: Phantom, tmp_path: Path):
    draw(phantom, tmp_path, ChannelOptions(n4=False))
    picture = matplotlib.image.imread(tmp_path / "1_couch_and_mask.png")[..., :3]
    red = (picture[..., 0] > 0.6) & (picture[..., 1] < 0.45) & (picture[..., 2] < 0.45)
    third = picture.shape[1] // 3
    assert np.count_nonzero(red[:, third : 2 * third]) > 300  # the couch alone is that wide
    assert np.count_nonzero(red[:, : third - 4]) == np.count_nonzero(red[:, 2 * third + 4 :]) == 0


def test_a_registered_case_shows_the_chess_boards_before_and_after_and_bone_under_a_window(
    phantom: Phantom, tmp_path: Path
):
    originals = {"CT": phantom.ct, "T1": phantom.t1, "T2": phantom.t2}
    channels = prepare_channels(originals, ChannelOptions(n4=False, window_hu=(-160, 240)), keep_steps=True)
    channels.record["T1"]["registration"] = channels.record["T2"]["registration"] = {"kept": "rigid"}
    draw_previews("case_1", tmp_path, channels=channels)
    picture = matplotlib.image.imread(tmp_path / "4_alignment.png")[..., :3]
    n_rows, n_columns = 4, 5  # two channels of two views: the CT, and two pictures before and after
    assert picture.shape[1] / picture.shape[0] == pytest.approx(n_columns / n_rows, rel=0.3)
    ct = picture[:, : picture.shape[1] // n_columns]
    assert np.count_nonzero((ct[..., 1] > 0.6) & (ct[..., 0] < 0.6)) > 100  # its skin is drawn on it
    yellow = (picture[..., 0] > 0.6) & (picture[..., 1] > 0.6) & (picture[..., 2] < 0.45)
    assert np.count_nonzero(yellow) > 500  # the window ends below 250 HU
