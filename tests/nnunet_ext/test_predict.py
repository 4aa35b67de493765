"""Prediction from files to files, with networks that read the organs off the CT's values instead of trained ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations, product
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext import cascade_predictor, roi
from nnunet_ext.cascade_predictor import CascadePredictor, checkpoint_files, load_stage
from nnunet_ext.labels import LEFT_OUT_KEY
from nnunet_ext.predict import predict

SHAPE = (31, 53, 47)  # z, y, x in RAS order
SPACING_MM = (2.3, 2.1, 1.3)
FORWARD = (2, 0, 1)
EYE_L, EYE_R, CHIASM = 1, 2, 3
ORGANS = {EYE_L: np.s_[12:16, 30:36, 12:18], EYE_R: np.s_[12:16, 30:36, 29:35], CHIASM: np.s_[14:16, 22:25, 20:27]}
LABELS = {"background": 0, "Eye_L": EYE_L, "Eye_R": EYE_R, "OpticChiasm": CHIASM}
DATASET = {"channel_names": {"0": "CT", "1": "T1"}, "labels": LABELS, "file_ending": ".nii.gz"}
HU_PER_LABEL = 50.0


def label_map(organs=ORGANS) -> np.ndarray:
    result = np.zeros(SHAPE, np.uint8)
    for value, where in organs.items():
        result[where] = value
    return result


def channels(organs=ORGANS) -> list[np.ndarray]:
    """CT and T1 of a head in air; in the CT, label `v` has `50 v` HU."""
    index = np.indices(SHAPE)
    radii = np.reshape((10, 17, 17), (3, 1, 1, 1))
    inside = (((index - np.reshape((14, 26, 23), (3, 1, 1, 1))) / radii) ** 2).sum(0) <= 1
    ct = np.where(inside, 0.0, -1000.0)
    labels = label_map(organs)
    return [np.where(labels > 0, HU_PER_LABEL * labels, ct).astype(np.float32), (300.0 * inside).astype(np.float32)]


def affine(oblique: bool = True) -> np.ndarray:
    turn = sitk.Euler3DTransform((0, 0, 0), 0.20, -0.15, 0.10) if oblique else sitk.Euler3DTransform()
    result = np.eye(4)
    result[:3, :3] = np.reshape(turn.GetMatrix(), (3, 3)) * SPACING_MM[::-1]
    result[:3, 3] = (-30.0, 12.5, 7.0)
    return result


def write_case(folder: Path, case: str, organs=ORGANS, *, ornt=None) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for i, array in enumerate(channels(organs)):
        image = nibabel.Nifti1Image(array.transpose(2, 1, 0), affine())
        if ornt is not None:
            image = image.as_reoriented(ornt_transform(axcodes2ornt("RAS"), ornt))
        files.append(folder / f"{case}_{i:04d}.nii.gz")
        nibabel.save(image, files[-1])
    return files


def read(file: Path) -> np.ndarray:
    """Label map (Z, Y, X) in RAS order."""
    return np.asarray(nibabel.as_closest_canonical(nibabel.load(file)).dataobj).transpose(2, 1, 0)


class ReadsOrgansOffTheCT:
    """Stands in for nnU-Net's predictor: logits are one-hot, label `v` where the CT has `50 v` HU."""

    def __init__(self, plans: dict, configuration: str, sees: set[int]) -> None:
        self.plans_manager = PlansManager(plans)
        self.configuration_manager = self.plans_manager.get_configuration(configuration)
        self.dataset_json = DATASET
        self.label_manager = self.plans_manager.get_label_manager(DATASET)
        self.sees = sees
        self.shapes: list[tuple[int, ...]] = []

    def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(data.shape))
        labels = np.round((data[0].numpy() * 40 + 20) / HU_PER_LABEL)  # the plan's CT normalisation
        one_hot = np.stack([labels == v for v in range(len(LABELS))])
        one_hot[[v for v in ORGANS if v not in self.sees]] = False
        return torch.from_numpy(one_hot).half()  # a voxel without any label is background: the first of the largest


@pytest.fixture
def stages(cascade_plans, monkeypatch, tmp_path) -> SimpleNamespace:
    """Both stand-ins, used by every `CascadePredictor` of the test; the localizer sees the eyes only."""
    extents = roi.organ_extents(label_map().transpose(FORWARD), spacing_mm=[SPACING_MM[i] for i in FORWARD])
    rule = roi.fit_roi({"case": extents}, margin_mm=3.0, jitter_mm=0.0).rule
    plans = cascade_plans(
        spacing_mm=[SPACING_MM[i] for i in FORWARD],
        transpose_forward=FORWARD,
        roi=rule.to_plan(),
        channels=("CT", "T1"),
    )
    made = SimpleNamespace(
        localizer=ReadsOrgansOffTheCT(plans, "3d_lowres", {EYE_L, EYE_R}),
        segmenter=ReadsOrgansOffTheCT(plans, "3d_cascade_fullres", set(ORGANS)),
        whole_volume=ReadsOrgansOffTheCT(plans, "3d_fullres", set(ORGANS)),
        rule=rule,
    )
    monkeypatch.setattr(
        cascade_predictor,
        "load_stage",
        lambda folder, **_: {"3d_lowres": made.localizer, "3d_fullres": made.whole_volume}.get(
            Path(folder).name.rpartition("__")[2], made.segmenter
        ),
    )
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name / "Dataset501_Test").mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    return made


@pytest.fixture
def predictor(stages) -> CascadePredictor:
    return CascadePredictor(Path("T__P__3d_cascade_fullres"), device=torch.device("cpu"))


@pytest.fixture
def run(stages, tmp_path) -> Callable:
    def run_folder(**options):
        return predict(dataset_id=501, images=tmp_path / "in", out=tmp_path / "out", show_progress=False, **options)

    return run_folder


def manifest(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "out" / "predictions.json").read_text())


# ------------------------------------------------------------------------------------------------ one case


def test_both_stages_find_every_organ_and_the_box_is_in_the_readers_axes(predictor, stages):
    result = predictor.predict_array(np.stack(channels()), {"spacing": list(SPACING_MM)})
    np.testing.assert_array_equal(result.label_map, label_map())
    assert result.label_map.dtype == np.uint8
    assert (result.fallback_whole_volume, result.regrown, result.missing, result.warnings) == (False, False, [], [])
    inside = np.zeros(SHAPE, bool)
    inside[roi.slices(result.box)] = True
    assert inside[label_map() > 0].all()
    assert [u - lower for lower, u in result.box] == [
        stages.segmenter.shapes[0][1:][FORWARD.index(i)] for i in range(3)
    ]


def test_the_callers_images_and_properties_are_left_as_they_are(predictor):
    images, properties = np.stack(channels()), {"spacing": list(SPACING_MM)}
    before = images.copy()
    predictor.predict_array(images, properties)
    np.testing.assert_array_equal(images, before)
    assert properties == {"spacing": list(SPACING_MM)}


def test_without_a_located_organ_the_whole_body_is_segmented_and_said_so(predictor, stages):
    stages.localizer.sees = set()
    result = predictor.predict_array(np.stack(channels()), {"spacing": list(SPACING_MM)})
    np.testing.assert_array_equal(result.label_map, label_map())
    assert result.fallback_whole_volume
    assert result.warnings == ["the localizer found no organ: the whole body was segmented instead of the ROI"]
    assert stages.segmenter.shapes[0] == stages.localizer.shapes[0]


def test_missing_organs_are_named(predictor, stages):
    stages.segmenter.sees = {EYE_R}
    result = predictor.predict_array(np.stack(channels()), {"spacing": list(SPACING_MM)})
    assert result.missing == ["Eye_L", "OpticChiasm"]
    assert result.warnings == ["no voxel of Eye_L, OpticChiasm"]


def test_an_organ_that_touches_the_box_makes_it_grow_once(predictor, stages):
    longer = {**ORGANS, CHIASM: np.s_[14:16, 18:25, 20:27]}  # the box begins at y = 21
    result = predictor.predict_array(np.stack(channels(longer)), {"spacing": list(SPACING_MM)})
    assert result.regrown
    np.testing.assert_array_equal(result.label_map, label_map(longer))
    assert len(stages.segmenter.shapes) == 2
    assert result.box[1][0] == 21 - 5  # 10 mm are 4.8 voxels
    assert result.warnings == [
        "an organ touched the border of the ROI, which was enlarged by 10 mm and segmented again"
    ]


def test_an_organ_that_is_longer_still_is_said_to_touch_the_enlarged_box(predictor):
    longest = {**ORGANS, CHIASM: np.s_[14:16, 11:25, 20:27]}
    result = predictor.predict_array(np.stack(channels(longest)), {"spacing": list(SPACING_MM)})
    assert result.warnings == [
        "an organ touched the border of the ROI, which was enlarged by 10 mm and segmented again; "
        "an organ still touches it"
    ]


def test_a_mislocated_organ_is_named_and_ignored(predictor, stages):
    """The third organ, in the nape: far from where the eyes place it."""
    stages.localizer.sees = set(ORGANS)
    stages.segmenter.sees = {EYE_L, EYE_R}
    organs = {**ORGANS, CHIASM: np.s_[8:10, 12:14, 20:24]}
    result = predictor.predict_array(np.stack(channels(organs)), {"spacing": list(SPACING_MM)})
    assert result.warnings == [
        "the localizer saw OpticChiasm far from where the other organs place them: ignored",
        "no voxel of OpticChiasm",
    ]
    assert (result.label_map[label_map() == EYE_L] == EYE_L).all()


# ------------------------------------------------------------------------------------------------ mirroring


def test_mirrored_logits_are_flipped_back_with_left_and_right_exchanged(predictor):
    torch.manual_seed(0)
    data, weights = np.random.default_rng(0).standard_normal((2, 5, 7, 11)).astype(np.float32), torch.randn(4, 2)
    ramp = torch.arange(5.0).reshape(1, 5, 1, 1)  # depends on the position along the left-right axis

    class Network:
        def predict_logits_from_preprocessed_data(self, images):
            return torch.einsum("lc,czyx->lzyx", weights, images * ramp)

    assert predictor.left_right_axis == FORWARD.index(2) == 0
    plain = predictor._logits(Network(), data)
    mirrored = predictor._logits(Network(), data[:, ::-1]).flip(1)[[0, 2, 1, 3]]  # a left eye is a right eye there
    predictor.use_mirroring = True
    torch.testing.assert_close(predictor._logits(Network(), data), (plain + mirrored) / 2)


# ------------------------------------------------------------------------------------------------ the plan's recipe


def set_recipe(stages, **recipe) -> None:
    for stage in (stages.localizer, stages.segmenter):
        stage.configuration_manager.configuration["recipe"] = recipe


def test_with_modality_dropout_a_case_without_an_mr_is_segmented_and_said_so(stages, run, tmp_path):
    set_recipe(stages, modality_dropout=0.3)
    write_case(tmp_path / "in", "head_a")[1].unlink()
    write_case(tmp_path / "in", "head_b")
    summary = run()
    assert summary.written == ["head_a", "head_b"]
    assert summary.warnings == {"head_a": ["predicted from CT alone, without T1"]}
    records = manifest(tmp_path)["cases"]
    assert [records[c]["channels"] for c in ("head_a", "head_b")] == [["CT"], ["CT", "T1"]]
    np.testing.assert_array_equal(read(tmp_path / "out" / "head_a.nii.gz"), label_map())


def test_the_ct_may_not_be_missing_even_with_modality_dropout(stages, run, tmp_path):
    set_recipe(stages, modality_dropout=0.3)
    write_case(tmp_path / "in", "head_a")[0].unlink()
    assert "there is no file of CT, only head_a_0001.nii.gz" in run().failed["head_a"]


def test_a_missing_channel_reaches_the_network_as_zeros(stages, tmp_path):
    set_recipe(stages, modality_dropout=0.3)
    predictor = CascadePredictor(Path("T__P__3d_cascade_fullres"), device=torch.device("cpu"))
    seen = []
    inner = stages.segmenter.predict_logits_from_preprocessed_data
    stages.segmenter.predict_logits_from_preprocessed_data = lambda data: seen.append(data) or inner(data)
    files = write_case(tmp_path / "in", "head")
    predictor.predict_files({"CT": files[0]}, tmp_path / "head.nii.gz")
    assert seen[0][1].abs().max() == 0
    assert seen[0][0].std() > 0


def test_a_guided_segmenter_gets_the_localizers_organs_as_channels(stages, predictor):
    stages.segmenter.configuration_manager.configuration["recipe"] = {"guidance": True}
    seen = []
    inner = stages.segmenter.predict_logits_from_preprocessed_data
    stages.segmenter.predict_logits_from_preprocessed_data = lambda data: seen.append(data) or inner(data)
    predictor.predict_array(np.stack(channels()), {"spacing": list(SPACING_MM)})
    assert seen[0].shape[0] == 2 + 3
    for value in (EYE_L, EYE_R):  # all of what the localizer sees; it does not see the chiasm
        assert int(seen[0][1 + value].sum()) == np.count_nonzero(label_map() == value)
    assert int(seen[0][4].sum()) == 0
    images = seen[0]
    seen.clear()
    predictor.use_mirroring = True
    predictor._logits(stages.segmenter, images.numpy())
    axis = predictor.left_right_axis + 1
    torch.testing.assert_close(seen[1][:2], images[:2].flip(axis))
    torch.testing.assert_close(seen[1][2:], images[[3, 2, 4]].flip(axis))  # a left eye is a right eye there


# ------------------------------------------------------------------------------------------------ orientation


def test_all_48_axis_orders_of_one_oblique_image_give_the_same_mask_in_space(predictor, tmp_path):
    for order, flips in product(permutations(range(3)), product((1, -1), repeat=3)):
        ornt = np.column_stack([order, flips]).astype(float)
        files = write_case(tmp_path / "in", "head", ornt=ornt)
        out = tmp_path / "out" / "head.nii.gz"
        predictor.predict_files(dict(zip(predictor.channels, files, strict=True)), out)
        image, mask = nibabel.load(files[0]), nibabel.load(out)
        np.testing.assert_array_equal(io_orientation(image.affine), ornt)
        assert mask.shape == image.shape
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-4)
        np.testing.assert_array_equal(read(out), label_map(), err_msg=f"{order} {flips}")


def test_the_mask_lies_on_the_inputs_grid_for_simpleitk_too(predictor, tmp_path):
    files = write_case(tmp_path / "in", "head", ornt=axcodes2ornt("PSL"))
    predictor.predict_files(dict(zip(predictor.channels, files, strict=True)), tmp_path / "head.nii.gz")
    image, mask = sitk.ReadImage(str(files[0])), sitk.ReadImage(str(tmp_path / "head.nii.gz"))
    assert mask.GetSize() == image.GetSize()
    for read_out in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(mask, read_out)() == pytest.approx(getattr(image, read_out)(), abs=1e-4)
    assert mask.GetPixelID() == sitk.sitkUInt8


# ------------------------------------------------------------------------------------------------ a folder


def test_a_folder_of_cases_becomes_masks_labels_and_a_manifest(run, tmp_path):
    for case in ("head_b", "head_a"):
        write_case(tmp_path / "in", case)
    summary = run()
    assert (summary.written, summary.skipped, summary.failed, summary.warnings) == (["head_a", "head_b"], [], {}, {})
    names = sorted(f.name for f in (tmp_path / "out").iterdir())
    assert names == ["dataset.json", "head_a.nii.gz", "head_b.nii.gz", "predictions.json"]
    np.testing.assert_array_equal(read(tmp_path / "out" / "head_a.nii.gz"), label_map())
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == DATASET
    content = manifest(tmp_path)
    assert content["models"] == [
        "CascadeOARTrainer__CascadeOARPlans__3d_lowres",
        "CascadeOARTrainer__CascadeOARPlans__3d_cascade_fullres",
    ]
    assert content["channels"] == ["CT", "T1"]
    assert content["use_mirroring"] is False
    record = content["cases"]["head_a"]
    assert record.pop("runtime_s") > 0
    # Organs: 4, 14 and 23 voxels; with 3 mm on each side 6.6, 16.9 and 27.6.
    assert record.pop("box") == [[11, 17], [21, 37], [10, 37]]
    assert record == {
        "fallback_whole_volume": False,
        "regrown": False,
        "missing": [],
        "channels": ["CT", "T1"],
        "warnings": [],
    }


@pytest.mark.parametrize("case", ["head (1)+[x]", "head_0000", "0001", "Ä.b"])
def test_unusual_case_names_are_kept(run, tmp_path, case):
    write_case(tmp_path / "in", case)
    assert run().written == [case]
    assert (tmp_path / "out" / f"{case}.nii.gz").is_file()


def test_a_case_without_a_channel_fails_by_name_and_the_others_are_finished(run, tmp_path):
    write_case(tmp_path / "in", "head_a")
    write_case(tmp_path / "in", "head_b")[1].unlink()
    write_case(tmp_path / "in", "head_c")
    summary = run()
    assert summary.written == ["head_a", "head_c"]
    assert list(summary.failed) == ["head_b"]
    assert "CT, T1" in summary.failed["head_b"]
    assert "head_b_0000.nii.gz" in summary.failed["head_b"]
    assert manifest(tmp_path)["cases"]["head_b"] == {"failed": summary.failed["head_b"]}
    assert not (tmp_path / "out" / "head_b.nii.gz").exists()


def test_a_misnumbered_channel_is_not_taken_for_the_missing_one(run, tmp_path):
    write_case(tmp_path / "in", "head_a")
    files = write_case(tmp_path / "in", "head_b")
    files[1].rename(tmp_path / "in" / "head_b_0002.nii.gz")
    summary = run()
    assert summary.written == ["head_a"]
    assert "head_b_0002.nii.gz" in summary.failed["head_b"]


def test_a_file_that_is_no_case_is_left_out_with_a_warning(run, tmp_path):
    write_case(tmp_path / "in", "head_a")[0].with_name("atlas.nii.gz").write_bytes(b"x")
    summary = run()
    assert summary.written == ["head_a"]
    assert summary.failed == {}
    assert "atlas.nii.gz" in summary.warnings


def test_a_truncated_image_fails_by_name_and_leaves_nothing(run, tmp_path):
    file = write_case(tmp_path / "in", "head_a")[1]
    file.write_bytes(file.read_bytes()[:-200])
    write_case(tmp_path / "in", "head_b")
    summary = run()
    assert summary.written == ["head_b"]
    assert "head_a_0001.nii.gz" in summary.failed["head_a"]
    assert not [f.name for f in (tmp_path / "out").iterdir() if "head_a" in f.name or "partial" in f.name]


def test_a_run_that_is_killed_while_writing_leaves_no_half_mask(run, tmp_path, monkeypatch):
    write_case(tmp_path / "in", "head_a")

    def full_disk(_mask, file, _compress):
        Path(file).write_bytes(b"half a mask")
        raise OSError("No space left on device")

    monkeypatch.setattr(sitk, "WriteImage", full_disk)
    assert "No space left" in run().failed["head_a"]
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["dataset.json", "predictions.json"]


def test_running_again_does_what_is_missing_only(run, tmp_path, stages):
    write_case(tmp_path / "in", "head_a")
    second = write_case(tmp_path / "in", "head_b")[1]
    content = second.read_bytes()
    second.unlink()
    run()
    first_record = manifest(tmp_path)["cases"]["head_a"]
    second.write_bytes(content)
    stages.segmenter.shapes.clear()
    summary = run()
    assert (summary.written, summary.skipped, summary.failed) == (["head_b"], ["head_a"], {})
    assert len(stages.segmenter.shapes) == 1
    assert manifest(tmp_path)["cases"]["head_a"] == first_record
    assert "failed" not in manifest(tmp_path)["cases"]["head_b"]
    assert run(overwrite=True).written == ["head_a", "head_b"]


def test_warnings_of_a_case_are_in_the_summary_and_the_manifest(run, tmp_path, stages):
    write_case(tmp_path / "in", "head_a")
    stages.segmenter.sees = {EYE_R, CHIASM}
    summary = run()
    assert summary.warnings == {"head_a": ["no voxel of Eye_L"]}
    record = manifest(tmp_path)["cases"]["head_a"]
    assert (record["missing"], record["warnings"]) == (["Eye_L"], ["no voxel of Eye_L"])


def test_another_configuration_predicts_with_the_localizer_its_plan_names(run, tmp_path):
    write_case(tmp_path / "in", "head_a")
    assert run(configuration="3d_cascade_16x64x64").written == ["head_a"]
    assert manifest(tmp_path)["models"] == [
        "CascadeOARTrainer__CascadeOARPlans__3d_lowres",
        "CascadeOARTrainer__CascadeOARPlans__3d_cascade_16x64x64",
    ]


def test_a_configuration_without_a_localizer_segments_the_whole_body(run, tmp_path, stages):
    write_case(tmp_path / "in", "head_a")
    run(configuration="3d_fullres")
    np.testing.assert_array_equal(read(tmp_path / "out" / "head_a.nii.gz"), label_map())
    assert manifest(tmp_path)["models"] == ["CascadeOARTrainer__CascadeOARPlans__3d_fullres"]
    assert manifest(tmp_path)["cases"]["head_a"]["warnings"] == []
    assert stages.localizer.shapes == []
    box = manifest(tmp_path)["cases"]["head_a"]["box"]
    assert [b - a for a, b in box] == [stages.whole_volume.shapes[0][1:][FORWARD.index(i)] for i in range(3)]


def test_organs_that_the_model_leaves_out_are_not_missed_and_noted_for_the_evaluation(run, tmp_path, stages):
    write_case(tmp_path / "in", "head_a")
    stages.segmenter.sees = {CHIASM}
    stages.segmenter.dataset_json = {**DATASET, LEFT_OUT_KEY: ["Eye_L", "Eye_R"]}
    assert run().warnings == {}
    assert manifest(tmp_path)["cases"]["head_a"]["missing"] == []
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())[LEFT_OUT_KEY] == ["Eye_L", "Eye_R"]


# ------------------------------------------------------------------------------------------------ what is not there


def test_a_missing_images_folder_is_named(run):
    with pytest.raises(FileNotFoundError, match=r"images folder .*in does not exist"):
        run()


def test_a_folder_without_cases_says_how_files_are_named(run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "head.nii.gz").touch()
    with pytest.raises(FileNotFoundError, match=r"<case>_0000\.nii\.gz"):
        run()


def test_without_the_models_folder_the_variable_is_named(run, tmp_path, monkeypatch):
    write_case(tmp_path / "in", "head_a")
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(FileNotFoundError, match="nnUNet_results is not set"):
        run()


@pytest.mark.parametrize(("folds", "named"), [([0, 3], "folds 3"), (None, None), (["all"], "folds all")])
def test_a_fold_that_is_not_trained_is_named(tmp_path, folds, named):
    if folds is not None:
        (tmp_path / "fold_0").mkdir()
        (tmp_path / "fold_0" / "checkpoint_final.pth").touch()
    with pytest.raises(FileNotFoundError, match=named or "any fold"):
        load_stage(tmp_path, folds=folds, checkpoint="checkpoint_final.pth", device=torch.device("cpu"))


def test_without_named_folds_the_model_of_all_cases_is_not_averaged_with_the_others(tmp_path):
    found = []
    for fold in ("all", "1", "0"):
        (tmp_path / f"fold_{fold}").mkdir()
        (tmp_path / f"fold_{fold}" / "checkpoint_final.pth").touch()
        found.append([file.parent.name for file in checkpoint_files(tmp_path, None, "checkpoint_final.pth")])
    assert found == [["fold_all"], ["fold_1"], ["fold_0", "fold_1"]]
