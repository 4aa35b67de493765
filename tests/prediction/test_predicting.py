"""Prediction from files to files, with networks that read the organs off the CT's values instead of trained ones."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import threading
import weakref
from collections.abc import Callable
from importlib.metadata import version
from itertools import permutations, product
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from fake_gpu import FakeGpu, organ_stage
from fault_inputs import set_raw
from learned_files import write_sharpening
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from reference_tables import check_file
from tqdm._monitor import TMonitor

from nnunet_ext.cascade import roi
from nnunet_ext.cascade.plausibility import PLANS_KEY, fit_ranges
from nnunet_ext.cascade.roi_fitting import fit_roi
from nnunet_ext.cases.prediction_cases import FilesCase
from nnunet_ext.cli.main import main
from nnunet_ext.dicom.rasterising import rasterise
from nnunet_ext.dicom.reading import read_series
from nnunet_ext.dicom.rtstruct_reader import read_rtstruct
from nnunet_ext.dicom.rtstruct_writer import write_contours, write_rtstruct
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.series_writer import Study, write_series
from nnunet_ext.folder_lock import FolderInUse
from nnunet_ext.images.reading import read_image
from nnunet_ext.labels.sides import chinese_name
from nnunet_ext.labels.table import LEFT_OUT_KEY
from nnunet_ext.messages import Message, in_english
from nnunet_ext.prediction import cascade_predictor
from nnunet_ext.prediction.bfloat16 import has_bfloat16
from nnunet_ext.prediction.cascade_predictor import CascadePredictor
from nnunet_ext.prediction.predicting import model_sha256, predict
from nnunet_ext.training.recipe import TRAINED_WITH_KEY

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
    t1 = (300.0 + index.sum(0)) * inside  # with one value it would be refused as a mask
    return [np.where(labels > 0, HU_PER_LABEL * labels, ct).astype(np.float32), t1.astype(np.float32)]


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
        self.list_of_parameters = [{"weight": torch.ones(3)}]
        self.network = torch.nn.Identity()  # without a layer that bfloat16 could be wrong in
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
    rule = fit_roi({"case": extents}, margin_mm=3.0, jitter_mm=0.0).rule
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
        folders = {"images": tmp_path / "in", "out": tmp_path / "out"}
        return predict(**{"dataset_id": 501, "show_progress": False, **folders, **options})

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
    assert in_english(result.warnings) == [
        "the localizer found no organ: the whole body was segmented instead of the ROI"
    ]
    assert stages.segmenter.shapes[0] == stages.localizer.shapes[0]


def test_missing_organs_are_named(predictor, stages):
    stages.segmenter.sees = {EYE_R}
    result = predictor.predict_array(np.stack(channels()), {"spacing": list(SPACING_MM)})
    assert result.missing == ["Eye_L", "OpticChiasm"]
    assert in_english(result.warnings) == ["no voxel of Eye_L, OpticChiasm"]


def test_an_organ_that_touches_the_box_makes_it_grow(predictor, stages):
    longer = {**ORGANS, CHIASM: np.s_[14:16, 18:25, 20:27]}  # the box begins at y = 21
    result = predictor.predict_array(np.stack(channels(longer)), {"spacing": list(SPACING_MM)})
    assert result.regrown
    np.testing.assert_array_equal(result.label_map, label_map(longer))
    assert len(stages.segmenter.shapes) == 2
    assert result.box[1][0] == 21 - 5  # 10 mm are 4.8 voxels
    assert in_english(result.warnings) == [
        "an organ touched the border of the ROI, which was enlarged by 10 mm and segmented again"
    ]


def test_the_box_grows_until_the_organ_is_whole(predictor, stages):
    longest = {**ORGANS, CHIASM: np.s_[14:16, 11:25, 20:27]}
    result = predictor.predict_array(np.stack(channels(longest)), {"spacing": list(SPACING_MM)})
    np.testing.assert_array_equal(result.label_map, label_map(longest))
    assert len(stages.segmenter.shapes) == 4
    assert in_english(result.warnings) == [
        "an organ touched the border of the ROI, which was enlarged by 30 mm and segmented again"
    ]


def test_sides_that_move_one_after_the_other_are_not_added_up(predictor, stages):
    """Around the corner: that it leaves the box along x is seen only once the box has grown along y."""
    bent = np.zeros(SHAPE, bool)
    bent[14:16, 18:25, 20:27] = bent[14:16, 18:20, 20:38] = True
    organs = {**ORGANS, CHIASM: bent}
    result = predictor.predict_array(np.stack(channels(organs)), {"spacing": list(SPACING_MM)})
    np.testing.assert_array_equal(result.label_map, label_map(organs))
    assert len(stages.segmenter.shapes) == 3
    assert in_english(result.warnings) == [
        "an organ touched the border of the ROI, which was enlarged by 10 mm and segmented again"
    ]


def test_an_organ_that_is_longer_still_is_said_to_touch_the_enlarged_box(predictor, monkeypatch):
    monkeypatch.setattr("nnunet_ext.prediction.cascade_predictor.REGROW_TIMES", 2)
    longest = {**ORGANS, CHIASM: np.s_[14:16, 11:25, 20:27]}
    result = predictor.predict_array(np.stack(channels(longest)), {"spacing": list(SPACING_MM)})
    assert in_english(result.warnings) == [
        "an organ touched the border of the ROI, which was enlarged by 20 mm and segmented again; "
        "an organ still touches it"
    ]


def test_a_box_as_large_as_believable_is_not_enlarged_and_that_is_said(predictor, stages):
    entry = stages.segmenter.configuration_manager.configuration["roi"]
    entry |= {"needed_mm": [10.0, 10.0, 10.0], "margin_mm": 5.0}
    everywhere = {**ORGANS, CHIASM: np.s_[14:16, 11:38, 20:27]}  # beyond both ends along y
    result = predictor.predict_array(np.stack(channels(everywhere)), {"spacing": list(SPACING_MM)})
    assert not result.regrown
    assert len(stages.segmenter.shapes) == 1
    assert in_english(result.warnings) == [
        "an organ touches the border of the ROI, which is as large as the training labels make believable, so it was not "
        "enlarged"
    ]


def test_a_mislocated_organ_is_named_and_ignored(predictor, stages):
    """The third organ, in the nape: far from where the eyes place it."""
    stages.localizer.sees = set(ORGANS)
    stages.segmenter.sees = {EYE_L, EYE_R}
    organs = {**ORGANS, CHIASM: np.s_[8:10, 12:14, 20:24]}
    result = predictor.predict_array(np.stack(channels(organs)), {"spacing": list(SPACING_MM)})
    assert in_english(result.warnings) == [
        "the localizer saw OpticChiasm far from where the other organs place them: ignored",
        "no voxel of OpticChiasm",
    ]
    assert (result.label_map[label_map() == EYE_L] == EYE_L).all()


def said_of(summary) -> dict[str, list[str]]:
    return {case: in_english(messages) for case, messages in summary.warnings.items()}


def test_every_warning_of_a_case_can_be_read_in_chinese(predictor, stages, monkeypatch):
    monkeypatch.setattr("nnunet_ext.prediction.cascade_predictor.REGROW_TIMES", 2)
    longer, longest = ({**ORGANS, CHIASM: np.s_[14:16, y:25, 20:27]} for y in (18, 11))
    nape = {**ORGANS, CHIASM: np.s_[8:10, 12:14, 20:24]}
    said = set()
    for seen, organs in ((set(), ORGANS), (set(ORGANS), longer), (set(ORGANS), longest), (set(ORGANS), nape)):
        stages.localizer.sees = seen
        stages.segmenter.sees = {EYE_L, EYE_R} if organs is nape else set(ORGANS)
        said |= set(predictor.predict_array(np.stack(channels(organs)), {"spacing": list(SPACING_MM)}).warnings)
    assert len(said) == 5
    assert all(message.text("zh") != str(message) for message in said)
    assert (
        Message("no_voxel", {"organs": ["Eye_L", "OpticChiasm"]}).text("zh", chinese_name)
        == "没有任何体素属于左眼球、视交叉"
    )


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


def test_the_pairs_are_those_of_the_plan_else_of_the_endings(stages):
    def pairs() -> list[tuple[int, int]]:
        return CascadePredictor(Path("T__P__3d_cascade_fullres"), device=torch.device("cpu")).pairs

    plans = stages.segmenter.plans_manager.plans
    assert pairs() == [(EYE_L, EYE_R)]
    plans["left_right_pairs"] = [["OpticChiasm", "Eye_R"]]
    assert pairs() == [(CHIASM, EYE_R)]
    plans["left_right_pairs"] = [["Auge_L", "Auge_R"]]
    with pytest.raises(ValueError, match="'Auge_L', which is no label"):
        pairs()


@pytest.mark.parametrize("stage", ["localizer", "segmenter"])
def test_mirroring_is_refused_for_a_model_that_was_trained_without_it(stages, run, tmp_path, stage):
    write_case(tmp_path / "in", "head_a")
    getattr(stages, stage).configuration_manager.configuration["recipe"] = {"mirror_left_right": False}
    configuration = {"localizer": "3d_lowres", "segmenter": "3d_cascade_fullres"}[stage]
    with pytest.raises(ValueError, match=rf"{configuration} was trained without left-right mirroring.*--mirror"):
        run(use_mirroring=True)


def test_the_recipe_that_a_model_was_trained_with_counts_not_its_plans(stages, run, tmp_path):
    write_case(tmp_path / "in", "head_a")
    stages.localizer.dataset_json = {**DATASET, TRAINED_WITH_KEY: {"recipe": {"mirror_left_right": False}}}
    with pytest.raises(ValueError, match=r"3d_lowres was trained without left-right mirroring"):
        run(use_mirroring=True)


def test_mirroring_by_an_older_plan_says_what_it_does_not_exchange(stages, caplog):
    stages.segmenter.dataset_json = {**DATASET, "labels": {"background": 0, "left_eye": 1, "right_eye": 2, "Eye": 3}}
    CascadePredictor(Path("T__P__3d_cascade_fullres"), device=torch.device("cpu"), use_mirroring=True)
    assert "'left_eye' and 'right_eye' are not exchanged" in caplog.text


# ------------------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize(
    ("native", "full", "precision"),
    [(True, False, "bfloat16"), (True, True, "float32"), (False, False, "float32")],
)
def test_networks_compute_in_bfloat16_where_the_processor_does_unless_told_not_to(
    stages, monkeypatch, native, full, precision
):
    monkeypatch.setattr("nnunet_ext.prediction.cascade_predictor.has_bfloat16", lambda: native)
    predictor = CascadePredictor(Path("T__P__3d_cascade_fullres"), device=torch.device("cpu"), full_precision=full)
    seen = []
    for stage in (stages.localizer, stages.segmenter):
        inner = stage.predict_logits_from_preprocessed_data
        stage.predict_logits_from_preprocessed_data = lambda data, inner=inner: (
            seen.append(torch.zeros(1, 1) @ torch.zeros(1, 1)) or inner(data).to(seen[-1].dtype)
        )
    result = predictor.predict_array(np.stack(channels()), {"spacing": list(SPACING_MM)})
    assert {str(product.dtype) for product in seen} == {f"torch.{precision}"}
    assert len(seen) == 2
    assert result.precision == precision
    np.testing.assert_array_equal(result.label_map, label_map())


class WrongInBfloat16(torch.nn.Conv3d):
    """A convolution that is off by more than its own size in bfloat16."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = super().forward(x)
        return -output if torch.is_autocast_enabled("cpu") else output


@pytest.mark.parametrize("name", ["localizer", "segmenter"])
@pytest.mark.parametrize(("kind", "refused"), [(WrongInBfloat16, True), (torch.nn.Conv3d, False)])
def test_a_model_that_is_wrong_in_bfloat16_computes_in_32_bits_and_says_so_once(
    stages, run, tmp_path, monkeypatch, capsys, name, kind, refused
):
    monkeypatch.setattr("nnunet_ext.prediction.cascade_predictor.has_bfloat16", lambda: True)
    stage = getattr(stages, name)
    stage.configuration_manager.configuration["patch_size"] = [6, 8, 2]
    n_channels = determine_num_input_channels(stage.plans_manager, stage.configuration_manager, DATASET)
    stage.network = torch.nn.Sequential(kind(n_channels, 4, 3, 2, padding=1))
    stage.list_of_parameters = [stage.network.state_dict()]
    for case in ("head_a", "head_b"):
        write_case(tmp_path / "in", case)
    assert (
        main(["predict", "-d", "501", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-device", "cpu"]) == 0
    )
    printed, content = capsys.readouterr().err, manifest(tmp_path)
    assert {record["precision"] for record in content["cases"].values()} == {"float32" if refused else "bfloat16"}
    assert [record["warnings"] for record in content["cases"].values()] == [[], []]
    said = [Message.from_json(message) for message in content["messages"]]
    assert content["warnings"] == in_english(said)
    assert [message.kind for message in said] == ["wrong_in_bfloat16"] * refused
    if refused:
        configuration = {"localizer": "3d_lowres", "segmenter": "3d_cascade_fullres"}[name]
        assert said[0].values == {"model": f"CascadeOARTrainer__CascadeOARPlans__{configuration}", "layer": "0"}
    assert printed.count("wrongly (torch issue 169688)") == refused
    assert run(strict=True, overwrite=True, full_precision=True).of_models == []
    assert len(run(strict=True, overwrite=True).written) == 2  # it is no warning of a case


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
    assert said_of(summary) == {"head_a": ["predicted from CT alone, without T1"]}
    records = manifest(tmp_path)["cases"]
    assert [records[c]["channels"] for c in ("head_a", "head_b")] == [["CT"], ["CT", "T1"]]
    np.testing.assert_array_equal(read(tmp_path / "out" / "head_a.nii.gz"), label_map())


def test_the_ct_may_not_be_missing_even_with_modality_dropout(stages, run, tmp_path):
    set_recipe(stages, modality_dropout=0.3)
    write_case(tmp_path / "in", "head_a")[0].unlink()
    assert "there is no file of CT, only head_a_0001.nii.gz" in run().failed["head_a"]


def test_any_channel_may_be_missing_if_the_dropout_spared_none(stages, run, tmp_path):
    set_recipe(stages, modality_dropout=0.5, dropout_spares="any")
    write_case(tmp_path / "in", "head_a")[0].unlink()
    write_case(tmp_path / "in", "head_b")[1].unlink()
    summary = run()
    assert summary.written == ["head_a", "head_b"]
    said = said_of(summary)
    assert said["head_a"][0] == "predicted from T1 alone, without CT"
    assert said["head_b"] == ["predicted from CT alone, without T1"]


def test_a_channel_that_one_stage_needs_may_not_be_missing(stages, run, tmp_path):
    set_recipe(stages, modality_dropout=0.5, dropout_spares="any")
    stages.localizer.configuration_manager.configuration["recipe"] = {"modality_dropout": 0.5}
    write_case(tmp_path / "in", "head_a")[0].unlink()
    assert "there is no file of CT, only head_a_0001.nii.gz" in run().failed["head_a"]


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_missing_channel_reaches_the_network_as_zeros(stages, tmp_path, lacking):
    set_recipe(stages, modality_dropout=0.3, dropout_spares="any")
    predictor = CascadePredictor(Path("T__P__3d_cascade_fullres"), device=torch.device("cpu"))
    seen = []
    inner = stages.segmenter.predict_logits_from_preprocessed_data
    stages.segmenter.predict_logits_from_preprocessed_data = lambda data: seen.append(data) or inner(data)
    files = write_case(tmp_path / "in", "head")
    channel = ["CT", "T1"][1 - lacking]
    predictor.predict_files({channel: files[1 - lacking]}, tmp_path / "head.nii.gz")
    assert seen[0][lacking].abs().max() == 0
    assert seen[0][1 - lacking].std() > 0


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
    assert names == ["dataset.json", "head_a.nii.gz", "head_b.nii.gz", "predictions.json", "records"]
    np.testing.assert_array_equal(read(tmp_path / "out" / "head_a.nii.gz"), label_map())
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == DATASET
    content = manifest(tmp_path)
    assert content["models"] == [
        "CascadeOARTrainer__CascadeOARPlans__3d_lowres",
        "CascadeOARTrainer__CascadeOARPlans__3d_cascade_fullres",
    ]
    assert content["channels"] == ["CT", "T1"]
    assert (content["use_mirroring"], content["register"]) == (False, False)
    assert content["versions"] == {p: version(p) for p in ("nnunet_ext", "nnunetv2", "torch")}
    assert re.fullmatch("[0-9a-f]{64}", content["model_sha256"])
    record = content["cases"]["head_a"]
    assert all(record.pop(seconds) >= 0 for seconds in ("prepare_s", "segment_s", "write_s"))
    assert 50 < record.pop("peak_memory_mb") < 50_000
    assert "thread" in record.pop("device")
    # Organs: 4, 14 and 23 voxels; with 3 mm on each side 6.6, 16.9 and 27.6.
    assert record.pop("box") == [[11, 17], [21, 37], [10, 37]]
    assert record == {
        "fallback_whole_volume": False,
        "regrown": False,
        "missing": [],
        "channels": ["CT", "T1"],
        "precision": "bfloat16" if has_bfloat16() else "float32",
        "crops": None,
        "postprocessed": {},
        "notes": [],
        "warnings": [],
        "messages": [],
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
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["dataset.json", "predictions.json", "records"]


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
    assert said_of(summary) == {"head_a": ["no voxel of Eye_L"]}
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


def test_a_case_is_read_in_any_format_whatever_that_of_the_training_images(run, tmp_path):
    for case in ("head_a", "head_b"):
        write_case(tmp_path / "in", case)
    for number, ending in enumerate((".nii", ".nrrd")):  # one case in two formats
        file = tmp_path / "in" / f"head_a_{number:04d}.nii.gz"
        sitk.WriteImage(sitk.ReadImage(str(file)), str(file.with_name(f"head_a_{number:04d}{ending}")))
        file.unlink()
    for file in list((tmp_path / "in").iterdir()):
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7" + bytes(200))
    summary = run()
    assert (summary.written, summary.failed, summary.warnings) == (["head_a", "head_b"], {}, {})
    np.testing.assert_array_equal(read(tmp_path / "out" / "head_a.nii.gz"), label_map())
    assert str(summary.files) == ("8 files: 4 used as channels, 0 as labels, 4 left over: 4 hidden or system files")
    assert manifest(tmp_path)["files"]["left_over"] == {"hidden or system files": 4}


def test_what_is_no_case_is_named_or_counted_and_notes_beside_files_stop_nothing(run, tmp_path, capsys):
    first = write_case(tmp_path / "in", "head_a")
    second = write_case(tmp_path / "in", "head_b")
    sitk.WriteImage(sitk.ReadImage(str(second[0])), str(tmp_path / "in" / "head_b_0000.nrrd"))
    (tmp_path / "in" / "head_c_0000.nii.gz").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in" / "ct.nii.gz").write_bytes(first[0].read_bytes())
    for name in ("dataset.json", "log/run.txt"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text("x")
    command = ["predict", "-d", "501", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert main(command) == 1
    said = capsys.readouterr()
    assert "case 'head_b': channel CT has 2 files, head_b_0000.nii.gz and head_b_0000.nrrd; keep one" in said.err
    assert "case 'head_c': head_c_0000.nii.gz is a broken link" in said.err
    assert "case 'ct.nii.gz': left out: not named <case>_0000.nii.gz" in said.err
    assert (
        "9 files: 2 used as channels, 0 as labels, 7 left over: 2 files beside the cases [dataset.json, log/run.txt], "
        "4 files of cases that failed, 1 images that are not named <case>_0000 [ct.nii.gz]" in said.out
    )


def test_names_with_accents_in_two_parts_are_one_case(run, tmp_path):
    for file, name in zip(write_case(tmp_path / "in", "x"), ("Jos\u00e9", "Jose\u0301"), strict=True):
        file.rename(file.with_name(f"{name}{file.name[1:]}"))
    assert run().written == ["Jos\u00e9"]


def test_what_is_left_over_of_folders_and_dicom_is_said(run, recorded, tmp_path, capsys):
    write_patient(tmp_path / "in", tmp_path / "files")
    (tmp_path / "in" / "Zhangsan.txt").write_text("x")
    (tmp_path / "in" / "0_pictures").mkdir()
    for number in range(250):
        (tmp_path / "in" / "0_pictures" / f"{number}.jpg").write_bytes(b"x")
    command = ["predict", "-d", "501", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--layout"]
    assert main([*command, "auto"]) == 0
    assert "as labels, 251 left over: 251 files that are not DICOM" in capsys.readouterr().out
    assert "Zhangsan" not in (tmp_path / "out" / "predictions.json").read_text()
    assert main([*command, "folders", "--overwrite"]) == 1
    assert "it holds DICOM, which --layout dicom reads" in capsys.readouterr().err
    with pytest.raises(ValueError, match="layout 'tree' is not one of auto, files, folders, dicom"):
        run(layout="tree")


# ------------------------------------------------------------------------------------------------ postprocessing


SEGMENTER = "CascadeOARTrainer__CascadeOARPlans__3d_cascade_fullres"
STRAY = np.s_[13:15, 31:33, 21:23]


def brings(tmp_path: Path, content: dict, file: str = "organ_postprocessing.json") -> None:
    path = tmp_path / "results" / "Dataset501_Test" / SEGMENTER / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def with_stray_piece(tmp_path: Path, *, ornt=None) -> np.ndarray:
    """A case whose left eye has a stray piece, and the label map without it."""
    write_case(tmp_path / "in", "head", {**ORGANS, 4: STRAY}, ornt=ornt)
    for file in (tmp_path / "in").iterdir():
        image = nibabel.load(file)
        array = np.asarray(image.dataobj)
        nibabel.save(nibabel.Nifti1Image(np.where(array == 4 * HU_PER_LABEL, HU_PER_LABEL, array), image.affine), file)
    return label_map()


LARGEST = {"organs": {"Eye_L": [{"step": "largest_component"}]}}
STOCK = {
    "postprocessing_fns": ["remove_all_but_largest_component_from_segmentation"],
    "postprocessing_kwargs": [{"labels_or_regions": 1}],
}


@pytest.mark.parametrize(
    ("content", "file"),
    [
        (LARGEST, "organ_postprocessing.json"),
        (STOCK, "crossval_results_folds_0_1_2_3_4/postprocessing.json"),
    ],
)
@pytest.mark.parametrize("ornt", [None, axcodes2ornt("ASL")], ids=["RAS", "ASL"])
def test_the_postprocessing_that_the_model_brings_is_applied_on_the_inputs_grid(run, tmp_path, content, file, ornt):
    expected = with_stray_piece(tmp_path, ornt=ornt)
    brings(tmp_path, content, file)
    run()
    np.testing.assert_array_equal(read(tmp_path / "out" / "head.nii.gz"), expected)
    check_file(manifest(tmp_path), "predictions.json")
    assert manifest(tmp_path)["postprocessing"]["file"] == file
    assert manifest(tmp_path)["cases"]["head"]["postprocessed"] == {
        "Eye_L": {"gained_voxels": 0, "lost_voxels": 8, "emptied": False}
    }
    with pytest.raises(ValueError, match="1 cases that were predicted with another postprocessing"):
        run(use_postprocessing=False)
    run(use_postprocessing=False, overwrite=True)
    assert (read(tmp_path / "out" / "head.nii.gz")[STRAY] == EYE_L).all()
    assert manifest(tmp_path)["postprocessing"] is None


def test_an_organ_that_postprocessing_empties_is_a_warning(run, tmp_path):
    write_case(tmp_path / "in", "head")
    brings(tmp_path, {"organs": {"OpticChiasm": [{"step": "small_pieces", "least_ml": 900}]}})
    summary = run()
    assert in_english(summary.warnings["head"]) == [
        "postprocessing removed all voxels of OpticChiasm: it took them for none; predict with --no-postprocessing to see "
        "them",
        "no voxel of OpticChiasm",
    ]
    assert manifest(tmp_path)["cases"]["head"]["missing"] == ["OpticChiasm"]


def test_a_postprocessing_that_asks_for_anything_else_stops_the_prediction(run, tmp_path):
    write_case(tmp_path / "in", "head")
    brings(tmp_path, {"organs": {"Eye_L": [{"step": "exec"}]}})
    with pytest.raises(ValueError, match=r'step "exec", which is none of .* --no-postprocessing'):
        run()
    assert run(use_postprocessing=False).written == ["head"]


# ------------------------------------------------------------------------------------------------ folders and DICOM

NAME, ID, BIRTH = "Zhangsan^Wei", "MRN0042817", "19610327"


@pytest.fixture
def recorded(stages) -> dict:
    """What the model's dataset.json says was done to the training images; nothing."""
    options = {"clean_ct": False, "n4": False, "register": False}
    for stage in (stages.localizer, stages.segmenter):
        stage.dataset_json = {**DATASET, "nnunet_ext": options}
    return options


def write_patient(folder: Path, images: Path, *, number: int = 1, frames: str = "11", skip: str = "") -> Path:
    """DICOM series of the case `head` in `images`, of a patient with a name."""
    write_case(images, "head")
    kinds = [("CT", "CT", {}), ("T1", "MR", {"EchoTime": 12, "RepetitionTime": 550})]
    for n, (channel, modality, times) in enumerate(kinds):
        if channel != skip:
            image = sitk.DICOMOrient(read_image(images / f"head_{n:04d}.nii.gz"), "PIR")
            study = Study(f"{ID}{number}", f"{NAME}{number}", study=modality, frame_of_reference=frames[n])
            headers = {"PatientBirthDate": BIRTH, **times}
            write_series(image, folder / f"{NAME}{number}" / channel, modality=modality, study=study, number=n + 2,
                         description=f"ax t1 {NAME}" if n else "Head", headers=headers)  # fmt: skip
    return folder


def test_files_folders_and_a_dicom_tree_give_the_same_mask_on_their_own_grids(run, recorded, tmp_path):
    write_patient(tmp_path / "dicom", tmp_path / "files")
    for n, channel in enumerate(("CT", "T1")):
        image = sitk.DICOMOrient(read_image(tmp_path / "files" / f"head_{n:04d}.nii.gz"), "ASL")
        (tmp_path / "folders" / "head").mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(tmp_path / "folders" / "head" / f"{channel}.nrrd"))
    for kind, case in (("files", "head"), ("folders", "head"), ("dicom", "case_001")):
        out = tmp_path / f"from_{kind}"
        summary = run(images=tmp_path / kind, out=out)
        assert (summary.written, summary.failed, summary.warnings) == ([case], {}, {})
        np.testing.assert_array_equal(read(out / f"{case}.nii.gz"), label_map(), err_msg=kind)
    (ct,) = (s for s in find_series(tmp_path / "dicom").images if s.channel == "CT")
    mask, image = sitk.ReadImage(str(out / "case_001.nii.gz")), read_series(ct)
    assert mask.GetSize() == image.GetSize()
    np.testing.assert_allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(mask.GetDirection(), image.GetDirection(), atol=1e-5)


def test_the_rtstruct_holds_the_masks_voxels_and_names_its_ct(run, recorded, tmp_path):
    write_patient(tmp_path / "in", tmp_path / "files")
    assert run(rtstruct=True).written == ["case_001"]
    (ct,) = (s for s in find_series(tmp_path / "in").images if s.channel == "CT")
    image, mask = read_series(ct), sitk.ReadImage(str(tmp_path / "out" / "case_001.nii.gz"))
    drawn = read_rtstruct(tmp_path / "out" / "case_001.dcm")
    assert drawn.series_uids == {ct.uid}
    assert [roi.name for roi in drawn.rois] == ["Eye_L", "Eye_R", "OpticChiasm"]
    for value, organ in enumerate(drawn.rois, start=1):
        np.testing.assert_array_equal(rasterise(organ.contours, image), sitk.GetArrayFromImage(mask) == value)
    (tmp_path / "out" / "case_001.dcm").unlink()
    assert run().skipped == ["case_001"]
    assert run(rtstruct=True).written == ["case_001"]  # half of what is wanted is not finished
    run(overwrite=True, rtstruct=True, smooth_contours=True)
    smooth = read_rtstruct(tmp_path / "out" / "case_001.dcm")
    for value, organ in enumerate(smooth.rois, start=1):
        np.testing.assert_array_equal(rasterise(organ.contours, image), sitk.GetArrayFromImage(mask) == value)
    run(overwrite=True)
    assert not (tmp_path / "out" / "case_001.dcm").exists()  # it would not belong to the new label map


def test_a_broken_rtstruct_does_not_stop_it_and_what_the_new_one_leaves_out_is_a_warning(run, recorded, tmp_path):
    write_patient(tmp_path / "in", tmp_path / "files")
    (ct,) = (s for s in find_series(tmp_path / "in").images if s.channel == "CT")
    write_contours({"Eye_L": []}, ct, tmp_path / "in" / "RS")
    (tmp_path / "in" / "RS").write_bytes((tmp_path / "in" / "RS").read_bytes()[:-300])
    for path in ct.paths:
        dataset = pydicom.dcmread(path)
        set_raw(dataset, "PatientSize", b"1.75 m")
        dataset.save_as(path)
    said = ["PatientSize of the images breaks the DICOM standard: left out of the RTSTRUCT"]
    summary = run(rtstruct=True)
    assert (summary.written, summary.failed, said_of(summary)) == (["case_001"], {}, {"case_001": said})
    manifest = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert manifest["cases"]["case_001"]["warnings"] == said
    check_file(manifest, "predictions.json")


def test_smooth_contours_without_an_rtstruct_are_refused(run, tmp_path):
    write_case(tmp_path / "in", "head")
    with pytest.raises(ValueError, match="--smooth-contours is about the contours of an RTSTRUCT"):
        run(smooth_contours=True)


def test_an_rtstruct_without_dicom_is_refused_before_anything_is_written(run, tmp_path):
    write_case(tmp_path / "in", "head")
    with pytest.raises(ValueError, match="give the DICOM series, or leave out --rtstruct"):
        run(rtstruct=True)
    assert not (tmp_path / "out").exists()


def test_a_dicom_case_is_a_number_and_only_the_key_says_whose_it_is(run, recorded, tmp_path, capsys):
    write_patient(tmp_path / "in", tmp_path / "files", number=2)
    write_patient(tmp_path / "in", tmp_path / "files", number=1, skip="T1")
    command = ["predict", "-d", "501", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--rtstruct"]
    assert main(command) == 1
    said = capsys.readouterr()
    assert "case 'case_001': channel T1 is missing" in said.err
    key = tmp_path / "out.key.csv"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert f"case_002,{ID}2" in key.read_text().replace('"', "")
    for word in (NAME.split("^")[0].lower(), ID.lower(), BIRTH):
        assert word not in (said.out + said.err).lower()
        for file in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
            if file.suffix != ".dcm":  # the planning system's file names its patient
                assert word.encode() not in file.read_bytes().lower()
    assert main(command) == 1
    assert "1 skipped" in capsys.readouterr().out
    key.unlink()
    assert main(command) == 1
    assert "key file out.key.csv is gone" in capsys.readouterr().err


def test_a_key_inside_the_results_is_refused(run, recorded, tmp_path):
    write_patient(tmp_path / "in", tmp_path / "files")
    with pytest.raises(ValueError, match="the key file would lie inside out"):
        run(key_file=tmp_path / "out" / "key.csv")


def test_an_old_rtstruct_of_other_organs_and_images_is_no_fault_of_a_case(run, recorded, tmp_path):
    write_patient(tmp_path / "in", tmp_path / "files")
    (ct,) = (series for series in find_series(tmp_path / "in").images if series.channel == "CT")
    drawn = read_series(ct) > 40
    write_rtstruct(drawn, ct, tmp_path / "in" / "old.dcm", labels={"Bladder": 1})
    max(ct.slices, key=lambda one: one.position_mm).path.unlink()
    assert run().written == ["case_001"]


@pytest.mark.parametrize(("asked", "in_training"), [(True, False), (False, True), (False, False)])
def test_registration_is_asked_for_or_was_part_of_the_training_data(
    run, recorded, tmp_path, monkeypatch, asked, in_training
):
    recorded["register"] = in_training
    seen = []
    inner = cascade_predictor.prepare_channels

    def stand_in(images, options, **more):
        seen.append((options, more["same_frame"]))
        return inner(images, type(options)(clean_ct=False, n4=False))

    monkeypatch.setattr(cascade_predictor, "prepare_channels", stand_in)
    write_patient(tmp_path / "in", tmp_path / "files", frames="12")
    summary = run(register=asked)
    ((options, same_frame),) = seen
    assert options.register is (asked or in_training)
    assert same_frame == [["CT"], ["T1"]]
    assert ("were not registered" in str(said_of(summary))) is not options.register
    assert "another frame of reference" in manifest(tmp_path)["cases"]["case_001"]["notes"][0]


def test_cases_get_thin_slices_as_the_training_images_did_or_are_refused_with_the_remedy(run, recorded, tmp_path):
    images = write_patient(tmp_path / "in", tmp_path / "files")
    learned = write_sharpening(tmp_path / "weights", ("T1",))
    recorded["learned_resampling"] = learned.sha256
    with pytest.raises(
        FileNotFoundError, match=r"Copy learned_resampling.npz and learned_resampling.json from the data set"
    ):
        run(images=images)
    assert not (tmp_path / "out").exists()
    assert (
        run(images=tmp_path / "files", out=tmp_path / "of_files").failed == {}
    )  # these have the training images' form
    write_sharpening(tmp_path / "raw" / "Dataset501_Test", ("T1",))
    assert run(images=images).written == ["case_001"]


def test_files_in_the_form_of_the_training_images_are_not_registered(run, tmp_path):
    write_case(tmp_path / "in", "head")
    with pytest.raises(ValueError, match="leave out --register"):
        run(register=True)


def test_a_series_file_without_dicom_is_refused(run, tmp_path):
    write_case(tmp_path / "in", "head")
    with pytest.raises(ValueError, match="a series file is for DICOM"):
        run(series_file=tmp_path / "series.toml")


def test_with_modality_dropout_a_dicom_case_may_lack_its_mr(stages, run, recorded, tmp_path):
    set_recipe(stages, modality_dropout=0.3)
    write_patient(tmp_path / "in", tmp_path / "files", skip="T1")
    assert said_of(run()) == {"case_001": ["predicted from CT alone, without T1"]}


# ------------------------------------------------------------------------------------------------ never silently wrong


@pytest.fixture
def ranges(stages) -> None:
    """Plans with the ranges of five training cases like the test's."""
    extents = roi.organ_extents(label_map(), spacing_mm=SPACING_MM)
    stages.segmenter.plans_manager.plans[PLANS_KEY] = fit_ranges([extents] * 5, LABELS, voxel_ml=0.006).to_plan()


SWAPPED = {**ORGANS, EYE_L: ORGANS[EYE_R], EYE_R: ORGANS[EYE_L]}


def test_organs_unlike_the_training_cases_are_warned_of(run, ranges, tmp_path):
    write_case(tmp_path / "in", "head_a")
    write_case(tmp_path / "in", "head_b", {**ORGANS, EYE_L: np.s_[12:16, 30:36, 12:15]})
    write_case(tmp_path / "in", "head_c", SWAPPED)
    summary = run()
    assert list(summary.warnings) == ["head_b", "head_c"]
    assert "Eye_L measures 0.452 ml, usual are" in str(summary.warnings["head_b"][0])
    assert "Eye_L lies to the right of Eye_R: the sides may be swapped" in said_of(summary)["head_c"]


def test_plans_without_ranges_are_said_once(run, tmp_path, caplog):
    for case in ("head_a", "head_b"):
        write_case(tmp_path / "in", case)
    assert run().warnings == {}
    assert [r.getMessage() for r in caplog.records if "ranges" in r.getMessage()] == [
        "the model's plans hold no ranges of its training labels: volumes and positions are not checked"
    ]


def test_strict_makes_a_failure_of_a_warning_and_leaves_no_mask(run, ranges, tmp_path):
    write_case(tmp_path / "in", "head_a", SWAPPED)
    write_case(tmp_path / "in", "head_b")
    mask = tmp_path / "out" / "head_a.nii.gz"
    assert run().written == ["head_a", "head_b"]
    assert mask.is_file()
    summary = run(strict=True)  # what an earlier run warned of is no longer good enough
    assert (summary.written, summary.skipped, list(summary.failed)) == ([], ["head_b"], ["head_a"])
    assert not mask.exists()
    record = manifest(tmp_path)["cases"]["head_a"]
    assert re.match("strict: .*Eye_L lies to the right of Eye_R", record["failed"])
    assert record["regrown"] is True  # what was found stays on record
    assert run().written == ["head_a"]


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--strict"], 1)])
def test_the_exit_code_tells(run, ranges, tmp_path, capsys, options, code):
    write_case(tmp_path / "in", "head", SWAPPED)
    command = ["predict", "-d", "501", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *options]
    assert main(command) == code
    assert "the sides may be swapped" in capsys.readouterr().err


def test_the_models_hash_is_that_of_its_weights_and_plans(predictor, stages):
    first = model_sha256(predictor)
    assert model_sha256(predictor) == first
    stages.localizer.list_of_parameters[0]["weight"][1] += 1e-6
    second = model_sha256(predictor)
    stages.segmenter.plans_manager.plans["plans_name"] = "other"
    assert len({first, second, model_sha256(predictor)}) == 3


def test_predictions_of_another_model_are_not_mixed_with_these(run, stages, tmp_path):
    write_case(tmp_path / "in", "head_a")
    run()
    first = manifest(tmp_path)["model_sha256"]
    stages.segmenter.list_of_parameters[0]["weight"] += 1
    write_case(tmp_path / "in", "head_b")
    with pytest.raises(ValueError, match="holds 1 cases that were predicted with another model_sha256"):
        run()
    assert run(overwrite=True).written == ["head_a", "head_b"]
    assert manifest(tmp_path)["model_sha256"] != first


# ------------------------------------------------------------------------------------------------ many cases


def test_a_model_is_named_by_its_folder_alone(run, tmp_path, monkeypatch):
    write_case(tmp_path / "in", "head")
    monkeypatch.delenv("nnUNet_results")
    model = tmp_path / "given" / "T__P__3d_cascade_fullres"
    with pytest.raises(FileNotFoundError, match=r"is no model: it has no plans\.json$"):
        run(dataset_id=None, model=model)
    model.mkdir(parents=True)
    (model / "plans.json").touch()
    with pytest.raises(FileNotFoundError, match="name one of the folders in it, T__P__3d_cascade_fullres"):
        run(dataset_id=None, model=model.parent)
    assert run(dataset_id=None, model=model).written == ["head"]
    for other in ({"dataset_id": 501}, {"trainer": "T"}, {"plans": "P"}, {"configuration": "3d_fullres"}):
        with pytest.raises(ValueError, match="says which model it is"):
            run(**{"dataset_id": None, "model": model, **other})
    with pytest.raises(ValueError, match="name a model with -d or -m"):
        run(dataset_id=None, use_starter=False)


def test_parts_share_the_cases_and_one_manifest(run, tmp_path):
    names = [f"head_{i}" for i in range(5)]
    for name in names:
        write_case(tmp_path / "in", name)
    summaries = {}
    threads = [
        threading.Thread(target=lambda k=k: summaries.update({k: run(num_parts=2, part_id=k)})) for k in range(2)
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert [summaries[k].written for k in range(2)] == [names[::2], names[1::2]]
    assert sorted(manifest(tmp_path)["cases"]) == names
    assert run().skipped == names
    with pytest.raises(ValueError, match="with num_parts 2 it is 0 to 1"):
        run(num_parts=2, part_id=2)


def test_parts_of_a_dicom_tree_take_their_cases_and_numbers_from_the_scan(run, recorded, tmp_path):
    for number in (1, 2, 3):
        write_patient(tmp_path / "in", tmp_path / "files", number=number, skip="T1" if number == 3 else "")
    scanned = run(scan=True)
    assert scanned.listed == ["case_001", "case_002"]
    assert list(scanned.failed) == ["case_003"]
    assert not (tmp_path / "out").exists()
    key, listed = (tmp_path / "out.key.csv").read_text(), tmp_path / ".out.parts"
    assert stat.S_IMODE(listed.stat().st_mode) == 0o700
    check_file(json.loads((listed / "list.json").read_text()), "list.json of a prediction")
    write_patient(tmp_path / "in", tmp_path / "files", number=0)  # came after the scan, and would come first
    parts = [run(num_parts=2, part_id=k, rtstruct=True) for k in (1, 0)]
    assert [part.written for part in parts] == [["case_002"], ["case_001"]]
    assert [list(part.failed) for part in parts] == [[], ["case_003"]]
    assert (tmp_path / "out.key.csv").read_text() == key
    assert pydicom.dcmread(tmp_path / "out" / "case_002.dcm").PatientID == f"{ID}2"
    assert manifest(tmp_path)["files"] == scanned.files.as_dict()
    with pytest.raises(ValueError, match=r"--layout: not as when the case list was written; .*scan again"):
        run(num_parts=2, part_id=0, layout="dicom")
    assert run().skipped == ["case_001", "case_002"]  # a run of its own looks again
    assert f"case_004,{ID}0" in (tmp_path / "out.key.csv").read_text().replace('"', "")
    assert not listed.exists()
    with pytest.raises(ValueError, match="--scan and -num_parts are steps of their own"):
        run(scan=True, num_parts=2, part_id=0)


def test_parts_of_a_scanned_folder_of_files_contour_the_same(run, tmp_path):
    for name in ("head_a", "head_b", "head_c"):
        write_case(tmp_path / "in", name)
    run(scan=True)
    write_case(tmp_path / "in", "head_aa")
    assert run(num_parts=2, part_id=1).written == ["head_b"]
    with pytest.raises(
        ValueError, match=r"2 of 3 cases are not contoured yet: head_a, head_c; run the parts that have"
    ):
        run(finish=True)
    assert run(num_parts=2, part_id=0).written == ["head_a", "head_c"]
    assert run(num_parts=9, part_id=8).written == []  # more parts than cases
    finished = run(finish=True)
    assert (finished.skipped, finished.written, finished.failed) == (["head_a", "head_b", "head_c"], [], {})
    assert run().written == ["head_aa"]
    with pytest.raises(FileNotFoundError, match="there is no case list"):  # the run of its own has taken it away
        run(finish=True)


def test_the_end_of_all_parts_names_the_cases_that_failed(run, tmp_path):
    for name in ("head_a", "head_b", "head_c", "head_d"):
        write_case(tmp_path / "in", name)
    scanned = run(scan=True)
    (tmp_path / "in" / "head_b_0001.nii.gz").write_bytes(b"no image")
    parts = [run(num_parts=3, part_id=k) for k in range(3)]
    finished = run(finish=True)
    assert (finished.skipped, list(finished.failed)) == (["head_a", "head_c", "head_d"], ["head_b"])
    assert finished.failed == parts[1].failed
    assert manifest(tmp_path)["files"] == finished.files.as_dict() != scanned.files.as_dict()
    with pytest.raises(ValueError, match="--finish contours nothing: give --overwrite to the parts"):
        run(finish=True, overwrite=True)


def test_a_run_of_its_own_and_a_run_in_parts_are_not_mixed(run, stages, tmp_path):
    for name in ("head_a", "head_b"):
        write_case(tmp_path / "in", name)
    inner, refused = stages.segmenter.predict_logits_from_preprocessed_data, []
    others: list[dict] = []

    def try_others(data):
        for options in others:
            with pytest.raises(FolderInUse, match=f"process {os.getpid()} on host"):
                run(**options)
            refused.append(options)
        return inner(data)

    stages.segmenter.predict_logits_from_preprocessed_data = try_others
    whole, first, second, third = {}, *({"num_parts": n, "part_id": k} for n, k in ((2, 0), (2, 1), (3, 2)))
    for mine, refusing in ((first, [whole, first, third]), (whole, [whole, second])):
        others[:] = refusing
        assert run(**mine, overwrite=True).failed == {}
    assert refused == [whole, first, third, *(whole, second) * 2]
    assert not [file.name for file in (tmp_path / "out").iterdir() if file.name.startswith(".nnunet_ext")]


def test_the_next_case_is_read_while_the_networks_run_and_no_more_than_that(run, tmp_path, monkeypatch):
    for i in range(5):
        write_case(tmp_path / "in", f"head_{i}")
    begun, alive, segmented = [threading.Event() for _ in range(5)], [], []
    read, prepare, begin = FilesCase.read_images, CascadePredictor.prepare, CascadePredictor.begin

    def watched_read(self):
        begun[int(self.name[5])].set()
        return read(self)

    def watched_prepare(self, images, **options):
        case = prepare(self, images, **options)
        alive.append(weakref.ref(case))
        return case

    def watched_begin(self, case):
        at = len(segmented)
        segmented.append(at)
        assert at == 4 or begun[at + 1].wait(30), "the next case was not read meanwhile"
        assert not any(event.is_set() for event in begun[at + 2 :]), "more than the next case was read"
        assert sum(ref() is not None for ref in alive) <= 2
        return begin(self, case)

    monkeypatch.setattr(FilesCase, "read_images", watched_read)
    monkeypatch.setattr(CascadePredictor, "prepare", watched_prepare)
    monkeypatch.setattr(CascadePredictor, "begin", watched_begin)
    assert run().failed == {}
    assert segmented == list(range(5))
    assert sum(ref() is not None for ref in alive) == 0


@pytest.fixture
def on_gpu(run, monkeypatch) -> Callable:
    """`run` on a machine with a GPU. The stand-ins for the networks compute on the CPU all the same."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return lambda **options: run(**{"device": "cuda", **options})


def test_on_a_gpu_a_case_is_exported_while_the_networks_see_the_next_and_no_more_than_that(
    on_gpu, stages, tmp_path, monkeypatch
):
    for i in range(5):
        write_case(tmp_path / "in", f"head_{i}")
    seen, exported, alive, where = [threading.Event() for _ in range(5)], [], [], set()
    networks, prepare = stages.segmenter.predict_logits_from_preprocessed_data, CascadePredictor.prepare
    labels = stages.segmenter.label_manager
    to_labels = labels.convert_logits_to_segmentation

    def watched_prepare(self, images, **options):
        case = prepare(self, images, **options)
        alive.append(weakref.ref(case))
        return case

    def watched_networks(data):
        at = sum(event.is_set() for event in seen)
        assert threading.current_thread() is threading.main_thread()
        assert len(exported) >= at - 1, "two cases were behind the networks"
        assert sum(ref() is not None for ref in alive) <= 3  # the one before, this one and the next
        seen[at].set()
        return networks(data)

    def watched_export(logits):
        at = len(exported)
        assert at == 4 or seen[at + 1].wait(30), "the networks waited for the export"
        where.add(threading.current_thread())
        exported.append(at)
        return to_labels(logits)

    monkeypatch.setattr(CascadePredictor, "prepare", watched_prepare)
    stages.segmenter.predict_logits_from_preprocessed_data = watched_networks
    labels.convert_logits_to_segmentation = watched_export
    assert on_gpu().failed == {}
    assert exported == list(range(5))
    assert threading.main_thread() not in where
    assert sum(ref() is not None for ref in alive) == 0
    for i in range(5):
        np.testing.assert_array_equal(read(tmp_path / "out" / f"head_{i}.nii.gz"), label_map())


LONGER, LONGEST = ({**ORGANS, CHIASM: np.s_[14:16, y:25, 20:27]} for y in (18, 11))


def test_on_a_gpu_masks_and_records_are_those_of_a_cpu_also_where_the_box_grows(on_gpu, run, stages, ranges, tmp_path):
    """The box of a case grows after the networks have seen the next case."""
    cases = {"head_a": ORGANS, "head_b": LONGEST, "head_c": SWAPPED, "head_d": LONGER, "head_e": LONGER}
    for case, organs in cases.items():
        write_case(tmp_path / "in", case, organs)
    broken = write_case(tmp_path / "in", "head_bb")[1]
    broken.write_bytes(broken.read_bytes()[:-200])
    found = {}
    for name, start in (("cpu", run), ("gpu", on_gpu)):
        stages.segmenter.shapes.clear()
        summary = start(out=tmp_path / name, full_precision=True)
        assert (summary.written, list(summary.failed)) == (sorted(cases), ["head_bb"])
        records = json.loads((tmp_path / name / "predictions.json").read_text())["cases"]
        varying = {"prepare_s", "segment_s", "write_s", "device", "peak_memory_mb", "precision"}
        found[name] = {case: {k: v for k, v in record.items() if k not in varying} for case, record in records.items()}
        assert [records[case]["regrown"] for case in cases] == [False, True, True, True, True]
    assert found["gpu"] == found["cpu"]
    for case in cases:
        one, other = ((tmp_path / name / f"{case}.nii.gz").read_bytes() for name in ("cpu", "gpu"))
        assert one == other


def test_on_a_gpu_an_export_that_fails_and_a_strict_case_stop_no_other(on_gpu, stages, ranges, tmp_path):
    for case, organs in {"head_a": ORGANS, "head_b": SWAPPED, "head_c": ORGANS}.items():
        write_case(tmp_path / "in", case, organs)
    labels = stages.segmenter.label_manager
    to_labels, calls = labels.convert_logits_to_segmentation, []

    def fails_at_first(logits):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("no logits")
        return to_labels(logits)

    labels.convert_logits_to_segmentation = fails_at_first
    summary = on_gpu(strict=True)
    assert summary.written == ["head_c"]
    assert list(summary.failed) == ["head_a", "head_b"]
    assert "no logits" in summary.failed["head_a"]
    assert summary.failed["head_b"].startswith("strict: ")
    assert [file.name for file in (tmp_path / "out").glob("*.nii.gz")] == ["head_c.nii.gz"]
    assert manifest(tmp_path)["cases"]["head_b"]["regrown"] is True


# ------------------------------------------------------------------------------------------------ a GPU that is too small

TOO_SMALL = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
MPS_TOO_SMALL = RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB, max allowed: 18.13 GB).")
LOC, SEG = "3d_lowres", "3d_cascade_fullres"
PATCHES, ON_CPU = "too_little_device_memory", "computed_on_the_cpu"


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


@pytest.fixture
def networks(stages, gpu, cascade_plans, monkeypatch) -> Callable:
    """Puts stages with real networks in the place of the stand-ins, with a fold for each scale, and returns them."""

    def put(scales: tuple[float, ...], device: str = "cuda") -> dict:
        plans = stages.segmenter.plans_manager.plans
        options = {"scales": scales, "hu_per_label": HU_PER_LABEL, "device": torch.device(device)}
        made = {name: organ_stage(gpu, plans, name, DATASET, **options) for name in (LOC, SEG)}
        monkeypatch.setattr(
            cascade_predictor, "load_stage", lambda folder, **_: made[Path(folder).name.rpartition("__")[2]]
        )
        return made

    return put


def errors(*, of: tuple[str, ...], since: int, until: float = np.inf, error: Exception = TOO_SMALL) -> Callable:
    """The forward passes of these stages fail on the device, from one number to another."""
    return lambda stage, number: error if stage in of and since <= number <= until else None


def kinds(record: dict) -> list[tuple[str, str]]:
    """Messages on a model, and its configuration."""
    said = [m for m in record["messages"] if "model" in m["values"]]
    return [(m["kind"], m["values"]["model"].rpartition("__")[2]) for m in said]


def networks_threads() -> set[threading.Thread]:
    """All threads but those of leases and progress bars, which come and go by the clock."""
    return {t for t in threading.enumerate() if t.name != "lease" and not isinstance(t, TMonitor)}


@pytest.mark.parametrize(
    ("scales", "fail", "said"),
    [
        ((1.0,), errors(of=(LOC,), since=1, until=1), [(PATCHES, LOC)]),
        ((1.0,), errors(of=(LOC,), since=1, until=2), [(ON_CPU, LOC)]),
        ((1.0,), errors(of=(SEG,), since=1, until=1), []),  # it is enough to take the localizer off the device
        ((1.0,), errors(of=(SEG,), since=1, until=2), [(PATCHES, SEG)]),
        ((1.0,), errors(of=(SEG,), since=2), [(ON_CPU, SEG)]),
        ((1.0,), errors(of=(LOC, SEG), since=1), [(ON_CPU, LOC), (ON_CPU, SEG)]),
        ((1.0,), errors(of=(LOC, SEG), since=1, error=MPS_TOO_SMALL), [(ON_CPU, LOC), (ON_CPU, SEG)]),
        ((1.0, 2.0), errors(of=(LOC,), since=1, until=1), []),  # it is enough to drop the weights of the other fold
    ],
)
@pytest.mark.parametrize("organs", [ORGANS, LONGEST])
def test_a_case_that_the_gpu_cannot_hold_is_written_and_says_so(
    on_gpu, networks, gpu, tmp_path, scales, fail, said, organs
):
    write_case(tmp_path / "in", "head_a", organs)
    networks(scales)
    threads, gpu.fail = networks_threads(), fail
    with gpu:
        summary = on_gpu()
    assert (summary.written, summary.failed) == (["head_a"], {})
    np.testing.assert_array_equal(read(tmp_path / "out" / "head_a.nii.gz"), label_map(organs))
    record = manifest(tmp_path)["cases"]["head_a"]
    assert kinds(record) == said
    assert record["precision"] == ("float32" if (ON_CPU, SEG) in said else "float16")
    assert networks_threads() <= threads
    for message in summary.warnings.get("head_a", []):
        if "device" in message.values:
            assert "end other programs that use cuda" in str(message)
            assert message.text("zh") != str(message)


def test_a_mac_whose_memory_is_full_computes_on_the_cpu(run, networks, gpu, tmp_path, monkeypatch):
    """MPS says so by a plain RuntimeError. nnU-Net keeps images and logits in main memory there from the beginning."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: None)
    write_case(tmp_path / "in", "head_a", LONGEST)
    networks((1.0,), device="mps")
    gpu.fail = errors(of=(SEG,), since=3, error=MPS_TOO_SMALL)
    with gpu:
        assert run(device="mps").failed == {}
    record = manifest(tmp_path)["cases"]["head_a"]
    assert kinds(record) == [(ON_CPU, SEG)]
    assert "the memory of mps was too small" in str(record["warnings"])
    assert gpu.forwards[LOC] > 0
    np.testing.assert_array_equal(read(tmp_path / "out" / "head_a.nii.gz"), label_map(LONGEST))


@pytest.mark.parametrize("since", ["in the second fold", "where the box has grown"])
def test_memory_that_is_full_later_in_a_case_costs_no_voxel(on_gpu, networks, gpu, tmp_path, since):
    """Passes of the segmenter until then are counted in a run that does not fail."""
    write_case(tmp_path / "in", "head_a", LONGEST)
    stage, after = networks((1.0, 2.0))[SEG], []
    inner = stage.predict_logits_from_preprocessed_data
    stage.predict_logits_from_preprocessed_data = lambda data: (inner(data), after.append(gpu.forwards[SEG]))[0]
    with gpu:
        on_gpu(out=tmp_path / "first")
    assert len(after) > 1  # the box grew
    gpu.forwards.clear()
    networks((1.0, 2.0))
    at = after[0] // 2 + 1 if since == "in the second fold" else after[0] + 1
    gpu.fail = errors(of=(SEG,), since=at)
    with gpu:
        assert on_gpu().failed == {}
    assert gpu.forwards[SEG] >= at
    assert (ON_CPU, SEG) in kinds(manifest(tmp_path)["cases"]["head_a"])
    first, later = (tmp_path / name / "head_a.nii.gz" for name in ("first", "out"))
    assert first.read_bytes() == later.read_bytes()


def test_the_second_of_two_cases_may_be_too_large_and_the_third_is_computed_on_the_gpu_again(
    on_gpu, networks, gpu, tmp_path
):
    for case in ("head_a", "head_b", "head_c"):
        write_case(tmp_path / "in", case)
    networks((1.0, 2.0))
    with gpu:
        on_gpu(out=tmp_path / "first")
    per_case = gpu.forwards[SEG] // 3
    networks((1.0, 2.0))
    gpu.forwards.clear()
    gpu.weights_copied.clear()
    gpu.fail = errors(of=(SEG,), since=per_case + 1, until=per_case + 3)
    with gpu:
        summary = on_gpu()
    assert summary.written == ["head_a", "head_b", "head_c"]
    assert {case: kinds(record) for case, record in manifest(tmp_path)["cases"].items()} == {
        "head_a": [],
        "head_b": [(ON_CPU, SEG)],
        "head_c": [],
    }
    assert gpu.forwards[SEG] == 2 * per_case + 3
    for case in ("head_a", "head_b", "head_c"):
        assert (tmp_path / "first" / f"{case}.nii.gz").read_bytes() == (
            tmp_path / "out" / f"{case}.nii.gz"
        ).read_bytes()


def test_another_error_of_the_networks_fails_the_case_and_is_not_tried_again(on_gpu, networks, gpu, tmp_path):
    for case in ("head_a", "head_b"):
        write_case(tmp_path / "in", case)
    networks((1.0,))
    gpu.fail = errors(of=(SEG,), since=1, until=1, error=RuntimeError("CUDA error: unspecified launch failure"))
    with gpu:
        summary = on_gpu()
    assert (summary.written, list(summary.failed)) == (["head_b"], ["head_a"])
    assert "unspecified launch failure" in summary.failed["head_a"]


@pytest.mark.parametrize(("scales", "first"), [((1.0,), 2), ((1.0, 2.0), 6)])
def test_weights_of_both_stages_are_copied_to_the_gpu_in_the_first_case_only(
    on_gpu, networks, gpu, tmp_path, scales, first
):
    """Two folds of two stages, and each stage's network."""
    for case in ("head_a", "head_b", "head_c"):
        write_case(tmp_path / "in", case, LONGER)
    networks(scales)
    copied = []
    gpu.fail = lambda stage, number: copied.append(sum(gpu.weights_copied))
    with gpu:
        on_gpu()
    assert sum(gpu.weights_copied) == first * 4 * 1001
    assert copied[len(copied) // 3] == copied[-1] == sum(gpu.weights_copied)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_whole_files_and_goes_on_later(run, stages, tmp_path, number, capsys):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    for case in ("head_a", "head_b", "head_c"):
        write_case(tmp_path / "in", case)
    inner, calls = stages.segmenter.predict_logits_from_preprocessed_data, []

    def interrupted(data):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return inner(data)

    stages.segmenter.predict_logits_from_preprocessed_data = interrupted
    command = ["predict", "-d", "501", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    try:
        assert main(command) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "interrupted" in capsys.readouterr().err
    names = sorted(f.name for f in (tmp_path / "out").iterdir())
    assert names == ["dataset.json", "head_a.nii.gz", "predictions.json", "records"]
    assert list(manifest(tmp_path)["cases"]) == ["head_a"]
    np.testing.assert_array_equal(read(tmp_path / "out" / "head_a.nii.gz"), label_map())
    assert main(command) == 0
    assert "2 written, 1 skipped" in capsys.readouterr().out


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
