"""The whole path through the commands a user types, on tiny phantoms and schedules of a few iterations.

What a training of seconds can show: that every command runs, and that geometry, restart and reports are right. Whether
the recipe learns is what `make demo` shows.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from planned_heads import RIVALS

from nnunet_ext.end_to_end.learning.scoring import case_scores
from nnunet_ext.evaluation.evaluating import evaluate
from nnunet_ext.labels.organs import ORGANS

DATASET = "Dataset601_Tiny"
PLANS, TRAINER = "CascadeOARPlansSmall", "CascadeOARTrainer"
TEST_CASES = ("phantom_006", "phantom_007")
SIZE = "32x96x96"
CROPS = f"3d_organ_crops_{SIZE}"
MODEL = ["-tr", TRAINER, "-p", PLANS, "-device", "cpu"]
#: Oblique: 12 degrees about an axis that is none of the image's.
OBLIQUE = sitk.VersorTransform((0.3, -0.5, 0.81), np.deg2rad(12)).GetMatrix()


class Workspace:
    """The three nnU-Net folders of one run, and the commands run in it."""

    def __init__(self, folder: Path, forked: list[str]) -> None:
        self.folder, self.forked = folder, forked
        self.raw, self.preprocessed, self.results = (folder / n for n in ("raw", "preprocessed", "results"))
        self.environment = {
            **os.environ,
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.preprocessed),
            "nnUNet_results": str(self.results),
            "nnUNet_def_n_proc": "2",
            "nnUNet_n_proc_DA": "1",
            "nnUNet_compile": "f",
        }

    def command(self, *arguments: str) -> list[str]:
        """A process of its own, to be killed or interrupted."""
        return [str(Path(sys.executable).parent / arguments[0]), *arguments[1:]]

    def run(self, *arguments: str, ok: bool = True, **variables: str) -> str:
        environment = {**self.environment, **variables}
        done = subprocess.run(
            [*self.forked, *arguments], env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        output = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, f"{arguments} returned {done.returncode}\n{output[-4000:]}"
        return output

    def model(self, configuration: str) -> Path:
        return self.results / DATASET / f"{TRAINER}__{PLANS}__{configuration}"

    def plans(self) -> dict:
        return json.loads((self.preprocessed / DATASET / f"{PLANS}.json").read_text())


def reorient(case: Path, code: str) -> None:
    """Store every file of a case in another axis order."""
    for file in case.glob("*.nii.gz"):
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(file)), code), str(file))


def tilt(case: Path) -> None:
    """Turn the whole case in space: an oblique acquisition."""
    for file in case.glob("*.nii.gz"):
        image = sitk.ReadImage(str(file))
        direction = np.reshape(OBLIQUE, (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))
        image.SetDirection(direction.ravel())
        sitk.WriteImage(image, str(file))


@pytest.fixture(scope="module")
def space(tmp_path_factory, shared_phantom, forked) -> Workspace:
    """Phantoms in several orientations, converted, planned and preprocessed; schedules cut to a few iterations."""
    space = Workspace(tmp_path_factory.mktemp("end_to_end"), forked)
    phantoms = space.folder / "phantoms"
    shared_phantom.write(phantoms, n_cases=6, size="tiny")  # the command makes the two that are missing
    space.run("nnunet_ext", "phantom", str(phantoms), "--cases", "8", "--size", "tiny", "-np", "2")
    reorient(phantoms / "phantom_001", "PIR")
    tilt(phantoms / "phantom_002")
    tilt(phantoms / "phantom_006")
    reorient(phantoms / "phantom_007", "ASL")
    convert = ["nnunet_ext", "convert", str(phantoms), "-d", "601", "-n", "Tiny", "--test", *TEST_CASES, "-np", "2"]
    space.run(*convert)
    # Another plans file of the name lies there already: none of its configurations may survive.
    old = space.preprocessed / DATASET / f"{PLANS}.json"
    old.parent.mkdir(parents=True)
    old.write_text(json.dumps({"configurations": {"2d": {}, "3d_old": {"inherits_from": "2d"}}}))
    plan = ["nnUNetv2_plan_and_preprocess", "-d", "601", "-pl", "CascadeOARPlannerSmall", "-npfp", "2", "-np", "2"]
    space.run(*plan, "--verify_dataset_integrity")
    plans = space.plans()
    for configuration in plans["configurations"].values():
        configuration["training"].update(num_epochs=3, iterations_per_epoch=2, val_iterations_per_epoch=1)
        configuration["recipe"].update(modality_dropout=0.3)
    old.write_text(json.dumps(plans))
    return space


@pytest.fixture(scope="module")
def localizer(space) -> Path:
    """The localizer's fold 0, killed in the middle, continued and validated."""
    train = ["nnUNetv2_train", "601", "3d_lowres", "0", *MODEL, "--npz"]
    # A process group of its own: the data loaders of a killed training live on, and must die with it.
    process = subprocess.Popen(
        space.command(*train), env=space.environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    checkpoint = space.model("3d_lowres") / "fold_0" / "checkpoint_latest.pth"
    for _ in range(600):
        if checkpoint.is_file() or process.poll() is not None:
            break
        time.sleep(0.2)
    assert process.poll() is None, "the training ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    space.continued = space.run(*train, "--c")
    return space.model("3d_lowres")


@pytest.fixture(scope="module")
def segmenter(space, localizer) -> Path:
    space.trained = space.run("nnUNetv2_train", "601", "3d_cascade_fullres", "0", *MODEL, "--npz")
    return space.model("3d_cascade_fullres")


@pytest.fixture(scope="module")
def second_fold(space, segmenter) -> dict[str, str]:
    """Fold 1 in jobs, each training without its final validation, which is a job too. What they said."""
    localizer, cascade = (
        ["nnUNetv2_train", "601", stage, "1", *MODEL] for stage in ("3d_lowres", "3d_cascade_fullres")
    )
    alone = {"nnunet_ext_validation": "off"}
    said = {"localizer": space.run(*localizer, **alone)}
    said["refused"] = space.run(*cascade, ok=False, nnunet_ext_jitter="measured 0 1", **alone)
    said["segmenter"] = space.run(*cascade, nnunet_ext_jitter="planned", **alone)
    said["too early"] = space.run(*cascade, "--val", ok=False)
    said["localizer --val"] = space.run(*localizer, "--val", "--npz")
    said["segmenter --val"] = space.run(*cascade, "--val", "--npz")
    return said


def validated(space: Workspace, *folds: int) -> list[str]:
    splits = json.loads((space.preprocessed / DATASET / "splits_final.json").read_text())
    return sorted(case for fold in folds for case in splits[fold]["val"])


def predict_stage(space: Workspace, configuration: str, out: Path, *more: str) -> str:
    images = space.raw / DATASET / "imagesTs"
    return space.run(
        *("nnUNetv2_predict", "-d", "601", "-f", "0", "-c", configuration, "-i", str(images), "-o", str(out)),
        *(*MODEL, "-npp", "1", "-nps", "1", *more),
    )


@pytest.fixture(scope="module")
def located(space, segmenter) -> Path:
    """What nnU-Net's command predicts with the localizer."""
    predict_stage(space, "3d_lowres", space.folder / "located")
    return space.folder / "located"


@pytest.fixture(scope="module")
def contoured(space, segmenter) -> Path:
    """What nnU-Net's command predicts with the segmenter.

    A localizer of six iterations finds nothing or anything. The reference stands in for a trained one.
    """
    references = space.raw / DATASET / "labelsTs"
    predict_stage(space, "3d_cascade_fullres", space.folder / "contoured", "-prev_stage_predictions", str(references))
    return space.folder / "contoured"


def test_plans_hold_our_configurations_and_nothing_stale(space):
    plans = space.plans()
    crops = [
        f"3d_{kind}_{size}" for kind in ("cascade", "organ_crops") for size in ("32x128x128", "32x96x96", "16x64x64")
    ]
    study = ["3d_fullres_80x256x256", "3d_localizer_80x256x256", *crops]
    ours = ["3d_lowres", "3d_fullres", "3d_cascade_fullres"]
    assert set(plans["configurations"]) == {*ours, *study, *RIVALS}
    assert plans["configurations"]["3d_cascade_fullres"]["previous_stage"] == "3d_lowres"
    assert plans["configurations"]["3d_fullres"]["preprocessor_name"] == "CascadeOARPreprocessor"
    assert list(plans["plausibility"]["volume_ml"]) == list(ORGANS)


def test_killed_training_continues_from_its_last_epoch(space, localizer):
    assert (localizer / "fold_0" / "checkpoint_final.pth").is_file()
    assert "Epoch 0\n" not in space.continued.replace(" \n", "\n"), "the finished epoch was trained again"
    assert "Epoch 2" in space.continued


def test_localizer_leaves_out_of_fold_maps_for_the_segmenter(space, localizer):
    split = json.loads((space.preprocessed / DATASET / "splits_final.json").read_text())[0]
    maps = localizer / "predicted_next_stage" / "3d_cascade_fullres"
    assert sorted(f.stem for f in maps.glob("*.b2nd")) == sorted(split["val"])


def test_benchmark_measures_a_training_and_leaves_the_data_sets_folders_as_they_are(space, segmenter):
    def files() -> dict[Path, int]:
        return {f: f.stat().st_mtime_ns for top in (space.preprocessed, space.results) for f in top.rglob("*")}

    before, out = files(), space.folder / "benchmark"
    options = ["-c", "3d_cascade_fullres", "-device", "cpu", "--iterations", "2", "--no-stock", "-o", str(out)]
    output = space.run("nnunet_ext", "benchmark", "train", "-d", "601", "-p", PLANS, *options)
    assert files() == before
    (record,) = json.loads((out / "training.json").read_text())
    assert (record["configuration"], record["batch_size"], record["workers"]) == ("3d_cascade_fullres", 4, 1)
    assert record["first_step_s"] > 0
    assert record["ratio"] == pytest.approx(record["real_per_s"] / record["cached_per_s"])
    assert 0 < record["loader_cpu_s"] < 10
    assert 0 < record["network_cpu_s"] < 60
    assert (out / "training.md").read_text().strip() in output


def test_validation_is_end_to_end_and_says_what_the_box_held(space, segmenter):
    validation = segmenter / "fold_0" / "validation"
    record = json.loads((validation / "label_crop_pass_rate.json").read_text())
    split = json.loads((space.preprocessed / DATASET / "splits_final.json").read_text())[0]
    assert set(record["cases"]) == set(split["val"])
    assert "Label crop pass rate" in space.trained
    for case in split["val"]:
        mask = sitk.ReadImage(str(validation / f"{case}.nii.gz"))
        reference = sitk.ReadImage(str(space.raw / DATASET / "labelsTr" / f"{case}.nii.gz"))
        assert mask.GetSize() == reference.GetSize()


def test_val_repeats_the_validation(space, segmenter):
    shutil.rmtree(segmenter / "fold_0" / "validation")
    space.run("nnUNetv2_train", "601", "3d_cascade_fullres", "0", *MODEL, "--val", "--npz")
    assert (segmenter / "fold_0" / "validation" / "summary.json").is_file()
    assert (segmenter / "fold_0" / "validation" / "label_crop_pass_rate.json").is_file()


def test_segmenter_validation_without_localizer_maps_names_the_command(space, segmenter):
    maps = space.model("3d_lowres") / "predicted_next_stage"
    hidden = maps.with_name("hidden")
    maps.rename(hidden)
    try:
        output = space.run("nnUNetv2_train", "601", "3d_cascade_fullres", "0", *MODEL, "--val", ok=False)
    finally:
        hidden.rename(maps)
    assert f"nnUNetv2_train {DATASET} 3d_lowres 0 -tr {TRAINER} -p {PLANS}" in output


def test_trainings_and_validations_as_jobs_name_the_job_that_is_missing(space, second_fold):
    validate = f"nnUNetv2_train {DATASET} 3d_lowres 1 -tr {TRAINER} -p {PLANS} -device cpu --val"
    assert f"The final validation is left to: nnUNetv2_train {DATASET} 3d_lowres 1" in second_fold["localizer"]
    assert (
        f"of fold 1 there are none in {space.model('3d_lowres')}. First: {validate}. Or pass" in second_fold["refused"]
    )
    assert (
        f"The segmenter itself is trained. First: {validate}. Then repeat: nnUNetv2_train" in second_fold["too early"]
    )
    assert "Label crop pass rate" in second_fold["segmenter --val"]
    jitter = json.loads((space.model("3d_cascade_fullres") / "fold_1" / "box_jitter.json").read_text())
    assert (jitter["box_jitter"], jitter["asked"], jitter["folds"]) == ("planned", "measured", [])


def test_nnunets_cross_validation_commands_work_on_both_stages(space, second_fold):
    stages, model = ("3d_lowres", "3d_cascade_fullres"), ["-tr", TRAINER, "-p", PLANS, "-f", "0", "1"]
    for configuration in stages:
        space.run("nnUNetv2_accumulate_crossval_results", "601", "-c", configuration, *model)
        merged = space.model(configuration) / "crossval_results_folds_0_1"
        assert sorted(f.name.removesuffix(".nii.gz") for f in merged.glob("*.nii.gz")) == validated(space, 0, 1)
        assert "foreground_mean" in json.loads((merged / "summary.json").read_text())
    output = space.run("nnUNetv2_find_best_configuration", "601", "-c", *stages, *model, "-np", "1")
    found = json.loads((space.results / DATASET / "inference_information.json").read_text())
    assert len(found["all_results"]) == 3  # both, and their ensemble
    assert "Run inference like this" in output


def test_localizer_validation_measures_its_boxes_and_counts_its_misses(space, second_fold):
    for fold in (0, 1):
        report = json.loads(
            (space.model("3d_lowres") / f"fold_{fold}" / "validation" / "label_crop_pass_rate.json").read_text()
        )
        assert sorted(report["cases"]) == validated(space, fold)
        lost = [c for c, r in report["cases"].items() if r["fallback_whole_volume"]]
        assert set(lost) <= set(report["missed"])
        assert all((r["error_mm"] is None) == r["fallback_whole_volume"] for r in report["cases"].values())


@pytest.mark.long
def test_fold_all_says_what_its_validation_means_and_keeps_its_maps_apart(space, second_fold):
    maps = space.model("3d_lowres") / "predicted_next_stage" / "3d_cascade_fullres"
    before = {f.name: f.stat().st_mtime_ns for f in maps.iterdir()}
    located = space.run("nnUNetv2_train", "601", "3d_lowres", "all", *MODEL)
    assert "the validation cases are the training cases" in located
    assert {f.name: f.stat().st_mtime_ns for f in maps.iterdir()} == before
    contoured = space.run("nnUNetv2_train", "601", "3d_cascade_fullres", "all", *MODEL)
    assert "The boxes come from the localizer's fold all, which was trained on these cases" in contoured
    report = json.loads(
        (space.model("3d_cascade_fullres") / "fold_all" / "validation" / "label_crop_pass_rate.json").read_text()
    )
    assert sorted(report["cases"]) == [f"phantom_{i:03d}" for i in range(6)]


def test_a_case_of_a_ct_alone_is_contoured_after_training_with_modality_dropout(space, segmenter, tmp_path):
    (tmp_path / "in" / "alone").mkdir(parents=True)
    shutil.copy(space.folder / "phantoms" / TEST_CASES[0] / "CT.nii.gz", tmp_path / "in" / "alone")
    predict = ["nnunet_ext", "predict", "-d", "601", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-f", "0"]
    assert "predicted from CT alone, without T1, T2" in space.run(*predict, *MODEL)
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())["cases"]["alone"]
    assert record["channels"] == ["CT"]
    image, mask = (sitk.ReadImage(str(tmp_path / f)) for f in ("in/alone/CT.nii.gz", "out/alone.nii.gz"))
    assert mask.GetSize() == image.GetSize()


def test_stock_commands_predict_on_the_input_grid(space, located, contoured):
    for case in TEST_CASES:
        image = sitk.ReadImage(str(space.raw / DATASET / "imagesTs" / f"{case}_0000.nii.gz"))
        for mask_file in (located / f"{case}.nii.gz", contoured / f"{case}.nii.gz"):
            mask = sitk.ReadImage(str(mask_file))
            assert mask.GetSize() == image.GetSize()
            corner = [n - 1 for n in image.GetSize()]
            there, back = image.TransformIndexToPhysicalPoint(corner), mask.TransformIndexToPhysicalPoint(corner)
            np.testing.assert_allclose(back, there, atol=1e-3)
            np.testing.assert_allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-3)


def test_one_process_predicts_what_the_two_commands_predict(space, located, tmp_path):
    predict_stage(space, "3d_cascade_fullres", tmp_path / "two", "-prev_stage_predictions", str(located))
    images = space.raw / DATASET / "imagesTs"
    one = ["nnunet_ext", "predict", "-d", "601", "-i", str(images), "-o", str(tmp_path / "one"), "-f", "0", *MODEL]
    space.run(*one, "--full-precision")
    records = json.loads((tmp_path / "one" / "predictions.json").read_text())["cases"]
    for case in TEST_CASES:
        a, b = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / n / f"{case}.nii.gz"))).astype(int)
            for n in ("one", "two")
        )
        # The two commands can't enlarge a box. After six iterations labels are all but equal, and a tie that sums in another
        # order break otherwise moves a box by a voxel. A wrong grid, side or box changes far more than that.
        if not records[case]["regrown"]:
            assert np.mean(a != b) < 0.03


@pytest.fixture(scope="module")
def crops(space, localizer) -> str:
    """What the training of a segmenter with one crop per organ prints. One word of the plan makes `3d_lowres` locate."""
    plans = space.plans()
    plans["configurations"][CROPS]["previous_stage"] = "3d_lowres"
    (space.preprocessed / DATASET / f"{PLANS}.json").write_text(json.dumps(plans))
    return space.run("nnUNetv2_train", "601", CROPS, "0", *MODEL)


def test_a_segmenter_of_crops_is_validated_end_to_end_and_says_what_each_crop_held(space, crops):
    validation = space.model(CROPS) / "fold_0" / "validation"
    report = json.loads((validation / "label_crop_pass_rate.json").read_text())
    assert sorted(report["cases"]) == validated(space, 0)
    assert list(report["organs"]) == list(ORGANS)
    for organ, rate in report["organs"].items():
        assert f"Label crop pass rate of {organ} in {SIZE}: {100 * rate:.2f} % (mean over 2 cases)" in crops
    for case, record in report["cases"].items():
        assert set(record["organ_pass_rates"]) == set(map(str, range(1, len(ORGANS) + 1)))
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(validation / f"{case}.nii.gz")))
        assert not np.isin(mask, record["without_crop"]).any()


def test_crops_are_predicted_on_the_input_grid_and_an_organ_the_localizer_misses_is_named(space, crops, tmp_path):
    """The references stand in for the label maps of a trained localizer. One organ of a case is taken out."""
    plan = space.plans()["configurations"]
    size_mm = np.multiply(plan[CROPS]["architecture"]["arch_kwargs"]["crop_size"], plan["3d_fullres"]["spacing"])
    (tmp_path / "located").mkdir()
    references = {}
    for case in TEST_CASES:
        reference = sitk.ReadImage(str(space.raw / DATASET / "labelsTs" / f"{case}.nii.gz"))
        references[case] = reference if case != TEST_CASES[0] else reference * sitk.Cast(reference != 1, sitk.sitkUInt8)
        sitk.WriteImage(references[case], str(tmp_path / "located" / f"{case}.nii.gz"))
    output = predict_stage(space, CROPS, tmp_path / "out", "-prev_stage_predictions", str(tmp_path / "located"))
    assert output.count("the localizer did not find") == 1
    assert (
        f"{TEST_CASES[0]}.nii.gz: the localizer did not find {next(iter(ORGANS))}: no crop, so not segmented" in output
    )
    for case, reference in references.items():
        mask = sitk.ReadImage(str(tmp_path / "out" / f"{case}.nii.gz"))
        assert mask.GetSize() == reference.GetSize()
        np.testing.assert_allclose(mask.GetOrigin(), reference.GetOrigin(), atol=1e-3)
        np.testing.assert_allclose(mask.GetDirection(), reference.GetDirection(), atol=1e-4)
        spacing_mm = np.array(mask.GetSpacing()[::-1])
        predicted, located = (sitk.GetArrayFromImage(i) for i in (mask, reference))
        for value in np.unique(predicted)[1:]:
            voxels, organ = (np.argwhere(a == value) for a in (predicted, located))
            assert len(organ), "an organ without a crop was segmented"
            middle = (organ.min(0) + organ.max(0)) / 2
            reach_mm = np.abs(voxels - middle).max(0) * spacing_mm
            # A crop that would leave the head is moved inside, by half its size at most.
            assert (reach_mm <= size_mm + spacing_mm).all()


@pytest.mark.long
def test_one_process_predicts_crops_as_the_two_commands_do(space, crops, located, tmp_path):
    predict_stage(space, CROPS, tmp_path / "two", "-prev_stage_predictions", str(located))
    images = space.raw / DATASET / "imagesTs"
    one = ["nnunet_ext", "predict", "-d", "601", "-c", CROPS, "-i", str(images), "-o", str(tmp_path / "one"), "-f", "0"]
    space.run(*one, *MODEL, "--full-precision")
    content = json.loads((tmp_path / "one" / "predictions.json").read_text())
    assert [name.rpartition("__")[2] for name in content["models"]] == ["3d_lowres", CROPS]
    for case in TEST_CASES:
        a, b = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / n / f"{case}.nii.gz"))).astype(int)
            for n in ("one", "two")
        )
        assert np.mean(a != b) < 1e-4
        lost = [organ for organ in ORGANS if organ not in content["cases"][case]["crops"]]
        said = f"the localizer did not find {', '.join(lost)}: no crop, so not segmented"
        assert (said in content["cases"][case]["warnings"]) == bool(lost)


def test_folders_of_raw_channels_are_contoured_on_their_own_ct_grid_also_when_interrupted(space, segmenter, tmp_path):
    for case in TEST_CASES:
        shutil.copytree(space.folder / "phantoms" / case, tmp_path / "in" / case)
    arguments = [
        "nnunet_ext",
        "predict",
        "-d",
        "601",
        "-i",
        str(tmp_path / "in"),
        "-o",
        str(tmp_path / "out"),
        "-f",
        "0",
    ]
    process = subprocess.Popen(
        space.command(*arguments, *MODEL),
        env=space.environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    masks = [tmp_path / "out" / f"{case}.nii.gz" for case in TEST_CASES]
    while not masks[0].is_file() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    whole = [mask.name for mask in masks if mask.exists()]  # the second too, if it was being written
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [
        "dataset.json",
        *whole,
        "predictions.json",
        "records",
    ]
    assert f"{len(masks) - len(whole)} written, {len(whole)} skipped" in space.run(*arguments, *MODEL)
    for case in TEST_CASES:
        ct = sitk.ReadImage(str(tmp_path / "in" / case / "CT.nii.gz"))
        mask = sitk.ReadImage(str(tmp_path / "out" / f"{case}.nii.gz"))
        assert mask.GetSize() == ct.GetSize()
        np.testing.assert_allclose(mask.GetOrigin(), ct.GetOrigin(), atol=1e-3)
        np.testing.assert_allclose(mask.GetDirection(), ct.GetDirection(), atol=1e-4)


def test_ground_truth_survives_the_segmenters_preprocessing_and_export(space):
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(space.plans())
    configuration = plans.get_configuration("3d_cascade_fullres")
    dataset_json = json.loads((space.preprocessed / DATASET / "dataset.json").read_text())
    preprocessor = configuration.preprocessor_class(verbose=False)
    reader = plans.image_reader_writer_class()
    for split, labels in (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")):
        for reference in sorted((space.raw / DATASET / labels).glob("*.nii.gz")):
            case = reference.name.removesuffix(".nii.gz")
            images = [str(space.raw / DATASET / split / f"{case}_{c:04d}.nii.gz") for c in range(3)]
            _, seg, properties = preprocessor.run_case(images, str(reference), plans, configuration, dataset_json)
            logits = np.stack([seg[0] == v for v in range(len(ORGANS) + 1)]).astype(np.float32)
            back = convert_predicted_logits_to_segmentation_with_correct_shape(
                logits, plans, configuration, plans.get_label_manager(dataset_json), properties, num_threads_torch=1
            )
            wanted = reader.read_seg(str(reference))[0][0]
            inside = np.zeros(wanted.shape, dtype=bool)
            box = [properties["bbox_used_for_cropping"][i] for i in plans.transpose_backward]
            inside[tuple(slice(*b) for b in box)] = True
            assert inside[wanted > 0].mean() >= 0.999, f"{case}: organs outside the box"
            for value, organ in enumerate(ORGANS, start=1):
                if (wanted == value).any():
                    both = np.count_nonzero((wanted == value) & (back == value))
                    dsc = 200 * both / (np.count_nonzero(wanted == value) + np.count_nonzero(back == value))
                    assert dsc >= 96, f"{case} {organ}: {dsc:.1f} %"


def test_evaluate_scores_the_folder_nnunet_wrote(space, contoured, tmp_path):
    references = space.raw / DATASET / "labelsTs"
    output = space.run("nnunet_ext", "evaluate", str(contoured), str(references), "-o", str(tmp_path / "scores"))
    assert "OpticChiasm" in output
    assert {f.name for f in (tmp_path / "scores").iterdir()} >= {"evaluation.csv", "evaluation.json", "evaluation.md"}


def test_the_record_of_a_study_holds_every_case_and_organ(space, contoured, tmp_path):
    """What the comparison of systems does after a prediction."""
    labels = {organ: value for value, organ in enumerate(ORGANS, start=1)}
    summary = evaluate(contoured, space.raw / DATASET / "labelsTs", tmp_path / "scores", labels=labels)
    scores = case_scores(summary)
    assert set(scores) == set(TEST_CASES)
    for case in scores.values():
        assert tuple(case) == ORGANS
        assert all(set(row) == {"dsc_percent", "hd95_mm", "flag"} for row in case.values())
