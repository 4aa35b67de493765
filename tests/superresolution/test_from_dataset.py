import json
import subprocess
import sys
import time

import numpy as np
import pytest
import SimpleITK as sitk
from blobs import blobs
from reference_tables import check_file

from nnunet_ext.files import write_json
from nnunet_ext.superresolution.from_dataset import drawn_cases, learn_resampling
from nnunet_ext.superresolution.weights import read_learned_resampling

NAME = "Dataset501_Blobs"


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """A raw data set of three cases with slices of 4 mm, in the environment of nnU-Net."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    folder = tmp_path / "nnUNet_raw" / NAME
    (folder / "imagesTr").mkdir(parents=True)
    for number in range(3):
        write_case(folder, f"case_{number}", number)
    describe(folder)
    return folder


def describe(folder, **entries) -> None:
    labels = {"background": 0, "blob": 1}
    content = {"channel_names": {"0": "CT", "1": "T1"}, "labels": labels, "numTraining": 3, "file_ending": ".nii.gz"}
    write_json({**content, **entries}, folder / "dataset.json")


def write_case(folder, case: str, seed: int, spacing_mm=(1.0, 1.2, 4.0)) -> None:
    for channel in (0, 1):
        values = blobs(seed, (6, 40, 36)) * (1 + channel)
        write_image(folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz", values, spacing_mm)


def write_image(file, values: np.ndarray, spacing_mm=(1.0, 1.2, 4.0)) -> None:
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetSpacing(spacing_mm)
    sitk.WriteImage(image, str(file))


def learned(**options):
    return learn_resampling(501, **{"iterations": 2, "show_progress": False, **options})


def test_weights_and_record_lie_beside_the_preprocessed_data_set(raw, tmp_path):
    summary = learned()
    assert summary.file == tmp_path / "nnUNet_preprocessed" / NAME / "learned_resampling.npz"
    found = read_learned_resampling(summary.file)
    assert found.channels == ("CT", "T1")
    record = found.record
    check_file(record, "learned_resampling.json")
    assert (record["iterations"], record["seed"], record["thickness_mm"]) == (2, 0, [2.5, 7.0])
    assert sorted(record["trained_on"] + record["held_out"]) == ["case_0", "case_1", "case_2"]
    assert len(record["held_out"]) == 1
    judged = [(row["channel"], row["thickness_mm"], row["n_slices"]) for row in record["errors"]]
    assert judged == [(channel, mm, 3) for channel in ("CT", "T1") for mm in (3, 5, 7)]
    assert summary.table_markdown.count("\n") == 1 + len(judged)
    assert {file.name for file in summary.file.parent.iterdir()} == {summary.file.name, "learned_resampling.json"}


def test_the_same_seed_gives_the_same_files(raw):
    first = learned().file
    content = first.read_bytes(), first.with_suffix(".json").read_bytes()
    learned()
    assert (first.read_bytes(), first.with_suffix(".json").read_bytes()) == content
    learned(seed=1)
    assert first.read_bytes() != content[0]


def test_a_person_is_on_one_side(raw):
    describe(raw, same_person=[["case_0", "case_2"]])
    for seed in range(4):
        trained, held_out = drawn_cases(["case_0", "case_1", "case_2"], [["case_0", "case_2"]], seed)
        assert {tuple(trained), tuple(held_out)} == {("case_0", "case_2"), ("case_1",)}
    many = [f"case_{n:03d}" for n in range(100)]
    trained, held_out = drawn_cases(many, [], 0)
    assert (len(trained), len(held_out)) == (24, 4)
    assert not set(trained) & set(held_out)
    describe(raw, same_person=[["case_0", "case_1", "case_2"]])
    with pytest.raises(ValueError, match=r"the 3 training case\(s\) are of one person; two persons are needed"):
        learned()


def test_no_training_image_is_said(raw):
    for file in (raw / "imagesTr").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no training image in .*imagesTr; convert some cases"):
        learned()


def test_a_missing_channel_is_named(raw):
    (raw / "imagesTr" / "case_1_0001.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image case_1_0001.nii.gz \(channel T1\)"):
        learned()


def test_a_blank_channel_is_named(raw):
    write_image(raw / "imagesTr" / "case_1_0001.nii.gz", np.full((6, 40, 36), -1024))
    with pytest.raises(
        ValueError, match=r"case 'case_1', T1 \(case_1_0001.nii.gz\) is blank: all its voxels are -1024"
    ):
        learned()


def test_slices_of_one_value_each_teach_nothing(raw):
    steps = np.broadcast_to(np.arange(6.0)[:, None, None], (6, 40, 36))
    for number in range(3):
        write_image(raw / "imagesTr" / f"case_{number}_0001.nii.gz", steps)
    with pytest.raises(ValueError, match=r"3 of the 3 cases .*each slice of case 'case_\d', T1 .* has one value"):
        learned()


def test_an_image_of_one_slice_is_named(raw):
    write_image(raw / "imagesTr" / "case_1_0000.nii.gz", blobs(0, (1, 40, 36)))
    with pytest.raises(
        ValueError, match=r"case 'case_1', CT: case_1_0000.nii.gz: a 3D image is needed, this one is flat"
    ):
        learned()


@pytest.mark.parametrize(
    ("spacing_mm", "message"),
    [
        ((3.0, 3.0, 1.0), "3 of the 3 cases .*voxels of 3x3x1 mm are thicker in plane than between slices"),
        ((5.0, 5.0, 9.0), r"voxels of 5x5x9 mm are too coarse in plane; below 4\.67 mm are needed"),
    ],
)
def test_images_that_teach_nothing_are_refused_with_their_voxels(raw, spacing_mm, message):
    for number in range(3):
        write_case(raw, f"case_{number}", number, spacing_mm)
    with pytest.raises(ValueError, match=message):
        learned()


def test_a_case_that_teaches_nothing_is_left_out_and_named(raw):
    write_case(raw, "case_3", 3, (3.0, 3.0, 1.0))
    summary = learned()
    assert list(summary.skipped) == ["case_3"]
    record = json.loads(summary.file.with_suffix(".json").read_text())
    assert "case_3" not in record["trained_on"] + record["held_out"]


def test_killed_it_leaves_what_was_there_and_the_same_command_begins_anew(raw):
    file = learned().file
    before = file.read_bytes()
    command = [sys.executable, "-m", "nnunet_ext", "learn-resampling", "-d", "501", "--iterations"]
    lock = file.with_name(f".{file.name}.nnunet_ext.lock")
    process = subprocess.Popen([*command, "100000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            if lock.exists():
                break
            time.sleep(0.05)
        assert lock.exists()
    finally:
        process.kill()
        process.wait()
    assert file.read_bytes() == before
    assert read_learned_resampling(file).record["iterations"] == 2
    summary = learned(seed=1)
    assert read_learned_resampling(summary.file).record["seed"] == 1
    assert {one.name for one in file.parent.iterdir()} == {file.name, "learned_resampling.json"}


def test_a_device_that_is_not_there_is_refused(raw):
    with pytest.raises(ValueError, match=r"device 'tpu' is not there: .*cpu can be used"):
        learned(device="tpu")
