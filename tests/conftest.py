"""What several tests need: a plans file of the cascade, small enough to run anywhere, and multi-frame DICOM files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pydicom
import pytest
from command_server import serving
from shared_phantoms import PhantomStore

TESTS = Path(__file__).parent
N_LABELS = 4  # background and three organs


#: Folders and files of tests that make phantoms, register, convert, train or build a wheel: `make check` leaves them out.
SLOW = (
    "atlas/test_contouring.py",
    "faults", "dataset_conversion", "cases/test_dicom_case.py", "cases/test_dicom_cases.py", "cases/test_folder_case.py",
    "cases/test_key_file.py", "cases/test_organ_masks.py", "cases/test_series_choice.py", "cases/test_series_rules.py",
    "cases/test_structures.py", "trainers", "plans", "cleaning/test_body.py", "test_end_to_end.py",
    "test_any_organs.py", "evaluation/test_one_case.py", "test_guides.py", "labels/test_volumes.py",
    "test_packaging.py", "phantom/test_making.py", "phantom/test_one_case.py",
    "phantom/test_torso.py", "phantom/from_maps/test_ct.py", "phantom/from_maps/test_making.py",
    "phantom/from_maps/test_one_case.py", "phantom/from_maps/test_real_maps.py", "prediction/test_predicting.py",
    "prediction/test_shipped_starter.py", "prediction/test_starter.py", "prediction/test_without_ct.py",
    "cleaning/test_ct_body.py", "end_to_end/workflow/test_job_arrays.py", "end_to_end/workflow/test_running.py",
    "end_to_end/learning/test_trainers.py", "end_to_end/test_prediction_benchmark.py",
    "end_to_end/test_conversion_benchmark.py",
    "registration/test_between_people.py",
    "registration/test_registering.py", "reporting/test_experiments.py", "reporting/test_figures.py",
    "reporting/test_page.py", "reporting/test_plots.py", "reporting/test_reporting.py",
    "superresolution/test_from_dataset.py",
)  # fmt: skip
#: Of these, the longest come first, so that several test processes end together.
LONGEST = (
    "test_end_to_end.py", "test_guides.py", "test_structures.py", "test_registering.py", "test_body.py",
    "test_cascade_oar_planner.py", "test_making.py", "test_convert.py", "test_any_organs.py", "test_reporting.py",
    "test_predicting.py", "test_cascade_oar_trainer.py", "test_without_ct.py", "test_ct_body.py", "test_contouring.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(TESTS / place) for place in SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def shared_phantom(tmp_path_factory: pytest.TempPathFactory) -> PhantomStore:
    """`shared_phantom(0, 1, size="tiny")` is a phantom that no other test process makes again."""
    root = tmp_path_factory.getbasetemp()
    return PhantomStore((root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "phantoms_made")


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The words that, put before a command, spare it importing nnU-Net (`forked_commands.py`)."""
    with serving(tmp_path_factory.mktemp("commands")) as words:
        yield words


def architecture(*, localizer: bool = False, features: Sequence[int] = (4, 8, 8)) -> dict:
    n = len(features)
    norm = "batchnorm.BatchNorm3d" if localizer else "instancenorm.InstanceNorm3d"
    return {
        "network_class_name": "nnunet_ext.CascadeUNet",
        "arch_kwargs": {
            "n_stages": n,
            "features_per_stage": list(features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * n,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (n - 1),
            "n_blocks_per_stage": [1] * n,
            "residual_blocks": not localizer,
            "downsampling": "max_pooling" if localizer else "strided_convolution",
            "n_conv_per_stage_decoder": [1] * (n - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.{norm}",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _cascade_plans(
    *,
    spacing_mm: Sequence[float] = (2.0, 2.0, 2.0),
    localizer_spacing_mm: Sequence[float] | None = None,
    transpose_forward: Sequence[int] = (0, 1, 2),
    roi: dict | None = None,
    patch_size: Sequence[int] = (16, 16, 16),
    channels: Sequence[str] = ("CT", "T1", "T2"),
    reader: str = "NibabelIOWithReorient",
) -> dict:
    forward = list(transpose_forward)

    def resampling(order: int) -> dict:
        return {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None}

    statistics = {"mean": 20.0, "median": 20.0, "std": 40.0, "min": -100.0, "max": 200.0}
    statistics.update({"percentile_00_5": -100.0, "percentile_99_5": 200.0})
    fullres = {
        "data_identifier": "CascadeOARPlans_3d_fullres",
        "preprocessor_name": "CascadeOARPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch_size),
        "median_image_size_in_voxels": [20, 20, 20],
        "spacing": list(spacing_mm),
        "normalization_schemes": ["CTNormalization" if c == "CT" else "ZScoreNormalization" for c in channels],
        "use_mask_for_norm": [False] * len(channels),
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_label_map",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling(3),
        "resampling_fn_seg_kwargs": {"force_separate_z": None},
        "resampling_fn_probabilities_kwargs": resampling(1),
        "architecture": architecture(),
        "batch_dice": True,
        "deep_supervision": True,
        "training": {"num_epochs": 10, "iterations_per_epoch": 4, "val_iterations_per_epoch": 1},
    }
    lowres = {
        **fullres,
        "data_identifier": "CascadeOARPlans_3d_lowres",
        "spacing": list(localizer_spacing_mm or spacing_mm),
        "architecture": architecture(localizer=True),
        "next_stage": "3d_cascade_fullres",
    }
    segmenter = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres", "roi": roi}
    return {
        "dataset_name": "Dataset501_Test",
        "plans_name": "CascadeOARPlans",
        "original_median_spacing_after_transp": list(spacing_mm),
        "original_median_shape_after_transp": [20, 20, 20],
        "image_reader_writer": reader,
        "transpose_forward": forward,
        "transpose_backward": [forward.index(i) for i in range(3)],
        "left_right_axis": forward.index(2),
        "configurations": {"3d_lowres": lowres, "3d_fullres": fullres, "3d_cascade_fullres": segmenter},
        "experiment_planner_used": "CascadeOARPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(c): statistics for c in range(len(channels))},
    }


@pytest.fixture(scope="session")
def cascade_plans() -> Callable[..., dict]:
    """Makes the content of a plans file such as `CascadeOARPlanner` writes, with networks of a few features."""
    return _cascade_plans


def _to_enhanced(
    files: Sequence[Path], *, slopes: Sequence[float] | None = None, change: Callable | None = None, te: float = 95
) -> Path:
    classic = [pydicom.dcmread(path) for path in files]
    for path in files:
        path.unlink()
    first = classic[0]
    whole = pydicom.Dataset()
    whole.update(first)
    whole.file_meta = first.file_meta
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = first.SOPClassUID + ".1"
    whole.NumberOfFrames = len(classic)
    whole.PixelData = b"".join(one.PixelData for one in classic[::-1])
    shared, measures, orientation = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, first.SliceThickness
    orientation.ImageOrientationPatient = first.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    if first.Modality == "MR":
        echo, timing = pydicom.Dataset(), pydicom.Dataset()
        echo.EffectiveEchoTime, timing.RepetitionTime = te, 4200
        shared.MREchoSequence, shared.MRTimingAndRelatedParametersSequence = [echo], [timing]
    whole.SharedFunctionalGroupsSequence = [shared]
    whole.PerFrameFunctionalGroupsSequence = []
    for k, one in reversed(list(enumerate(classic))):
        groups, position, values = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        position.ImagePositionPatient = one.ImagePositionPatient
        values.RescaleIntercept, values.RescaleSlope = one.RescaleIntercept, 1 if slopes is None else slopes[k]
        groups.PlanePositionSequence, groups.PixelValueTransformationSequence = [position], [values]
        whole.PerFrameFunctionalGroupsSequence.append(groups)
    moved = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
             "RescaleIntercept")  # fmt: skip
    for keyword in moved:
        delattr(whole, keyword)
    if change is not None:
        change(whole)
    path = files[0].with_name("enhanced")
    whole.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="session")
def to_enhanced() -> Callable[..., Path]:
    """Puts the files of a classic CT or MR series into one enhanced object, last slice first, in their place.

    `slopes` are the rescale slopes of the slices, `change` edits the dataset before it is written.
    """
    return _to_enhanced
