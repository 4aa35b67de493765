"""One case through the predictor's steps, with networks that read the organs off the CT's values."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tiny_trainings import give_crops

from nnunet_ext import CascadePredictor
from nnunet_ext.cascade import roi
from nnunet_ext.cascade.roi_fitting import fit_roi
from nnunet_ext.cases.preparing import ChannelOptions
from nnunet_ext.prediction import cascade_predictor

SHAPE = (29, 37, 41)  # z, y, x; as the reader orders them, RAS
SPACING_MM = (2.3, 1.9, 1.7)
FORWARD = (2, 0, 1)
EYE_L, EYE_R, CHIASM = 1, 2, 3
ORGANS = {EYE_L: np.s_[12:17, 22:28, 10:16], EYE_R: np.s_[12:17, 22:28, 26:32], CHIASM: np.s_[13:16, 15:19, 18:24]}
DATASET = {
    "channel_names": {"0": "CT", "1": "T1"},
    "labels": {"background": 0, "Eye_L": EYE_L, "Eye_R": EYE_R, "OpticChiasm": CHIASM},
    "file_ending": ".nii.gz",
}
HU_PER_LABEL = 50.0


def label_map() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    for value, where in ORGANS.items():
        labels[where] = value
    return labels


def images(orientation: str = "PIR") -> dict[str, sitk.Image]:
    """CT and T1 of a head in air, oblique; in the CT, label `v` has `50 v` HU."""
    index = np.indices(SHAPE)
    centre, radii = np.reshape([14, 18, 20], (3, 1, 1, 1)), np.reshape([9, 13, 14], (3, 1, 1, 1))
    head = (((index - centre) / radii) ** 2).sum(0) <= 1
    labels = label_map()
    t1 = (300 + index.sum(0)) * head  # with one value it would be refused as a mask
    arrays = {"CT": np.where(labels > 0, HU_PER_LABEL * labels, np.where(head, 0, -1000)), "T1": t1}
    made = {}
    for name, array in arrays.items():
        image = sitk.GetImageFromArray(array.astype(np.int16))
        image.SetSpacing(SPACING_MM[::-1])
        turn = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.15)
        to_ras = np.reshape(turn.GetMatrix(), (3, 3)) @ np.diag([-1, -1, 1])
        image.SetDirection(to_ras.ravel())
        image.SetOrigin((30.0, -12.0, 7.0))
        made[name] = sitk.DICOMOrient(image, orientation)
    return made


class ReadsOrgansOffTheCT:
    """Stands in for nnU-Net's predictor: the logits of a label fall off with the distance from its HU."""

    def __init__(self, plans: PlansManager, configuration: str) -> None:
        self.plans_manager, self.dataset_json = plans, DATASET
        self.configuration_manager = plans.get_configuration(configuration)
        self.label_manager = plans.get_label_manager(DATASET)
        self.logits: list[torch.Tensor] = []
        self.network, self.list_of_parameters = torch.nn.Identity(), [{}]

    def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
        labels = (data[0] * 40 + 20) / HU_PER_LABEL  # the plan's CT normalisation
        self.logits.append(torch.stack([-(labels - v).abs() for v in range(4)]))
        return self.logits[-1]


@pytest.fixture
def stages(cascade_plans, monkeypatch) -> SimpleNamespace:
    spacing = [SPACING_MM[i] for i in FORWARD]
    extents = roi.organ_extents(label_map().transpose(FORWARD), spacing_mm=spacing)
    rule = fit_roi({"case": extents}, margin_mm=8.0, jitter_mm=0.0).rule
    plans = PlansManager(
        cascade_plans(
            spacing_mm=spacing,
            localizer_spacing_mm=[3.4, 3.1, 2.9],
            transpose_forward=FORWARD,
            roi=rule.to_plan(),
            channels=("CT", "T1"),
        )
    )
    made = SimpleNamespace(localizer=ReadsOrgansOffTheCT(plans, "3d_lowres"))
    made.segmenter = ReadsOrgansOffTheCT(plans, "3d_cascade_fullres")
    monkeypatch.setattr(
        cascade_predictor,
        "load_stage",
        lambda folder, **_: made.localizer if str(folder).endswith("3d_lowres") else made.segmenter,
    )
    return made


@pytest.fixture
def predictor(stages) -> CascadePredictor:
    return CascadePredictor(Path("T__P__3d_cascade_fullres"), device=torch.device("cpu"), full_precision=True)


def in_ras(mask: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.DICOMOrient(mask, "RAS"))


def test_images_become_a_mask_on_the_grid_of_the_ct(predictor):
    given = images()
    before = {name: sitk.GetArrayFromImage(image) for name, image in given.items()}
    mask, result = predictor.predict_images(given)
    np.testing.assert_array_equal(in_ras(mask), label_map())
    for geometry in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(mask, geometry)() == getattr(given["CT"], geometry)()
    assert (result.channels, result.missing, result.warnings) == (["CT", "T1"], [], [])
    for name, image in given.items():
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), before[name])


def test_the_steps_one_by_one_write_what_the_whole_writes(predictor, tmp_path):
    prepared = predictor.prepare(images("LPI"))
    prediction = predictor.segment(prepared)
    predictor.write(prediction, prepared, tmp_path / "new" / "head.nii.gz")
    mask = sitk.ReadImage(str(tmp_path / "new" / "head.nii.gz"))
    np.testing.assert_array_equal(in_ras(mask), label_map())
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["head.nii.gz"]
    np.testing.assert_array_equal(predictor.segment(prepared).label_map, prediction.label_map)  # nothing was changed
    about = {
        "box",
        "crops",
        "postprocessed",
        "fallback_whole_volume",
        "regrown",
        "missing",
        "channels",
        "precision",
        "warnings",
        "messages",
    }
    assert set(prediction.record()) == about


def test_the_box_is_that_of_the_localizers_whole_export(predictor, stages):
    """What the two stock commands do: export the localizer's logits on the whole grid, then find the box on it."""
    prepared = predictor.prepare(images())
    result = predictor.segment(prepared)
    stage = stages.localizer
    exported = convert_predicted_logits_to_segmentation_with_correct_shape(
        stage.logits[0],
        stage.plans_manager,
        stage.configuration_manager,
        stage.label_manager,
        prepared.properties,
        num_threads_torch=1,
    )
    assert set(np.unique(exported)) == {0, EYE_L, EYE_R, CHIASM}
    _, _, properties = predictor.preprocessor.run_case_npy(
        np.stack([sitk.GetArrayFromImage(sitk.DICOMOrient(i, "RAS")) for i in images().values()]).astype(np.float32),
        exported[None],
        {"spacing": list(SPACING_MM)},
        stages.segmenter.plans_manager,
        stages.segmenter.configuration_manager,
        DATASET,
    )
    backward = [FORWARD.index(i) for i in range(3)]
    assert result.box == tuple(tuple(properties["bbox_used_for_cropping"][i]) for i in backward)


def with_crops(stages, monkeypatch, *, localizer_sees: tuple[int, ...]) -> dict[str, list]:
    """Make the segmenter one with one crop per organ; what it is given."""
    plans = stages.segmenter.plans_manager.plans
    give_crops(plans["configurations"], (8, 8, 8))
    stages.segmenter.configuration_manager = PlansManager(plans).get_configuration("3d_cascade_fullres")
    given: dict[str, list] = {"segmenter": [], "localizer": []}
    segment = stages.segmenter.predict_logits_from_preprocessed_data
    locate = stages.localizer.predict_logits_from_preprocessed_data

    def segmenter(data: torch.Tensor) -> torch.Tensor:
        given["segmenter"].append(data)
        return segment(data)

    def localizer(data: torch.Tensor) -> torch.Tensor:
        found = locate(data).argmax(0)
        found[~torch.isin(found, torch.tensor(localizer_sees))] = 0
        return torch.nn.functional.one_hot(found, 4).movedim(-1, 0).float()

    monkeypatch.setattr(stages.segmenter, "predict_logits_from_preprocessed_data", segmenter)
    monkeypatch.setattr(stages.localizer, "predict_logits_from_preprocessed_data", localizer)
    return given


def test_a_segmenter_of_crops_gets_the_label_map_that_places_them_and_they_are_recorded(stages, monkeypatch):
    given = with_crops(stages, monkeypatch, localizer_sees=(CHIASM,))
    made = CascadePredictor(Path("T__P__3d_cascade_fullres"), device=torch.device("cpu"), full_precision=True)
    mask, prediction = made.predict_images(images())
    (data,) = given["segmenter"]  # a box of crops does not grow
    assert data.shape[0] == 2 + 3
    assert data[2:].amax((1, 2, 3)).tolist() == [0.0, 0.0, 1.0]
    assert list(prediction.crops) == ["OpticChiasm"]
    crop = np.array(prediction.crops["OpticChiasm"])
    middles = [(where.start + where.stop) / 2 for where in ORGANS[CHIASM]]
    np.testing.assert_allclose(crop.mean(1), middles, atol=1)
    np.testing.assert_allclose(crop[:, 1] - crop[:, 0], 8, atol=1)
    (warning,) = [w for w in prediction.warnings if w.kind == "organs_without_crop"]
    assert str(warning) == "the localizer did not find Eye_L, Eye_R: no crop, so not segmented"
    assert mask.GetSize() == images()["CT"].GetSize()


def test_a_localizer_that_is_none_is_refused_by_the_prediction(stages):
    stages.segmenter.configuration_manager.configuration["previous_stage"] = "3d_cascade_fullres"
    with pytest.raises(ValueError, match=r"plans\.json: previous_stage is .*which has a previous stage itself"):
        CascadePredictor(Path("T__P__3d_cascade_fullres"), device=torch.device("cpu"))


def test_images_on_different_grids_are_refused_unless_they_are_brought_together(predictor):
    given = images()
    given["T1"].SetOrigin([mm + 1.0 for mm in given["T1"].GetOrigin()])
    with pytest.raises(ValueError, match=r"T1 and CT lie on different grids: .* apart\)\. Convert the case"):
        predictor.prepare(given)
    prepared = predictor.prepare(given, options=ChannelOptions(clean_ct=False, n4=False))
    np.testing.assert_array_equal(predictor.segment(prepared).label_map, label_map())


def test_a_channel_that_is_not_there_is_named(predictor):
    with pytest.raises(ValueError, match=r"trained on CT, T1; there is no file of T1, only CT"):
        predictor.predict_images({"CT": images()["CT"]})


def test_a_file_ending_that_is_none_is_refused(stages):
    stages.segmenter.dataset_json = {**DATASET, "file_ending": "/../x.nii.gz"}
    with pytest.raises(ValueError, match=r"file_ending in dataset\.json is '/\.\./x\.nii\.gz'"):
        CascadePredictor(Path("T__P__3d_cascade_fullres"), device=torch.device("cpu"))


@pytest.mark.parametrize("options", [None, ChannelOptions(clean_ct=False, n4=False)])
def test_a_blank_channel_is_refused_although_the_model_does_without_it(predictor, options):
    given = images()
    given["T1"] = given["T1"] * 0
    predictor.optional = ["T1"]
    with pytest.raises(ValueError, match=r"T1 holds one value \(0\); export it again, or leave its file out"):
        predictor.predict_images(given, options=options)


def test_a_blank_array_and_a_copy_are_refused(predictor):
    ct, t1 = (sitk.GetArrayFromImage(image).astype(np.float32) for image in images().values())
    with pytest.raises(ValueError, match=r"T1 holds one value \(0\)"):
        predictor.predict_array(np.stack([ct, 0 * ct]), {"spacing": SPACING_MM})
    with pytest.raises(ValueError, match="CT and T1 are the same image"):
        predictor.predict_array(np.stack([t1, t1]), {"spacing": SPACING_MM})
