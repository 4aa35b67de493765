"""Multi-atlas segmentation of new heads from those of other people: oblique, not LPS, anisotropic."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from atlas_heads import LABELS, dsc, head, write_raw
from reference_tables import check_file

from nnunet_ext.atlas.atlases import make_atlas, organs_of, read_atlases, sha256_of
from nnunet_ext.atlas.cache import TransformCache
from nnunet_ext.atlas.contouring import _cases_of_fold, _mask, _prepare, _Settings, contour_by_atlases
from nnunet_ext.atlas.one_case import contour_case
from nnunet_ext.cases.prediction_cases import find_cases
from nnunet_ext.cases.training_form import recorded_options
from nnunet_ext.dicom.rasterising import rasterise
from nnunet_ext.dicom.reading import read_series
from nnunet_ext.dicom.rtstruct_reader import read_rtstruct
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.series_writer import Study, write_series
from nnunet_ext.evaluation.evaluating import evaluate
from nnunet_ext.files import read_json
from nnunet_ext.registration.between_people import OPTIONS

ORGANS = {organ: value for organ, value in LABELS.items() if value}
#: How the new head was scanned.
SCANNED = {"spacing_mm": (3.0, 4.4, 6.0), "angles": (0.10, -0.08, 0.12), "axes": "PIR", "offset_mm": (-30.0, 12.0, 5.0)}


def without(labels: sitk.Image, value: int) -> sitk.Image:
    return sitk.Mask(labels, sitk.Cast(labels != value, sitk.sitkUInt8))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> SimpleNamespace:
    """A new head, a training case under another name and a damaged file, contoured once."""
    root = tmp_path_factory.mktemp("atlas")
    raw = write_raw(root)
    lacking = raw / "labelsTr" / "person_3.nii.gz"
    sitk.WriteImage(without(sitk.ReadImage(str(lacking)), LABELS["Eye_R"]), str(lacking), True)
    images, references = root / "imagesTs", root / "labelsTs"
    images.mkdir()
    references.mkdir()
    ct, labels = head(0, **SCANNED)
    sitk.WriteImage(ct, str(images / "new_0000.nii.gz"), True)
    sitk.WriteImage(labels, str(references / "new.nii.gz"), True)
    (images / "known_0000.nii.gz").write_bytes((raw / "imagesTr" / "person_1_0000.nii.gz").read_bytes())
    (images / "damaged_0000.nii.gz").write_bytes(b"nothing")
    options = {"images": images, "out": root / "out", "dataset_id": 601, "n_atlases": 2, "n_threads": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(root / "raw"))
        summary = contour_by_atlases(**options, show_progress=False)
    return SimpleNamespace(root=root, raw=raw, options=options, summary=summary, references=references, labels=labels)


@pytest.fixture
def again(world, monkeypatch):
    """Runs once more into the same folder."""
    monkeypatch.setenv("nnUNet_raw", str(world.root / "raw"))
    return lambda **changes: contour_by_atlases(**{**world.options, **changes}, show_progress=False)


def records_in(out: Path, fusion: str = "staple") -> dict:
    return read_json(out / fusion / "predictions.json")["cases"]


def records(world, fusion: str) -> dict:
    return records_in(world.root / "out", fusion)


@pytest.mark.parametrize("fusion", ["staple", "voting"])
def test_organs_of_a_new_head_are_found_on_its_own_grid_and_left_is_left(world, fusion):
    found = sitk.ReadImage(str(world.root / "out" / fusion / "new.nii.gz"))
    assert found.GetSize() == world.labels.GetSize()
    np.testing.assert_allclose(found.GetDirection(), world.labels.GetDirection(), atol=1e-5)
    np.testing.assert_allclose(found.GetOrigin(), world.labels.GetOrigin(), atol=1e-3)
    for organ, value in ORGANS.items():
        assert dsc(found, world.labels, value) > 0.7, organ
    left, right = (np.argwhere(sitk.GetArrayFromImage(found) == v).mean(axis=0)[::-1] for v in (1, 2))
    # LPS: the patient's left is +x.
    assert np.subtract(*(found.TransformContinuousIndexToPhysicalPoint(p.tolist()) for p in (left, right)))[0] > 40


def test_output_is_scored_as_predictions_are(world, tmp_path):
    scores = evaluate(world.root / "out" / "voting", world.references, tmp_path, n_processes=1, show_progress=False)
    assert list(scores.cases) == ["new"]
    assert set(scores.organs) == set(ORGANS)


def test_a_damaged_case_does_not_stop_the_others(world):
    assert world.summary.written == ["known", "new"]
    assert list(world.summary.failed) == ["damaged"]
    assert "failed" in records(world, "staple")["damaged"]
    assert not (world.root / "out" / "staple" / "damaged.nii.gz").exists()


def test_a_case_is_never_its_own_atlas(world):
    assert sorted(records(world, "staple")["known"]["atlases"]) == ["person_2", "person_3"]


def test_what_an_atlas_lacks_is_said_by_name(world):
    assert [str(message) for message in world.summary.of_atlases] == [
        "training case person_3 has no Eye_R, on which it has no say"
    ]


def test_the_record_has_what_a_report_of_costs_needs(world):
    record = records(world, "voting")["new"]
    check_file(read_json(world.root / "out" / "voting" / "predictions.json"), "voting/predictions.json")
    assert all(record[name] >= 0 for name in ("prepare_s", "segment_s", "write_s"))
    assert len(record["atlases"]) == 2
    assert record["device"].endswith("1 thread")
    assert record["peak_memory_mb"] > 0
    assert record["missing"] == []


def test_a_run_goes_on_from_the_transforms_that_are_there(world, again, caplog):
    mask = world.root / "out" / "staple" / "new.nii.gz"
    before, record = mask.read_bytes(), records(world, "staple")["new"]
    assert record["transforms_computed"] == 5  # three affine, two elastic
    mask.unlink()  # as if it had been killed before it wrote this one
    with caplog.at_level("INFO", logger="nnunet_ext"):
        summary = again()
    assert (summary.written, summary.skipped) == (["new"], ["known"])
    assert mask.read_bytes() == before
    assert records(world, "staple")["new"]["transforms_computed"] == 0
    assert "3 affine and 2 elastic registrations, 1 at a time: about" in caplog.text


def test_parts_share_the_cases_and_the_folder(world, again, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(world.root / "out" / "transforms", out / "transforms")  # so that nothing is registered again
    first = again(out=out, num_parts=2, part_id=0)
    assert (first.written, list(first.failed)) == (["new"], ["damaged"])
    second = again(out=out, num_parts=2, part_id=1)
    assert (second.written, list(second.failed)) == (["known"], [])
    for fusion in ("staple", "voting"):
        manifest = read_json(out / fusion / "predictions.json")
        assert list(manifest["cases"]) == ["damaged", "known", "new"]
        assert manifest["files"] == read_json(world.root / "out" / fusion / "predictions.json")["files"]
        for case in ("known", "new"):
            file = f"{fusion}/{case}.nii.gz"
            assert (out / file).read_bytes() == (world.root / "out" / file).read_bytes()
            kept = read_json(out / fusion / "records" / f"{case}.json")
            assert kept == manifest["cases"][case]
    with pytest.raises(ValueError, match="part_id is 2; with num_parts 2 it is 0 to 1"):
        again(out=out, num_parts=2, part_id=2)


def test_strict_leaves_no_contours_of_a_case_with_a_warning(world, tmp_path, monkeypatch):
    """No atlas has the brainstem, so none is found. Nothing is registered again."""
    out = tmp_path / "out"
    shutil.copytree(world.root / "out" / "transforms", out / "transforms")
    shutil.copytree(world.root / "raw", tmp_path / "raw")
    for file in (tmp_path / "raw").glob("*/labelsTr/*"):
        sitk.WriteImage(without(sitk.ReadImage(str(file)), LABELS["Brainstem"]), str(file), True)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    options = {**world.options, "out": out, "show_progress": False}
    assert contour_by_atlases(**options).written == ["known", "new"]
    summary = contour_by_atlases(**options, strict=True)
    assert sorted(summary.failed) == ["damaged", "known", "new"]
    assert summary.failed["new"].startswith("strict: ")
    assert "Brainstem" in summary.failed["new"]
    assert not list(out.glob("*/*.nii.gz"))
    assert records_in(out)["new"]["failed"] == summary.failed["new"]
    assert records_in(out)["new"]["missing"] == ["Brainstem"]
    assert contour_by_atlases(**options).written == ["known", "new"]


def test_contours_by_other_atlases_are_not_mixed_in(again):
    with pytest.raises(ValueError, match="contoured with another n_atlases"):
        again(n_atlases=1)


def test_an_output_for_input_is_refused(world, again):
    with pytest.raises(ValueError, match="is a folder of the output"):
        again(images=world.root / "out" / "staple")


def test_a_channel_that_is_not_there_is_refused(again):
    with pytest.raises(ValueError, match="'T3' is none of the data set's, CT"):
        again(channel="T3")


def test_a_dicom_case_gets_an_rtstruct_of_each_way_to_fuse(tmp_path, monkeypatch):
    write_raw(tmp_path, people=(1,), nnunet_ext={"clean_ct": False})
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    ct, _ = head(0, spacing_mm=(4.4, 4.0, 5.0), angles=(0.10, -0.08, 0.12))
    write_series(ct, tmp_path / "in", modality="CT", study=Study("0042817"), number=1)
    options = {
        "images": tmp_path / "in",
        "out": tmp_path / "out",
        "dataset_id": 601,
        "n_threads": 1,
        "show_progress": False,
    }
    assert contour_by_atlases(**options, rtstruct=True, smooth_contours=True).written == ["case_001"]
    (series,) = find_series(tmp_path / "in").images
    image = read_series(series)
    for fusion in ("staple", "voting"):
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / fusion / "case_001.nii.gz")))
        drawn = read_rtstruct(tmp_path / "out" / fusion / "case_001.dcm")
        assert drawn.series_uids == {series.uid}
        assert [roi.name for roi in drawn.rois] == list(ORGANS)
        for organ in drawn.rois:
            np.testing.assert_array_equal(rasterise(organ.contours, image), mask == ORGANS[organ.name])
            assert (mask == ORGANS[organ.name]).any()
        headers = pydicom.dcmread(tmp_path / "out" / fusion / "case_001.dcm")
        assert f"{fusion} of 5 atlases" in headers.StructureSetROISequence[0].ROIGenerationDescription
    (tmp_path / "out" / "voting" / "case_001.dcm").unlink()
    assert contour_by_atlases(**options).skipped == ["case_001"]
    assert contour_by_atlases(**options, rtstruct=True).written == [
        "case_001"
    ]  # half of what is wanted is not finished
    contour_by_atlases(**options, overwrite=True)
    assert not list((tmp_path / "out").glob("*/case_001.dcm"))  # they would not belong to the new label maps


def test_an_rtstruct_without_dicom_is_refused_before_anything_is_written(again, tmp_path):
    with pytest.raises(ValueError, match="give the DICOM series, or leave out --rtstruct"):
        again(out=tmp_path / "out", rtstruct=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="--smooth-contours is about the contours of an RTSTRUCT"):
        again(out=tmp_path / "out", smooth_contours=True)


# Parts ------------------------------------------------------------------------------------------------------------------


def test_the_same_image_in_another_file_order_has_the_same_hash():
    ct, _ = head(0)
    assert sha256_of(ct) == sha256_of(sitk.DICOMOrient(sitk.DICOMOrient(ct, "PIR"), "LPS"))
    assert sha256_of(ct) != sha256_of(head(0, seed=1)[0])


def test_regions_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="Eyes are regions, made of several labels"):
        organs_of({"labels": {"background": 0, "Eye_L": 1, "Eyes": [1, 2]}}, tmp_path)


def test_a_training_case_that_is_no_atlas_is_named(tmp_path: Path):
    raw = write_raw(tmp_path, people=(1, 2))
    ct, labels = head(2)
    sitk.WriteImage(labels, str(raw / "labelsTr" / "person_2.nii.gz"))  # on another grid than the image
    names = {"0": "CT"}
    atlases, messages = read_atlases(raw, None, channel="CT", channel_names=names, organs={**ORGANS, "Lens_L": 9})
    assert [atlas.name for atlas in atlases] == ["person_1"]
    assert "training case person_2 is no atlas: its label map lies on another grid than its CT" in str(messages[1])
    assert str(messages[2]) == "no training case has Lens_L: no case will"
    with pytest.raises(ValueError, match="no organ is drawn in it"):
        make_atlas("x", ct, labels * 0, channel="CT", organs=ORGANS)


def test_only_the_training_cases_of_a_fold_are_atlases(tmp_path: Path, monkeypatch):
    raw = write_raw(tmp_path, people=(1, 2))
    splits = tmp_path / "preprocessed" / raw.name / "splits_final.json"
    splits.parent.mkdir(parents=True)
    splits.write_text(json.dumps([{"train": ["person_2"], "val": ["person_1"]}]))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    names = _cases_of_fold(raw.name, 0)
    atlases, _ = read_atlases(raw, names, channel="CT", channel_names={"0": "CT"}, organs=ORGANS)
    assert [atlas.name for atlas in atlases] == ["person_2"]
    with pytest.raises(ValueError, match=r"holds the folds 0 to 0, and no fold 1"):
        _cases_of_fold(raw.name, 1)


def test_an_organ_that_the_image_does_not_reach_is_named(tmp_path: Path):
    """A head that is scanned from below the eyes up has them on no atlas."""
    ct, _ = head(0, low_mm=(-92.0, -96.0, 10.0))
    atlas = make_atlas("person_1", *head(1), channel="CT", organs=ORGANS)
    cache = TransformCache(tmp_path, sha256_of(ct), OPTIONS)
    found = contour_case(ct, [atlas], cache, channel="CT", organs=ORGANS, n_atlases=1, n_threads=1)
    (message,) = found.warnings
    assert str(message) == "training case person_1 puts Eye_L, Eye_R, Brainstem beyond the image, wholly or in part"


def test_a_transform_is_computed_once_for_the_same_inputs_and_again_if_it_is_damaged(tmp_path: Path):
    made = []

    def fit() -> sitk.Transform:
        made.append(1)
        return sitk.TranslationTransform(3, (1.0, 2.0, 3.0))

    cache, other = (TransformCache(tmp_path, image, OPTIONS) for image in ("image", "other"))
    for _ in range(2):
        cache.get("a", "atlas", "linear", fit)
    assert len(made) == 1
    cache.get("a", "another", "linear", fit)
    other.get("a", "atlas", "linear", fit)
    assert (len(made), len(cache.computed), len(other.computed)) == (3, 2, 1)
    cache.file("a", "atlas", "linear").write_text("#Insight")
    assert cache.get("a", "atlas", "linear", fit).TransformPoint((0, 0, 0)) == (1.0, 2.0, 3.0)
    assert len(made) == 4


def test_a_case_folder_is_prepared_as_the_training_images_were_and_its_contours_go_back_onto_its_grid(tmp_path: Path):
    folder = tmp_path / "case_a"
    folder.mkdir()
    ct, labels = head(0, axes="RAS", spacing_mm=(5.0, 5.0, 6.0))
    sitk.WriteImage(ct, str(folder / "CT.nii.gz"), True)
    dataset_json = {"nnunet_ext": {"clean_ct": False, "window_hu": [-160, 240]}}
    case = find_cases(tmp_path, channels=["CT", "T1"], optional=["T1"]).cases["case_a"]
    settings = _Settings(dataset_json, ["CT"], "CT", ORGANS, recorded_options(dataset_json), 1, 1, [])
    prepared = _prepare(case, settings)
    values = sitk.GetArrayFromImage(prepared.image)
    assert (values.min(), values.max()) == (-160, 240)
    canonical = sitk.DICOMOrient(labels, "LPS")
    assert prepared.image.GetDirection() == canonical.GetDirection()
    back = _mask(sitk.GetArrayFromImage(canonical).astype(np.int32), prepared)
    assert back.GetDirection() == labels.GetDirection()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(labels))
