"""A raw dataset with some of the channels of another."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nnunet_ext.dataset_conversion.channels import select_channels

DATASET = {
    "channel_names": {"0": "CT", "1": "T1", "2": "T2"},
    "labels": {"background": 0, "Eye_L": 1},
    "numTraining": 1,
    "file_ending": ".nii.gz",
    "name": "Head",
    "same_person": [["a", "b"]],
    "nnunet_ext": {"modalities": ["CT", "T1", "T2"], "n4": True},
}


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """One training case and one test case. Each file holds its own name."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    source = tmp_path / "Dataset521_Head"
    for case, images, labels in (("a", "imagesTr", "labelsTr"), ("b", "imagesTs", "labelsTs")):
        for folder, names in ((images, [f"{case}_000{n}.nii.gz" for n in range(3)]), (labels, [f"{case}.nii.gz"])):
            (source / folder).mkdir(parents=True)
            for name in names:
                (source / folder / name).write_text(name)
    (source / "dataset.json").write_text(json.dumps(DATASET))
    return source


def content(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*.nii.gz"))
    return {str(file.relative_to(folder)): file.read_text() for file in files}


def test_the_images_are_numbered_anew_and_the_references_are_the_same(source):
    folder, n_cases = select_channels(521, dataset_id=523, name="HeadT1T2", modalities=["T2", "T1"])
    assert (folder, n_cases) == (source.parent / "Dataset523_HeadT1T2", 2)
    assert content(folder) == {
        "imagesTr/a_0000.nii.gz": "a_0002.nii.gz",
        "imagesTr/a_0001.nii.gz": "a_0001.nii.gz",
        "imagesTs/b_0000.nii.gz": "b_0002.nii.gz",
        "imagesTs/b_0001.nii.gz": "b_0001.nii.gz",
        "labelsTr/a.nii.gz": "a.nii.gz",
        "labelsTs/b.nii.gz": "b.nii.gz",
    }
    changed = {"channel_names": {"0": "T2", "1": "T1"}, "name": "HeadT1T2"}
    settings = {"nnunet_ext": {"modalities": ["T2", "T1"], "n4": True}}
    assert json.loads((folder / "dataset.json").read_text()) == {**DATASET, **changed, **settings}


def test_a_repeated_call_takes_out_what_the_source_no_longer_has(source):
    folder, _ = select_channels("Dataset521_Head", dataset_id=522, name="HeadCT", modalities=["CT"])
    assert os.path.samefile(folder / "imagesTr" / "a_0000.nii.gz", source / "imagesTr" / "a_0000.nii.gz")
    for file in source.glob("*Ts/*"):
        file.unlink()
    assert select_channels(521, dataset_id=522, name="HeadCT", modalities=["CT"]) == (folder, 1)
    assert list(content(folder)) == ["imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"modalities": ["PET"]}, "Dataset521_Head has no channel PET; it has CT, T1, T2"),
        ({"modalities": ["CT", "CT"]}, "name each channel once"),
        ({"dataset_id": 521, "name": "Head"}, "Dataset521_Head is the source"),
        ({"dataset_id": 521}, "dataset id 521 is taken by Dataset521_Head"),
    ],
)
def test_channels_and_numbers_that_cannot_be_are_refused(source, options, said):
    with pytest.raises(ValueError, match=said):
        select_channels(521, **{"dataset_id": 522, "name": "HeadCT", "modalities": ["CT"], **options})
    assert [path.name for path in source.parent.iterdir()] == [source.name]


def test_a_missing_image_is_named(source):
    (source / "imagesTs" / "b_0001.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image b_0001\.nii\.gz \(channel T1\)"):
        select_channels(521, dataset_id=522, name="HeadCT", modalities=["CT"])


def test_the_learned_resampling_of_the_images_goes_along(source):
    for name in ("learned_resampling.npz", "learned_resampling.json"):
        (source / name).write_text(name)
    options = {"dataset_id": 522, "name": "HeadCT", "modalities": ["CT"]}
    folder, _ = select_channels(521, **options)
    assert not (folder / "learned_resampling.npz").exists()  # dataset.json does not name it
    described = {**DATASET, "nnunet_ext": {**DATASET["nnunet_ext"], "learned_resampling": "abc"}}
    (source / "dataset.json").write_text(json.dumps(described))
    select_channels(521, **options)
    for name in ("learned_resampling.npz", "learned_resampling.json"):
        assert (folder / name).read_text() == name
