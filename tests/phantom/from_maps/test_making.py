"""Heads of label maps as files: what is made, what is kept, and what happens to maps that cannot be used."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from map_heads import head_map
from reference_tables import check_file

from nnunet_ext.phantom.from_maps.making import make_phantoms_from_maps

OPTIONS = {"spacing_mm": (3.0, 3.0, 4.0), "n_processes": 1, "show_progress": False}


def write(image: sitk.Image, path) -> None:
    sitk.WriteImage(image, str(path))


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    write(head_map(), folder / "anna.nii.gz")
    write(head_map((1.5, 1.2, 1.8), axes="PSR"), folder / "bert.nrrd")
    return folder


@pytest.fixture(scope="module")
def made(maps, tmp_path_factory):
    out = tmp_path_factory.mktemp("heads")
    assert make_phantoms_from_maps(out, maps, n_cases=3, **OPTIONS).failed == {}
    return out


def test_people_take_turns_and_are_on_record(made):
    records = [json.loads((made / f"phantom_{k:03d}" / "phantom.json").read_text()) for k in range(3)]
    assert [record["person"] for record in records] == ["anna", "bert", "anna"]
    for record in records:
        check_file(record, "phantom.json --from-maps")
    for k in range(3):
        files = {file.name for file in (made / f"phantom_{k:03d}").iterdir()}
        assert files == {"CT.nii.gz", "T1.nii.gz", "T2.nii.gz", "label.nii.gz", "phantom.json"}


def test_a_second_run_makes_only_what_is_missing(made, maps):
    before = {file: file.stat().st_mtime_ns for file in made.rglob("*.nii.gz")}
    gone = made / "phantom_001" / "T2.nii.gz"
    gone.unlink()
    done = make_phantoms_from_maps(made, maps, n_cases=3, **OPTIONS)
    assert [folder.name for folder in done.folders] == ["phantom_000", "phantom_001", "phantom_002"]
    after = {file: file.stat().st_mtime_ns for file in made.rglob("*.nii.gz")}
    assert gone.exists()
    kept = {file for file in before if "phantom_001" not in str(file)}
    assert {file: after[file] for file in kept} == {file: before[file] for file in kept}


def test_two_processes_make_the_same(made, maps, tmp_path):
    make_phantoms_from_maps(tmp_path, maps, n_cases=2, first_case=1, **OPTIONS | {"n_processes": 2})
    for name in ("phantom_001", "phantom_002"):
        for image in ("CT", "T1", "T2", "label"):
            one, other = (
                sitk.GetArrayFromImage(sitk.ReadImage(str(root / name / f"{image}.nii.gz")))
                for root in (made, tmp_path)
            )
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 9}, "seed=0 instead of 9"),
        ({"contrast": "random"}, "contrast='realistic' instead of 'random'"),
        ({"spacing_mm": (2.0, 2.0, 2.5)}, "spacing_mm="),
        ({"immobilised": True}, "immobilised=False instead of True"),
        ({"deformed": False}, "deformed=True instead of False"),
        ({"misalignment_mm": 0.0}, "misalignment_mm=3.0 instead of 0.0"),
    ],
)
def test_cases_made_otherwise_are_not_mixed(made, maps, change, words):
    with pytest.raises(ValueError, match=words):
        make_phantoms_from_maps(made, maps, n_cases=1, **OPTIONS | change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"contrast": "pretty"}, "contrast 'pretty' is not known"),
        ({"spacing_mm": (1.0, 1.0)}, "must be three numbers"),
        ({"spacing_mm": (1.0, 1.0, 0.0)}, "must be three numbers"),
        ({"n_processes": 0}, "n_processes is 0"),
        ({"misalignment_mm": -1.0}, "misalignment_mm is -1.0; it must be 0 to 10"),
    ],
)
def test_options_that_make_no_sense_are_refused(maps, tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        make_phantoms_from_maps(tmp_path, maps, n_cases=1, **OPTIONS | change)


def test_maps_that_cannot_be_used_get_one_line_each_and_the_rest_is_finished(maps, tmp_path):
    folder = tmp_path / "maps"
    folder.mkdir()
    good = head_map()
    array = sitk.GetArrayFromImage(good)

    def changed(values: np.ndarray) -> sitk.Image:
        image = sitk.GetImageFromArray(values)
        image.CopyInformation(good)
        return image

    write(good, folder / "a_good.nii.gz")
    write(changed(np.where(array == 24, 999, array).astype(np.int16)), folder / "b_unknown.nii.gz")
    write(changed(np.where(array == 506, 507, array)), folder / "c_no_eyes.nii.gz")
    write(changed(np.where(array == 85, 24, array)), folder / "d_no_chiasm.nii.gz")
    write(sitk.JoinSeries([good, good]), folder / "e_four_axes.nii.gz")
    write(sitk.Cast(good, sitk.sitkFloat32) + 0.4, folder / "f_floats.nii.gz")
    (folder / "g_broken.nii.gz").write_bytes(b"no image")
    write(head_map(axes="RIA", turned=True), folder / "h_good.nii.gz")
    (folder / "notes.txt").write_text("no label map")
    done = make_phantoms_from_maps(tmp_path / "out", folder, n_cases=8, **OPTIONS)
    assert [case.name for case in done.folders] == ["phantom_000", "phantom_007"]
    assert list(done.failed) == [
        f"{name}.nii.gz" for name in ("b_unknown", "c_no_eyes", "d_no_chiasm", "e_four_axes", "f_floats", "g_broken")
    ]
    for reason, words in zip(
        done.failed.values(), ("999", "eyes", "optic_chiasm", "4D", "whole number", ""), strict=True
    ):
        assert words in reason
        assert "\n" not in reason
        assert "fault of nnunet_ext" not in reason


def test_another_sites_numbers_come_from_its_own_file(maps, made, tmp_path):
    folder = tmp_path / "maps"
    folder.mkdir()
    good = head_map()
    array = sitk.GetArrayFromImage(good)
    numbers = {0: 0, 85: 11, 506: 12, 530: 13, 507: 14, 511: 15, 515: 16, 24: 17, 2: 21, 3: 22, 41: 31, 42: 32}
    theirs = np.zeros_like(array)
    for ours, number in numbers.items():
        theirs[array == ours] = number
    image = sitk.GetImageFromArray(theirs)
    image.CopyInformation(good)
    write(image, folder / "anna.nii.gz")
    table = tmp_path / "site.toml"
    table.write_text(
        "[tissues]\nair = [0]\noptic_chiasm = [11]\neyes = [12]\noptic_nerve = [13]\nfat_and_muscle = [14]\nskin = [15]\n"
        "bone = [16]\ncsf = [17]\nwhite_matter = [21, 31]\ngrey_matter = [22, 32]\n"
        "[halves]\nleft = [21, 22]\nright = [31, 32]\n"
    )
    done = make_phantoms_from_maps(tmp_path / "out", folder, n_cases=1, labels_file=table, **OPTIONS)
    assert done.failed == {}
    for name in ("CT", "label"):
        one, other = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(root / "phantom_000" / f"{name}.nii.gz")))
            for root in (made, tmp_path / "out")
        )
        np.testing.assert_array_equal(one, other)
    assert (
        "21, 22, 31, 32"
        in make_phantoms_from_maps(tmp_path / "none", folder, n_cases=1, **OPTIONS).failed["anna.nii.gz"]
    )


def test_a_folder_without_label_maps_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no image file"):
        make_phantoms_from_maps(tmp_path / "out", tmp_path, n_cases=1, **OPTIONS)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        make_phantoms_from_maps(tmp_path / "out", tmp_path / "nowhere", n_cases=1, **OPTIONS)


def test_two_files_of_one_name_are_refused(tmp_path):
    for name in ("anna.nii.gz", "anna.nrrd"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match="holds anna more than once"):
        make_phantoms_from_maps(tmp_path / "out", tmp_path, n_cases=1, **OPTIONS)
