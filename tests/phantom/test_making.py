"""Phantoms as files: their grids, their records, and what a second run does."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from reference_tables import check_file
from scipy import ndimage

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.making import make_phantoms

N_CASES = 3
LABEL = {name: k for k, name in enumerate(ORGANS, 1)}


def arrays(case, *names):
    return [sitk.GetArrayFromImage(case[name]) for name in names]


def test_files_of_a_case_share_one_grid_away_from_the_origin(cases):
    assert list(cases) == [f"phantom_{i:03d}" for i in range(N_CASES)]
    for case in cases.values():
        ct = case["CT"]
        for name in ("T1", "T2", "label"):
            image = case[name]
            assert image.GetSize() == ct.GetSize()
            assert image.GetSpacing() == ct.GetSpacing()
            assert image.GetOrigin() == ct.GetOrigin()
            assert image.GetDirection() == ct.GetDirection()
        assert np.linalg.norm(ct.GetOrigin()) > 10
        assert ct.GetPixelID() == sitk.sitkInt16
        assert case["label"].GetPixelID() == sitk.sitkUInt8


def test_records_hold_the_documented_keys(cases, unregistered):
    for record in (next(iter(cases.values()))["record"], json.loads((unregistered / "phantom.json").read_text())):
        check_file(record, "phantom.json")


def test_cases_have_different_grids(cases):
    assert len({c["CT"].GetSize() for c in cases.values()}) == N_CASES
    assert len({c["CT"].GetSpacing() for c in cases.values()}) == N_CASES


def test_only_finished_cases_are_in_the_folder(folder):
    for case in folder.iterdir():
        assert {p.name for p in case.iterdir()} == {
            "CT.nii.gz",
            "T1.nii.gz",
            "T2.nii.gz",
            "label.nii.gz",
            "phantom.json",
        }


def test_same_seed_gives_the_same_case_in_one_or_two_processes(cases, tmp_path):
    made = make_phantoms(tmp_path, n_cases=2, first_case=1, size="tiny", n_processes=2, show_progress=False)
    assert [folder.name for folder in made] == ["phantom_001", "phantom_002"]
    for folder in made:
        for name in ("CT", "T1", "T2", "label"):
            image = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{name}.nii.gz")))
            np.testing.assert_array_equal(image, *arrays(cases[folder.name], name))


def test_rerun_makes_only_what_is_missing(folder, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.nii.gz")}
    paths = make_phantoms(folder, n_cases=N_CASES, size="tiny", n_processes=1, show_progress=False)
    assert [p.name for p in paths] == [f"phantom_{i:03d}" for i in range(N_CASES)]
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.nii.gz")} == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 9}, "seed=0 instead of 9"),
        ({"size": "small"}, "size='tiny'"),
        ({"unregistered": True}, "unregistered"),
    ],
)
def test_raises_when_the_folder_holds_cases_made_with_other_options(folder, change, words):
    options = {"n_cases": N_CASES, "size": "tiny", "show_progress": False} | change
    with pytest.raises(ValueError, match=f"phantom_000.*{words}"):
        make_phantoms(folder, **options)


def test_raises_when_a_case_folder_is_not_a_phantom(tmp_path):
    (tmp_path / "phantom_001").mkdir()
    with pytest.raises(ValueError, match=r"phantom_001.*no phantom.json"):
        make_phantoms(tmp_path, n_cases=2, size="tiny", show_progress=False)
    assert not (tmp_path / "phantom_000").exists()


def test_raises_when_the_size_is_unknown(tmp_path):
    with pytest.raises(ValueError, match=r"'huge'.*tiny, small, thin, full"):
        make_phantoms(tmp_path, n_cases=1, size="huge")
    with pytest.raises(ValueError, match="n_cases is -1"):
        make_phantoms(tmp_path, n_cases=-1)


def test_unregistered_transform_brings_the_mr_onto_the_ct(unregistered):
    ct, t2, label = (sitk.ReadImage(str(unregistered / f"{n}.nii.gz")) for n in ("CT", "T2", "label"))
    transform = sitk.ReadTransform(str(unregistered / "mr_to_ct.tfm"))
    labels = sitk.GetArrayFromImage(label)

    def overlap(with_transform):
        """Dice of the bright vitreous and the eye labels, each eye on its own: the bias field makes one brighter."""
        moved = sitk.GetArrayFromImage(sitk.Resample(t2, ct, with_transform, sitk.sitkLinear, 0.0, sitk.sitkFloat32))
        both, total = 0, 0
        for eye in (labels == LABEL[name] for name in ("Eye_L", "Eye_R")):
            limit = 0.7 * np.percentile(moved[ndimage.binary_erosion(eye)], 90)
            bright = ndimage.binary_dilation(eye, iterations=4) & (moved > limit)
            both, total = both + (bright & eye).sum(), total + bright.sum() + eye.sum()
        return 2 * both / total

    assert t2.GetSpacing() != ct.GetSpacing()
    assert overlap(transform) > 0.75
    assert overlap(sitk.Transform()) < overlap(transform) - 0.1
