"""nnU-Net's raw dataset: its folder, `dataset.json`, and cases of earlier runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from case_folders import SHAPE, SPACING_MM, array, run, volumes, write_case
from reference_tables import check_file

from nnunet_ext.dataset_conversion.convert import convert
from nnunet_ext.dataset_conversion.listing import list_cases
from nnunet_ext.labels.organs import ORGANS


def test_dataset_json_names_channels_labels_reader_and_options(tmp_path: Path):
    write_case(tmp_path / "src" / "a")
    write_case(tmp_path / "src" / "b", seed=1)
    write_case(tmp_path / "src" / "c", skip=("label",))
    summary = run(tmp_path / "src", test_cases=["b"], window_hu=(-160, 240))
    content = json.loads((summary.dataset_folder / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "CT", "1": "T1", "2": "T2"}
    assert content["labels"] == {"background": 0, **{name: i for i, name in enumerate(ORGANS, 1)}}
    assert content["overwrite_image_reader_writer"] == "NibabelIOWithReorient"
    assert (content["numTraining"], content["file_ending"]) == (1, ".nii.gz")
    options = content["nnunet_ext"]
    assert options["modalities"] == ["CT", "T1", "T2"]
    assert options["window_hu"] == [-160, 240]
    assert (options["clean_ct"], options["n4"], options["orientation"]) == (True, False, "LPS")
    assert list(options["label_table"]) == list(ORGANS)
    assert {"nnunet_ext", "nnunetv2", "SimpleITK"} <= set(options["versions"])
    check_file(content, "dataset.json")
    check_file(json.loads((summary.dataset_folder / "provenance" / "a.json").read_text()), "provenance/CASE.json")
    ct = array(summary.dataset_folder / "imagesTr" / "a_0000.nii.gz")
    assert (ct.min(), ct.max()) == (-160, 49)
    assert sorted(p.name for p in summary.dataset_folder.glob("labelsT*/*")) == ["a.nii.gz", "b.nii.gz"]
    assert (summary.dataset_folder / "labelsTs" / "b.nii.gz").is_file()
    assert (summary.dataset_folder / "imagesTs" / "c_0002.nii.gz").is_file()


def test_nnunet_reads_the_dataset_with_its_own_reader_and_check(tmp_path: Path):
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    write_case(tmp_path / "src" / "a", code="PIR")
    dataset = run(tmp_path / "src", clean_ct=False).dataset_folder
    case = get_filenames_of_train_images_and_targets(str(dataset))["a"]
    images, properties = NibabelIOWithReorient().read_images(case["images"])
    np.testing.assert_allclose(properties["spacing"], SPACING_MM, rtol=1e-5)
    np.testing.assert_array_equal(images[0], volumes()["CT"][:, ::-1, ::-1])  # LPS to RAS
    np.testing.assert_array_equal(
        NibabelIOWithReorient().read_seg(case["label"])[0][0], volumes()["label"][:, ::-1, ::-1]
    )


SIDES_TABLE = '[labels]\nleft_eye = ["Eye_L"]\nright_eye = ["Eye_R"]\nPTV_R = ["PTV"]\n'


def test_what_a_table_says_about_sides_goes_into_dataset_json_and_converts_no_case_again(tmp_path: Path, caplog):
    table = tmp_path / "organs.toml"
    table.write_text(SIDES_TABLE)
    label = np.zeros(SHAPE, np.uint8)
    for value in (1, 2, 3):
        label[20:22, 20:22, 30 - 5 * value : 32 - 5 * value] = value
    write_case(tmp_path / "src" / "a", label=label)

    def converted() -> tuple[dict, list[str], str]:
        caplog.clear()
        summary = run(tmp_path / "src", labels_file=table)
        assert summary.failed == {}
        content = json.loads((summary.dataset_folder / "dataset.json").read_text())
        stated = {k: v for k, v in content.items() if k in ("left_right_pairs", "mirror_left_right")}
        return stated, summary.skipped, caplog.text

    stated, skipped, text = converted()
    assert (stated, skipped) == ({}, [])
    assert "planning will refuse these labels: 'PTV_R' looks like a right organ" in text
    assert any("'PTV_R' looks like" in line for line in list_cases(tmp_path / "src", labels_file=table).lines)
    table.write_text('left_right_pairs = [["left_eye", "right_eye"]]\n' + SIDES_TABLE)
    stated, skipped, text = converted()
    assert (stated, skipped) == ({"left_right_pairs": [["left_eye", "right_eye"]]}, ["a"])
    assert "PTV_R" not in text
    table.write_text(SIDES_TABLE + "mirror_left_right = false\n")
    stated, skipped, text = converted()
    assert (stated, skipped) == ({"mirror_left_right": False}, ["a"])
    assert 'dataset.json had left_right_pairs = [["left_eye", "right_eye"]], which the label table does not' in text


def test_a_folder_that_cannot_be_written_raises_in_one_line(tmp_path: Path):
    write_case(tmp_path / "src" / "a")
    (tmp_path / "raw").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"output .*raw is a file, where a folder is needed; choose another name"):
        run(tmp_path / "src")


def test_a_dataset_id_in_use_raises(tmp_path: Path):
    write_case(tmp_path / "src" / "a")
    (tmp_path / "raw" / "Dataset501_Liver").mkdir(parents=True)
    with pytest.raises(ValueError, match="dataset id 501 is taken by Dataset501_Liver"):
        run(tmp_path / "src")


def test_the_raw_folder_comes_from_the_environment(tmp_path: Path, monkeypatch):
    write_case(tmp_path / "src" / "a")
    options = {"dataset_id": 7, "name": "X", "n4": False, "n_processes": 1, "show_progress": False}
    monkeypatch.delenv("nnUNet_raw", raising=False)
    with pytest.raises(ValueError, match=r"nnUNet_raw is not set.*export nnUNet_raw="):
        convert(tmp_path / "src", **options)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "there"))
    assert convert(tmp_path / "src", **options).dataset_folder == tmp_path / "there" / "Dataset007_X"


def test_one_range_is_an_entry_for_planning_and_converts_no_case_again(tmp_path: Path):
    write_case(tmp_path / "src" / "a")
    run(tmp_path / "src", window_hu=(-160, 240))
    summary = run(tmp_path / "src", window_hu=(-160, 240), one_range=True)
    assert summary.skipped == ["a"]
    content = json.loads((summary.dataset_folder / "dataset.json").read_text())
    assert content["one_intensity_range"] is True
    check_file(content, "dataset.json")
    with pytest.raises(ValueError, match="needs a CT with a window"):
        run(tmp_path / "src", one_range=True)


def test_cases_with_other_channels_are_not_mixed(tmp_path: Path):
    write_case(tmp_path / "src" / "a")
    run(tmp_path / "src")
    shutil.move(tmp_path / "src" / "a", tmp_path / "src" / "z")
    with pytest.raises(ValueError, match="holds case 'a' with other channels or labels"):
        run(tmp_path / "src", modalities=("CT",))
