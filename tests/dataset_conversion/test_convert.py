import gzip
import importlib
import json
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from reference_tables import check_file

from nnunet_ext.dataset_conversion.convert import convert
from nnunet_ext.dataset_conversion.listing import list_cases
from nnunet_ext.images.geometry import orientation_code, same_grid, to_canonical
from nnunet_ext.images.reading import read_image
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.messages import in_english

DATA = Path(__file__).parents[3] / "shared" / "data"
SHAPE, SPACING_MM = (30, 36, 44), (6.0, 5.5, 5.0)


def oblique() -> tuple[float, ...]:
    transform = sitk.Euler3DTransform()
    transform.SetRotation(0.08, -0.1, 0.12)
    return transform.GetMatrix()


def to_image(array: np.ndarray, code: str = "LPS") -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    image.SetDirection(oblique())
    image.SetOrigin((-110.0, -95.0, 300.0))
    return sitk.DICOMOrient(image, code)


def volumes(seed: int = 0) -> dict[str, np.ndarray]:
    """CT, T1, T2 and labels 1..7 of a small oblique head, arrays in canonical order, L on the larger x."""
    rng = np.random.default_rng(seed)
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPE, SPACING_MM, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    head = np.sqrt((z / 78) ** 2 + (y / 85) ** 2 + (x / 75) ** 2) < 1
    ct = np.where(head, 40, -1000) + rng.integers(-10, 10, SHAPE)
    t1 = np.where(head, 120, 2) + rng.integers(0, 10, SHAPE)
    label = np.zeros(SHAPE, dtype=np.uint8)
    for value, (k, j, i) in enumerate(
        [(15, 6, 28), (15, 6, 13), (15, 4, 28), (15, 4, 13), (15, 10, 26), (15, 10, 15), (15, 14, 21)], start=1
    ):
        label[k : k + 2, j : j + 2, i : i + 2] = value
    return {"CT": ct.astype(np.int16), "T1": t1.astype(np.int16), "T2": (260 - t1).astype(np.int16), "label": label}


def write_case(folder: Path, *, seed: int = 0, code: str = "LPS", ending: str = ".nii.gz", skip=(), **arrays) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in {**volumes(seed), **arrays}.items():
        if name not in skip and array is not None:
            sitk.WriteImage(to_image(array, code), str(folder / f"{name}{ending}"))
    return folder


def run(source: Path, **options):
    quick = {"n4": False, "preview": False, "n_processes": 1, "show_progress": False}
    options = {"dataset_id": 501, "name": "Heads", **quick, **options}
    return convert(source, raw_folder=source.parent / "raw", **options)


def files_of(dataset: Path, case: str) -> list[str]:
    return sorted(p.relative_to(dataset).as_posix() for p in dataset.rglob("*") if p.is_file() and case in p.name)


def array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(read_image(path))


# --------------------------------------------------------------------------------------------- what is written


@pytest.mark.parametrize(("code", "ending"), [("LPS", ".nii.gz"), ("PIR", ".nrrd"), ("RSA", ".mha"), ("AIL", ".nii")])
def test_a_case_comes_out_voxel_by_voxel_in_canonical_order(tmp_path: Path, code: str, ending: str):
    given = volumes()
    write_case(tmp_path / "src" / "a", code=code, ending=ending)
    summary = run(tmp_path / "src", clean_ct=False)
    assert (summary.written, summary.skipped, summary.failed) == (["a"], [], {})
    dataset = tmp_path / "raw" / "Dataset501_Heads"
    assert summary.dataset_folder == dataset
    for number, name in enumerate(("CT", "T1", "T2")):
        image = read_image(dataset / "imagesTr" / f"a_{number:04d}.nii.gz")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), given[name])
        assert same_grid(image, to_image(given[name]), 1e-3)
    label = array(dataset / "labelsTr" / "a.nii.gz")
    np.testing.assert_array_equal(label, given["label"])
    assert label.dtype == np.uint8
    counts = json.loads((dataset / "provenance" / "a.json").read_text())["label_voxels"]
    assert counts["before"] == counts["after"] == dict.fromkeys(ORGANS, 8)
    assert not (dataset / ".partial").exists()


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


@pytest.mark.parametrize("modalities", [("CT",), ("CT", "T1"), ("T1", "T2"), ("T2",), ("T1", "CT")])
def test_any_subset_of_channels_works(tmp_path: Path, modalities: tuple[str, ...]):
    write_case(tmp_path / "src" / "a", skip={"CT", "T1", "T2"} - set(modalities))
    summary = run(tmp_path / "src", modalities=modalities)
    assert summary.failed == {}
    assert len(list((summary.dataset_folder / "imagesTr").iterdir())) == len(modalities)
    record = json.loads((summary.dataset_folder / "provenance" / "a.json").read_text())
    assert record["reference_channel"] == ("CT" if "CT" in modalities else modalities[0])
    names = json.loads((summary.dataset_folder / "dataset.json").read_text())["channel_names"]
    assert tuple(names.values()) == modalities


def test_an_mr_on_its_own_grid_lands_on_the_ct(tmp_path: Path):
    folder = write_case(tmp_path / "src" / "a", skip=("T1",))
    mr = to_image(volumes()["T1"])
    fine = sitk.Resample(
        mr, (60, 50, 40), sitk.Transform(), sitk.sitkLinear, (-112, -97, 297), (4, 4.3, 5), mr.GetDirection()
    )
    sitk.WriteImage(sitk.DICOMOrient(fine, "RIA"), str(folder / "T1.nii.gz"))
    summary = run(tmp_path / "src", n4=True)
    assert summary.failed == {}
    images = [read_image(summary.dataset_folder / "imagesTr" / f"a_{n:04d}.nii.gz") for n in range(3)]
    assert all(same_grid(image, images[0], 1e-4) for image in images)
    inside = sitk.GetArrayFromImage(images[1])[10:20, 12:24, 14:30]
    assert np.all(np.abs(inside - 125) < 25)
    record = json.loads((summary.dataset_folder / "provenance" / "a.json").read_text())
    assert record["channels"]["T1"]["orientation"] == "RIA"
    check_file(record, "provenance/CASE.json")
    assert 0.9 < record["channels"]["T1"]["coverage"] <= 1


def test_couch_is_removed_and_drawn_organs_are_not(tmp_path: Path):
    ct, label = volumes()["CT"], volumes()["label"]
    ct[:, 34:] = 100  # a slab behind the head
    label[20, 34, 3] = 7
    write_case(tmp_path / "src" / "a", CT=ct, label=label)
    summary = run(tmp_path / "src")
    result = array(summary.dataset_folder / "imagesTr" / "a_0000.nii.gz")
    assert result[20, 34, 3] == 100
    assert np.mean(result[:, 34:] == -1000) > 0.99
    np.testing.assert_array_equal(result[(label > 0)], ct[label > 0])
    record = json.loads((summary.dataset_folder / "provenance" / "a.json").read_text())["channels"]["CT"]
    assert record["couch_and_mask_removed_ml"] == pytest.approx(30 * 2 * 44 * 0.165, rel=0.02)


def test_provenance_says_what_went_in_and_holds_no_machine_path(tmp_path: Path):
    write_case(tmp_path / "src" / "a")
    (tmp_path / "src" / "a" / "FLAIR.nii.gz").touch()
    summary = run(tmp_path / "src")
    text = (summary.dataset_folder / "provenance" / "a.json").read_text()
    record = json.loads(text)
    assert str(tmp_path) not in text
    assert set(record["inputs_sha256"]) == {"CT.nii.gz", "T1.nii.gz", "T2.nii.gz", "label.nii.gz"}
    assert record["ignored_files"] == ["FLAIR.nii.gz"]
    assert record["channels"]["CT"]["size"] == list(SHAPE[::-1])
    assert record["channels"]["CT"]["spacing_mm"] == pytest.approx(SPACING_MM[::-1])


# --------------------------------------------------------------------------------------------- labels


def test_pictures_and_the_page_come_with_a_case_and_go_with_it(tmp_path: Path):
    write_case(tmp_path / "src" / "a")
    write_case(tmp_path / "src" / "b", skip=("T2",))
    summary = run(tmp_path / "src", preview=True)
    dataset = summary.dataset_folder
    pictures = {path.name for path in (dataset / "preview" / "a").iterdir()}
    assert pictures == {"1_couch_and_mask.png", "4_alignment.png", "5_labels.png"}
    assert not (dataset / "preview" / "b").exists()
    page = (dataset / "conversion.html").read_text()
    assert "channel T2 is missing" in page
    assert "preview/a/5_labels.png" in page
    assert run(tmp_path / "src", preview=True).skipped == ["a"]
    shutil.rmtree(dataset / "preview")
    assert run(tmp_path / "src", preview=False).skipped == ["a"]  # nothing is missing that was asked for
    assert run(tmp_path / "src", preview=True).written == ["a"]
    assert (dataset / "preview" / "a").is_dir()


def write_masks(folder: Path, masks: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, mask in masks.items():
        sitk.WriteImage(to_image(mask.astype(np.uint8) * 255), str(folder / f"{name}.nii.gz"))


@pytest.mark.parametrize("sub", ["", "masks", "Structures"])
def test_masks_per_organ_are_merged_by_the_alias_table(tmp_path: Path, sub: str):
    label = volumes()["label"]
    folder = write_case(tmp_path / "src" / "a", skip=("label",))
    front = label == 1
    front[15] = False
    names = ("RightEye", "LENS-LT", "lens_r", "optic_nerve_left", "OpticNerve_R", "Chiasm")
    masks = {name: label == value for name, value in zip(names, range(2, 8), strict=True)}
    write_masks(folder / sub, {**masks, "Eye_AL": front, "Eye_PL": (label == 1) & ~front, "Brainstem": label > 9})
    summary = run(tmp_path / "src")
    assert summary.failed == {}
    np.testing.assert_array_equal(array(summary.dataset_folder / "labelsTr" / "a.nii.gz"), label)
    record = json.loads((summary.dataset_folder / "provenance" / "a.json").read_text())
    assert record["ignored_files"] == [f"{sub}/Brainstem.nii.gz".lstrip("/")]


def test_a_lens_drawn_inside_the_eye_wins(tmp_path: Path):
    folder = write_case(tmp_path / "src" / "a", skip=("label",))
    eye = np.zeros(SHAPE, dtype=bool)
    eye[14:18, 5:9, 26:31] = True
    lens = np.zeros(SHAPE, dtype=bool)
    lens[15:17, 4:6, 27:29] = True  # half of it inside
    write_masks(folder, {"Eye_L": eye, "Lens_L": lens})
    summary = run(tmp_path / "src")
    result = array(summary.dataset_folder / "labelsTr" / "a.nii.gz")
    assert (np.count_nonzero(result == 3), np.count_nonzero(result == 1)) == (8, 80 - 4)
    assert any(
        "Eye_L and Lens_L overlap in 4 voxels: they count as Lens_L" in line
        for line in in_english(summary.warnings["a"])
    )


def test_an_empty_mask_is_no_second_version(tmp_path: Path):
    label = volumes()["label"]
    folder = write_case(tmp_path / "src" / "a", skip=("label",))
    masks = {"Lens_L": label == 3, "left lens": label > 9, "Eye_L": label == 1}
    write_masks(folder / "masks", masks)
    summary = run(tmp_path / "src")
    assert summary.failed == {}
    result = array(summary.dataset_folder / "labelsTr" / "a.nii.gz")
    np.testing.assert_array_equal(result, np.where(np.isin(label, (1, 3)), label, 0))
    write_masks(folder, {"LENS-L": label == 2})
    reason = run(tmp_path / "src").failed["a"]
    assert "Lens_L is drawn twice, as a/LENS-L.nii.gz and masks/Lens_L.nii.gz; delete or rename one" in reason


@pytest.mark.parametrize("beyond", [False, True])
def test_a_part_beside_the_whole_organ_must_lie_in_it(tmp_path: Path, beyond: bool):
    whole = np.zeros(SHAPE, dtype=bool)
    whole[14:18, 5:9, 20:26] = True
    folder = write_case(tmp_path / "src" / "a", skip=("label",))
    write_masks(
        folder, {"Eye_L": whole, "Eye_AL": np.roll(whole, 2, axis=1) if beyond else whole & (np.arange(44) < 23)}
    )
    summary = run(tmp_path / "src")
    if beyond:
        assert "48 voxels of Eye_AL lie beyond the whole" in summary.failed["a"]
    else:
        np.testing.assert_array_equal(array(summary.dataset_folder / "labelsTr" / "a.nii.gz"), whole)


def test_other_overlaps_fail_and_name_both(tmp_path: Path):
    folder = write_case(tmp_path / "src" / "a", skip=("label",))
    masks = {"OpticNrv_L": np.zeros(SHAPE, dtype=bool), "OpticChiasm": np.zeros(SHAPE, dtype=bool)}
    masks["OpticNrv_L"][14:18, 5:9, 20:26] = True
    masks["OpticChiasm"][14:18, 5:9, 24:30] = True
    write_masks(folder, masks)
    reason = run(tmp_path / "src").failed["a"]
    assert "masks of OpticNrv_L and OpticChiasm overlap in 32 voxels (33% of" in reason


def test_a_users_table_gives_other_organs(tmp_path: Path):
    table = tmp_path / "organs.toml"
    table.write_text('[labels]\nTumour = ["GTV"]\nHippocampus = []\n')
    label = (volumes()["label"] == 7).astype(np.uint8)
    label[20:22, 20:22, 20:22] = 2
    write_case(tmp_path / "src" / "a", label=label)
    summary = run(tmp_path / "src", labels_file=table)
    assert summary.failed == {}
    labels = json.loads((summary.dataset_folder / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "Tumour": 1, "Hippocampus": 2}


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


# --------------------------------------------------------------------------------------------- bad input


def truncate(path: Path, share: float = 0.6) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def save_like(path: Path, values: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(values, nibabel.load(path).affine), path)


def move(path: Path, shift_mm: float) -> None:
    image = sitk.ReadImage(str(path))
    image.SetOrigin([mm + shift_mm for mm in image.GetOrigin()])
    sitk.WriteImage(image, str(path))


def corrupt(path: Path, function) -> None:
    nifti = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(function(np.asarray(nifti.dataobj)), nifti.affine), path)


def with_nan(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float32)
    values[3, 4, 5] = np.nan
    return values


def rgb(values: np.ndarray) -> np.ndarray:
    return np.zeros(values.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])


BAD = {
    "channel missing": (lambda c: (c / "T2.nii.gz").unlink(), "channel T2 is missing"),
    "two files": (lambda c: shutil.copy(c / "T1.nii.gz", c / "t1w.nii.gz"), "channel T1 has 2 files"),
    "truncated gzip": (lambda c: truncate(c / "T1.nii.gz"), r"T1\.nii\.gz is cut off"),
    "short data": (
        lambda c: (c / "CT.nii.gz").write_bytes(gzip.compress(gzip.decompress((c / "CT.nii.gz").read_bytes())[:-9])),
        r"CT\.nii\.gz is cut off",
    ),
    "4D": (lambda c: corrupt(c / "T1.nii.gz", lambda a: np.stack([a, a], -1)), "is 4D, 44x36x30x2"),
    "RGB": (lambda c: corrupt(c / "T2.nii.gz", rgb), r"T2\.nii\.gz is an RGB"),
    "NaN": (lambda c: corrupt(c / "T1.nii.gz", with_nan), "1 of 47520 voxels are NaN"),
    "empty labels": (lambda c: corrupt(c / "label.nii.gz", lambda a: a * 0), "empty label map"),
    "label outside the table": (
        lambda c: corrupt(c / "label.nii.gz", lambda a: np.where(a == 7, 9, a).astype(np.uint8)),
        r"label value 9 in label\.nii\.gz is not in the label table \(1 Eye_L",
    ),
    "label no whole number": (
        lambda c: corrupt(c / "label.nii.gz", lambda a: (a * 0.5).astype(np.float32)), r"label value 0\.5"),
    "not in HU": (lambda c: corrupt(c / "CT.nii.gz", lambda a: a + 1024), r"not in HU: values 14\.\..*--allow-non-hu"),
    "labels of another size": (
        lambda c: corrupt(c / "label.nii.gz", lambda a: a[:-1]), r"43x36x30 .*against 44x36x30 .*sizes differ"),
    "labels shifted": (lambda c: move(c / "label.nii.gz", 1.0), r"corners up to 1\.73 mm apart"),
    "MR elsewhere": (lambda c: move(c / "T2.nii.gz", 150.0), "T2 does not lie where the CT lies"),
    "label map and masks": (
        lambda c: shutil.copy(c / "label.nii.gz", c / "Eye_L.nii.gz"), "a label map, label.nii.gz, and masks"),
    "git-LFS": (
        lambda c: (c / "CT.nii.gz").write_text("version https://git-lfs.github.com/spec/v1\n"), "git-LFS pointer"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_case_is_named_and_leaves_nothing_while_the_others_finish(tmp_path: Path, kind: str):
    damage, message = BAD[kind]
    write_case(tmp_path / "src" / "good")
    damage(write_case(tmp_path / "src" / "spoilt"))
    summary = run(tmp_path / "src")
    assert summary.written == ["good"]
    assert list(summary.failed) == ["spoilt"]
    reason = summary.failed["spoilt"]
    assert re.search(message, reason), reason
    assert "\n" not in reason
    assert files_of(summary.dataset_folder, "spoilt") == []
    assert len(files_of(summary.dataset_folder, "good")) == 5
    assert json.loads((summary.dataset_folder / "dataset.json").read_text())["numTraining"] == 1


def test_duplicate_case_names_fail_on_both_sides(tmp_path: Path):
    for name in ("Case1", "case1", "b 2", "b_2", "c"):
        write_case(tmp_path / "src" / name)
    summary = run(tmp_path / "src")
    assert summary.written == ["c"]
    assert set(summary.failed) == {"Case1", "case1", "b 2", "b_2"}
    assert summary.failed["Case1"] == "duplicate case name, 'case1' is the same; rename one"


def test_where_all_cases_fail_nothing_is_left(tmp_path: Path):
    write_case(tmp_path / "src" / "a", skip=("T1",))
    summary = run(tmp_path / "src")
    assert list(summary.failed) == ["a"]
    assert not summary.dataset_folder.exists()


def test_masks_that_the_table_does_not_know_fail(tmp_path: Path):
    folder = write_case(tmp_path / "src" / "a", skip=("label",))
    write_masks(folder / "masks", {"Heart": volumes()["label"] == 1})
    assert "none of the masks Heart.nii.gz is in the label table" in run(tmp_path / "src").failed["a"]


def test_an_organ_outside_the_field_of_view_of_an_mr_fails(tmp_path: Path):
    folder = write_case(tmp_path / "src" / "a")
    image = to_image(volumes()["T1"])
    sitk.WriteImage(image[:, 9:, :], str(folder / "T1.nii.gz"))  # the eyes lie in front
    assert "100% of Eye_L lies outside the field of view of T1" in run(tmp_path / "src").failed["a"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"test_cases": ["zz"]}, ValueError, "test case 'zz' is not a folder"),
        ({"modalities": ()}, ValueError, "give each channel once"),
        ({"modalities": ("CT", "ct")}, ValueError, "give each channel once"),
        ({"window_hu": (5, 5)}, ValueError, "window 5..5 HU is empty"),
        ({"dataset_id": 0}, ValueError, "not within 1"),
        ({"name": "a b"}, ValueError, "dataset name 'a b'"),
        ({"n_processes": 0}, ValueError, "n_processes is 0"),
        ({"labels_file": Path("none.toml")}, FileNotFoundError, "none.toml does not exist"),
    ],
)
def test_wrong_arguments_raise_before_anything_is_written(tmp_path: Path, options, error, message: str):
    write_case(tmp_path / "src" / "a")
    with pytest.raises(error, match=message):
        run(tmp_path / "src", **options)
    assert not (tmp_path / "raw").exists()


def test_a_source_without_cases_raises(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        run(tmp_path / "none")
    with pytest.raises(ValueError, match="put each case into a folder of its own"):
        run(write_case(tmp_path / "src"))


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


# --------------------------------------------------------------------------------------------- running again


def snapshot(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*.nii.gz")}


def test_running_again_converts_only_what_changed(tmp_path: Path):
    for name in "ab":
        write_case(tmp_path / "src" / name)
    dataset = run(tmp_path / "src").dataset_folder
    first = snapshot(dataset)
    assert run(tmp_path / "src").skipped == ["a", "b"]
    assert snapshot(dataset) == first
    write_case(tmp_path / "src" / "b", seed=3)
    write_case(tmp_path / "src" / "c")
    summary = run(tmp_path / "src")
    assert (summary.written, summary.skipped) == (["b", "c"], ["a"])
    (dataset / "imagesTr" / "a_0001.nii.gz").unlink()
    assert run(tmp_path / "src").written == ["a"]
    assert run(tmp_path / "src", window_hu=(-100, 100)).written == ["a", "b", "c"]
    assert json.loads((dataset / "dataset.json").read_text())["numTraining"] == 3


def test_a_case_that_moves_to_the_test_set_leaves_no_training_file(tmp_path: Path):
    for name in "ab":
        write_case(tmp_path / "src" / name)
    run(tmp_path / "src")
    summary = run(tmp_path / "src", test_cases=["b"])
    assert (summary.written, summary.skipped) == (["b"], ["a"])
    assert files_of(summary.dataset_folder, "b_") + files_of(summary.dataset_folder, "b.n") == [
        "imagesTs/b_0000.nii.gz", "imagesTs/b_0001.nii.gz", "imagesTs/b_0002.nii.gz", "labelsTs/b.nii.gz",
    ]  # fmt: skip
    assert json.loads((summary.dataset_folder / "dataset.json").read_text())["numTraining"] == 1


def test_a_case_that_turned_bad_is_taken_out(tmp_path: Path):
    for name in "ab":
        write_case(tmp_path / "src" / name)
    run(tmp_path / "src", preview=True)
    truncate(tmp_path / "src" / "b" / "CT.nii.gz")
    summary = run(tmp_path / "src", preview=True)
    assert (summary.skipped, list(summary.failed)) == (["a"], ["b"])
    assert not [file for file in files_of(summary.dataset_folder, "b") if "/b" in file]


def test_cases_with_other_channels_are_not_mixed(tmp_path: Path):
    write_case(tmp_path / "src" / "a")
    run(tmp_path / "src")
    shutil.move(tmp_path / "src" / "a", tmp_path / "src" / "z")
    with pytest.raises(ValueError, match="holds case 'a' with other channels or labels"):
        run(tmp_path / "src", modalities=("CT",))


# --------------------------------------------------------------------------------------------- processes


def test_two_processes_give_the_same_as_one(tmp_path: Path):
    for name in "ab":
        write_case(tmp_path / "src" / name, code="RAS")
    truncate(write_case(tmp_path / "src" / "c") / "CT.nii.gz")
    two = run(tmp_path / "src", n_processes=2)
    assert (two.written, list(two.failed)) == (["a", "b"], ["c"])
    assert "cut off" in two.failed["c"]
    one = run(tmp_path / "src", n_processes=1, name="Heads2", dataset_id=502)
    for file in sorted((one.dataset_folder / "imagesTr").iterdir()):
        np.testing.assert_array_equal(array(file), array(two.dataset_folder / "imagesTr" / file.name))


KILLER = """
import os
def convert_case(job):
    if job.case.identifier == "b":
        os._exit(9)  # what a process that takes too much memory looks like from outside
    from nnunet_ext.dataset_conversion import one_case
    return one_case._convert_case(job)
"""


def test_a_killed_process_is_a_failed_case_and_the_others_finish(tmp_path: Path, monkeypatch):
    from nnunet_ext.dataset_conversion import one_case

    for name in "abc":
        write_case(tmp_path / "src" / name)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "killer_of_b.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setattr(one_case, "_convert_case", importlib.import_module("killer_of_b").convert_case)
    summary = run(tmp_path / "src", n_processes=2)
    assert summary.written == ["a", "c"]
    assert "its process was killed, probably out of memory" in summary.failed["b"]
    assert files_of(summary.dataset_folder, "b_") == []


# --------------------------------------------------------------------------------------------- real images


@pytest.mark.skipif(not DATA.is_dir(), reason="no real images beside the repository")
def test_six_orientations_of_one_real_brain_become_equal(tmp_path: Path):
    for path in sorted((DATA / "orientations").glob("*.nii.gz")):
        (tmp_path / "src" / path.name[:3]).mkdir(parents=True)
        shutil.copyfile(path, tmp_path / "src" / path.name[:3] / "T1.nii.gz")
    summary = run(tmp_path / "src", modalities=("T1",), n4=False)
    assert len(summary.written) == 6
    images = [read_image(path) for path in sorted((summary.dataset_folder / "imagesTs").iterdir())]
    assert len(images) == 6
    for image in images:
        assert orientation_code(image) == "LPS"
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(images[0]))
        assert same_grid(image, images[0], 0.01)


@pytest.mark.skipif(not DATA.is_dir(), reason="no real images beside the repository")
def test_the_template_triplet_is_refused_and_converts_with_allow_non_hu(tmp_path: Path):
    (tmp_path / "src" / "template").mkdir(parents=True)
    for name in ("CT", "T1", "T2"):
        shutil.copyfile(DATA / "template_triplet" / f"{name}.nii.gz", tmp_path / "src" / "template" / f"{name}.nii.gz")
    reason = run(tmp_path / "src").failed["template"]
    assert "CT is not in HU: values 0..3794" in reason
    assert "--allow-non-hu" in reason
    summary = run(tmp_path / "src", allow_non_hu=True, n4=True)
    assert summary.written == ["template"]
    ct = read_image(summary.dataset_folder / "imagesTs" / "template_0000.nii.gz")
    original = to_canonical(read_image(DATA / "template_triplet" / "CT.nii.gz"))
    changed = sitk.GetArrayFromImage(ct) != sitk.GetArrayFromImage(original)
    assert np.count_nonzero(changed & (sitk.GetArrayFromImage(original) > 1000)) < 0.005 * changed.size
    record = json.loads((summary.dataset_folder / "provenance" / "template.json").read_text())
    assert record["channels"]["CT"]["in_hu"] is False
    assert record["options"]["allow_non_hu"] is True
    assert 2500 < record["channels"]["CT"]["body_ml"] < 6000
