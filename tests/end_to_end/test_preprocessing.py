"""Training cases preprocessed in parts, against nnU-Net's own command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import blosc2
import pytest
import SimpleITK as sitk
from planned_heads import NAME, make_raw, set_paths
from reference_tables import check_file

from nnunet_ext.end_to_end.preprocessing import preprocess
from nnunet_ext.nnunet_folders import PREPROCESSED_PARTS as PARTS

PLANS = "CascadeOARPlans"
BOTH = ["3d_lowres", "3d_fullres"]


@pytest.fixture(scope="module")
def planned(tmp_path_factory, cascade_plans: Callable[..., dict]) -> Path:
    root = tmp_path_factory.mktemp("planned")
    raw = make_raw(root, n=3)
    preprocessed = root / "preprocessed" / NAME
    shutil.copy(raw / "dataset.json", preprocessed)
    plans = cascade_plans(spacing_mm=(3.1, 1.7, 1.6), localizer_spacing_mm=(4.0, 3.0, 3.0), channels=("CT", "T1"))
    (preprocessed / f"{PLANS}.json").write_text(json.dumps({**plans, "dataset_name": NAME}))
    return root


@pytest.fixture
def own(planned: Path, tmp_path: Path, monkeypatch) -> Path:
    """A copy of the planned dataset, with the times of its files."""
    shutil.copytree(planned, tmp_path / "own")
    set_paths(monkeypatch, tmp_path / "own")
    return tmp_path / "own"


def data(root: Path, configuration: str = "3d_lowres") -> Path:
    return root / "preprocessed" / NAME / f"{PLANS}_{configuration}"


def run(**options):
    options = {"configurations": ["3d_lowres"], "plans": PLANS, "n_processes": 1, "show_progress": False, **options}
    return preprocess(501, **options)


def content_of(file: Path) -> object:
    """All that a file holds. blosc2 writes bytes that mean nothing, which differ from run to run."""
    if file.suffix != ".b2nd":
        return file.read_bytes()
    array = blosc2.open(str(file), mode="r")
    return array.shape, array.chunks, array.blocks, array.dtype.str, array[:].tobytes()


def contents(folder: Path) -> dict[str, object]:
    files = (path for path in folder.rglob("*") if path.is_file() and PARTS not in path.parts)
    return {path.relative_to(folder).as_posix(): content_of(path) for path in files}


def test_two_parts_at_once_give_the_files_of_the_stock_command(planned: Path, own: Path, forked: list[str], tmp_path):
    shutil.copytree(planned, tmp_path / "stock")
    environment = {f"nnUNet_{name}": str(tmp_path / "stock" / name) for name in ("raw", "preprocessed", "results")}
    stock = ["nnUNetv2_preprocess", "-d", "501", "-plans_name", PLANS, "-np", "1", "-c", *BOTH]
    subprocess.run([*forked, *stock], env={**os.environ, **environment}, check=True, capture_output=True)
    ours = [
        "nnunet_ext",
        "preprocess",
        "-d",
        "501",
        "-p",
        PLANS,
        "-np",
        "1",
        "-c",
        *BOTH,
        "-num_parts",
        "2",
        "-part_id",
    ]
    parts = [subprocess.Popen([*forked, *ours, str(k)], stdout=subprocess.PIPE, text=True) for k in range(2)]
    lines = [part.communicate()[0].splitlines() for part in parts]
    assert [part.returncode for part in parts] == [0, 0]
    assert [[line.split(": ")[1] for line in said] for said in lines] == [
        [f"{n} written, 0 skipped (already there), 0 failed"] * 2 for n in (2, 1)
    ]
    wanted, made = contents(tmp_path / "stock"), contents(own)
    assert set(made) == set(wanted)
    assert len([name for name in made if name.endswith("_seg.b2nd")]) == 6
    assert {name for name in wanted if made[name] != wanted[name]} == set()
    reference = Path("preprocessed", NAME, "gt_segmentations", "head_00.nii.gz")
    assert (own / reference).stat().st_mtime == (tmp_path / "stock" / reference).stat().st_mtime
    check_file(json.loads((data(own) / PARTS / "head_00.json").read_text()), ".parts/CASE.json")
    assert list((data(own) / PARTS / "new").iterdir()) == []


def test_what_is_there_from_the_same_files_is_skipped_and_the_rest_is_made(own: Path):
    (first,) = run()
    assert first.written == ["head_00", "head_01", "head_02"]
    before = contents(data(own))
    (data(own) / "head_00.b2nd").write_bytes(b"half")  # as a full disk leaves it, or nnU-Net killed
    (data(own) / "head_02.pkl").unlink()
    (second,) = run()
    assert (second.written, second.skipped) == (["head_00", "head_02"], ["head_01"])
    assert contents(data(own)) == before


def test_files_of_another_plan_and_of_other_images_are_made_again(own: Path):
    run()
    file = own / "preprocessed" / NAME / f"{PLANS}.json"
    plan = json.loads(file.read_text())
    plan["configurations"]["3d_lowres"]["training"]["num_epochs"] = 2
    plan["configurations"]["3d_lowres"]["recipe"] = {"organ_patches": 0.5}
    file.write_text(json.dumps(plan))
    assert run()[0].written == []  # of no file's content
    image = own / "raw" / NAME / "imagesTr" / "head_01_0000.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(image)) + 1.0, str(image))
    assert run()[0].written == ["head_01"]
    plan["configurations"]["3d_lowres"]["spacing"][0] *= 1.5
    file.write_text(json.dumps(plan))
    assert run(num_parts=3, part_id=2)[0].written == ["head_02"]


def test_files_of_cases_that_the_dataset_no_longer_has_are_removed(own: Path):
    for name in ("gone.b2nd", "gone_seg.b2nd", "gone.pkl"):
        data(own).mkdir(exist_ok=True)
        (data(own) / name).touch()
    run(num_parts=3, part_id=0)
    assert run(num_parts=9, part_id=8)[0].written == []  # more parts than cases
    assert sorted(file.name for file in data(own).iterdir() if file.is_file()) == [
        "head_00.b2nd",
        "head_00.pkl",
        "head_00_seg.b2nd",
    ]


def test_a_case_that_fails_is_named_and_leaves_nothing_while_the_others_finish(own: Path):
    run()
    image = own / "raw" / NAME / "imagesTr" / "head_01_0001.nii.gz"
    image.write_bytes(image.read_bytes()[:-200])
    (again,) = run()
    assert again.skipped == ["head_00", "head_02"]
    assert list(again.failed) == ["head_01"]
    assert "\n" not in again.failed["head_01"]
    assert [name for name in contents(data(own)) if "head_01" in name] == []


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda root: None, {"configurations": ["3d"]}, f"{PLANS} has no configuration 3d; it has .*3d_lowres"),
        (
            lambda root: None,
            {"plans": "Other"},
            rf"no plans Other in .* \({PLANS}\); first: nnUNetv2_plan_and_preprocess",
        ),
        (lambda root: None, {"num_parts": 2, "part_id": 2}, "part_id is 2; with num_parts 2 it is 0 to 1"),
        (
            lambda root: (root / "raw" / NAME / "labelsTr" / "head_02.nii.gz").unlink(),
            {},
            "head_02 lack a file; a training case is 2 images and a label map",
        ),
    ],
)
def test_a_call_that_cannot_work_is_refused(own: Path, spoil: Callable[[Path], object], options: dict, message: str):
    spoil(own)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(**options)


def test_cases_that_dataset_json_does_not_list_are_found_by_their_names(own: Path):
    for file in (own / "raw" / NAME / "dataset.json", own / "preprocessed" / NAME / "dataset.json"):
        content = json.loads(file.read_text())
        del content["dataset"]
        file.write_text(json.dumps(content))
    (own / "raw" / NAME / "imagesTr" / "._head_00_0000.nii.gz").write_bytes(b"")  # macOS
    (summary,) = run(num_parts=2, part_id=1)
    assert summary.written == ["head_01"]
