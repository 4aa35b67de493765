import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.cases.preparing import ChannelOptions, prepare_channels
from nnunet_ext.dataset_conversion.conversion_page import write_conversion_page
from nnunet_ext.dataset_conversion.preview import draw_previews
from nnunet_ext.labels.table import default_label_table
from nnunet_ext.phantom.making import Phantom


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
    assert picture.shape[0] > picture.shape[1]  # two channels of two views, four columns each
    yellow = (picture[..., 0] > 0.6) & (picture[..., 1] > 0.6) & (picture[..., 2] < 0.45)
    assert np.count_nonzero(yellow) > 500  # the window ends below 250 HU


# ------------------------------------------------------------------------------------------------------- the page


def record(name: str, eye: int = 1000, warnings: tuple[str, ...] = ()) -> dict:
    return {
        "identifier": name,
        "outputs": [f"labelsTr/{name}.nii.gz"],
        "channels": {
            "CT": {
                "size": [5, 7, 11],
                "spacing_mm": [1.0, 2.0, 3.0],
                "couch_and_mask_removed_ml": 41.6,
                "body_ml": 3000.0,
            },
            "T1": {
                "size": [5, 7, 11],
                "spacing_mm": [1.0, 2.0, 3.0],
                "coverage": 0.9,
                "n4_field": [0.81, 1.22],
                "registration": {"kept": "rigid", "moved_mm": {"mean": 12.34, "max": 20.0}},
            },
        },
        "reference_channel": "CT",
        "label_voxels": {"after": {"Eye_L": eye}},
        "warnings": list(warnings),
    }


def test_the_page_puts_failures_first_then_warnings_then_the_rest(tmp_path: Path):
    cases = [record("quiet"), record("noisy", warnings=("T1 covers 90% of the CT's body",))]
    page = write_conversion_page(tmp_path, cases=cases, failed={"lost": "no <CT>"}, label_names=["Eye_L"]).read_text()
    assert [page.index(word) for word in ("lost", 'id="noisy"', 'id="quiet"')] == sorted(
        page.index(word) for word in ("lost", 'id="noisy"', 'id="quiet"')
    )
    assert "no &lt;CT&gt;" in page
    assert "no <CT>" not in page
    assert "couch and mask 42 mL" in page
    assert "N4 field 0.81..1.22" in page
    assert "rigid alignment, moved 12.3 mm" in page
    assert "6.00" in page  # 1000 voxels of 6 mm3
    assert not re.search(r"https?:|//|<script", page)  # nothing from the network


def test_a_volume_far_from_the_other_cases_is_marked(tmp_path: Path):
    cases = [record(f"case_{n}", eye=1000 + 10 * n) for n in range(6)] + [record("odd", eye=1500)]
    page = write_conversion_page(tmp_path, cases=cases, failed={}, label_names=["Eye_L"]).read_text()
    assert "Eye_L has 9.00 mL, the median of the cases is 6.18 mL" in page
    assert page.count('class="bad"><small>') == 1
    few = write_conversion_page(tmp_path, cases=cases[-3:], failed={}, label_names=["Eye_L"]).read_text()
    assert 'class="bad"><small>' not in few


def test_the_page_shows_the_pictures_that_are_there_lazily(tmp_path: Path):
    folder = tmp_path / "preview" / "case_1"
    folder.mkdir(parents=True)
    (folder / "1_couch_and_mask.png").write_bytes(b"")
    sources = []

    class Images(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list) -> None:
            if tag == "img":
                sources.append((dict(attrs)["src"], dict(attrs)["loading"]))

    Images().feed(write_conversion_page(tmp_path, cases=[record("case_1")], failed={}).read_text())
    assert sources == [("preview/case_1/1_couch_and_mask.png", "lazy")]
