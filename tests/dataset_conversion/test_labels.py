"""Labels brought onto the grid of the images, and checked there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from case_folders import SHAPE, array, run, to_image, volumes, write_case, write_masks

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.messages import in_english


def test_swapped_sides_are_warned_of_however_the_organs_are_called(tmp_path: Path):
    table = tmp_path / "organs.toml"
    label = np.zeros(SHAPE, np.uint8)
    label[20:22, 20:22, 12:14], label[20:22, 20:22, 30:32] = 1, 2  # x runs to the left
    write_case(tmp_path / "src" / "a", label=label)
    for names, line in ((("左眼", "右眼"), ""), (("one", "other"), 'left_right_pairs = [["one", "other"]]\n')):
        table.write_text(f"{line}[labels]\n" + "".join(f'"{name}" = []\n' for name in names), encoding="utf-8")
        summary = run(tmp_path / "src", labels_file=table)
        assert f"{names[0]} lies to the right of {names[1]}: are the sides swapped?" in in_english(
            summary.warnings["a"]
        )


def test_labels_on_the_grid_of_the_mr_are_resampled_without_new_values(tmp_path: Path):
    folder = write_case(tmp_path / "src" / "a", skip=("T1", "label"))
    big = np.zeros(SHAPE, dtype=np.uint8)
    big[12:18, 8:16, 12:20], big[12:18, 8:16, 20:28] = 6, 5
    for name, values in (("T1", volumes()["T1"]), ("label", big)):
        image = to_image(values)
        grid = ((50, 44, 34), sitk.Transform(), sitk.sitkNearestNeighbor, (-112, -97, 297), (4.6, 4.7, 5.5))
        sitk.WriteImage(sitk.Resample(image, *grid, image.GetDirection()), str(folder / f"{name}.nii.gz"))
    table = tmp_path / "labels.toml"  # no nerve is as large
    table.write_text("[labels]\n" + "".join(f"Block{n} = []\n" for n in range(1, 7)))
    summary = run(tmp_path / "src", labels_file=table)
    assert summary.failed == {}
    result = array(summary.dataset_folder / "labelsTr" / "a.nii.gz")
    assert set(np.unique(result)) == {0, 5, 6}
    assert np.count_nonzero(result == 5) == pytest.approx(6 * 8 * 8, rel=0.1)
    assert "labels are drawn on the grid of T1" in str(summary.warnings["a"][0])


@pytest.mark.parametrize(
    ("organ", "where", "message"),
    [
        ("Lens_L", np.s_[12:17, 8:14, 24:28], r"Lens_L measures 19\.8 ml, plausible are 0\.08 to 0\.5 ml"),
        ("OpticChiasm", np.s_[1:, 1:, 1:], r"OpticChiasm fills 92% of the image"),
    ],
)
@pytest.mark.parametrize("masks", [False, True])
def test_a_mask_that_cannot_be_the_organ_is_refused(tmp_path: Path, organ: str, where, message: str, masks: bool):
    label = volumes()["label"]
    value = ORGANS.index(organ) + 1
    label[label == value] = 0
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[where] = 1
    folder = write_case(tmp_path / "src" / "a", label=None if masks else np.where(drawn, value, label).astype(np.uint8))
    if masks:
        write_masks(folder, {organ: drawn})
    summary = run(tmp_path / "src")
    assert re.search(message, summary.failed["a"]), summary.failed
    assert not (summary.dataset_folder / "labelsTr").exists()


def test_odd_volumes_are_one_line(tmp_path: Path):
    write_case(tmp_path / "src" / "a")  # every organ measures 1.3 ml here
    (line,) = [line for line in in_english(run(tmp_path / "src").warnings["a"]) if "plausible" in line]
    assert line.startswith("Eye_L measures 1.32 ml, plausible are 3 to 12 ml; Eye_R measures 1.32 ml")
    assert line.endswith(": check names and label values")


def test_swapped_sides_are_reported(tmp_path: Path):
    label = volumes()["label"]
    swapped = np.array([0, 2, 1, 3, 4, 5, 6, 7], dtype=np.uint8)[label]
    write_case(tmp_path / "src" / "a", label=swapped)
    assert any("Eye_L lies to the right of Eye_R" in line for line in in_english(run(tmp_path / "src").warnings["a"]))


def test_an_organ_outside_the_field_of_view_of_an_mr_fails(tmp_path: Path):
    folder = write_case(tmp_path / "src" / "a")
    image = to_image(volumes()["T1"])
    sitk.WriteImage(image[:, 9:, :], str(folder / "T1.nii.gz"))  # the eyes lie in front
    assert "100% of Eye_L lies outside the field of view of T1" in run(tmp_path / "src").failed["a"]
