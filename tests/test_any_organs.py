"""Other organs, no CT, no left/right pairs, not a head: from case folders to scores, through the commands a user types.

Cochleae (both sides one label) and a pituitary in an ellipsoid, on T1 and T2, in an oblique volume whose coarsest axis is
left-right. The cochleae lie 40 mm apart, too far for the reference study's smallest crop, which therefore leaves them out.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typed_commands import TypedCommands

DATASET, PLANS = "Dataset602_Ear", "CascadeOARPlansSmall"
CROP = "3d_cascade_16x64x64"
MODEL = ["-tr", "CascadeOARTrainerReference", "-p", PLANS, "-device", "cpu"]
SIZE, SPACING_MM = (36, 44, 40), (2.0, 1.4, 1.5)  # x, y, z
OBLIQUE = sitk.Euler3DTransform((0, 0, 0), 0.12, -0.08, 0.10).GetMatrix()
COCHLEA, PITUITARY = 1, 2


def write_case(folder: Path, seed: int, *, code: str) -> None:
    """`T1.nii.gz`, `T2.nii.gz` and `label.nii.gz` of one case, stored in the axis order `code`."""
    rng = np.random.default_rng(seed)
    centred = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(SIZE, SPACING_MM, strict=True)]
    z, y, x = np.meshgrid(*centred[::-1], indexing="ij")
    x, y, z = (axis - shift for axis, shift in zip((x, y, z), rng.uniform(-1.5, 1.5, 3), strict=True))
    body = (x / 30) ** 2 + (y / 25) ** 2 + (z / 25) ** 2 <= 1
    label = np.zeros(body.shape, np.uint8)
    for side in (-17, 17):
        label[(x - side) ** 2 + (y - 4) ** 2 + z**2 <= 3.2**2] = COCHLEA
    label[x**2 + (y + 6) ** 2 + (z - 3) ** 2 <= 4.0**2] = PITUITARY
    contrasts = {"T1": (400, 300, 700), "T2": (300, 900, 500)}  # body, cochlea, pituitary
    images = {
        m: np.where(body, np.choose(label, values), 8) + rng.normal(0, 5, body.shape) for m, values in contrasts.items()
    }
    folder.mkdir(parents=True)
    for name, array in {**images, "label": label}.items():
        image = sitk.GetImageFromArray(array if name == "label" else array.astype(np.float32))
        image.SetSpacing(SPACING_MM)
        image.SetOrigin((-30.0, 12.0, 5.0))
        image.SetDirection(OBLIQUE)
        sitk.WriteImage(sitk.DICOMOrient(image, code), str(folder / f"{name}.nii.gz"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, forked):
    """Runs a command in a folder of its own and returns what it printed; `run.folder` is the folder."""
    return TypedCommands(tmp_path_factory.mktemp("any_organs"), forked)


def test_a_data_set_of_other_organs_plans_trains_predicts_and_is_scored(run):
    for i in range(6):
        write_case(run.folder / "ears" / f"ear_{i}", i, code=("LPS", "PIR", "RAS")[i % 3])
    (run.folder / "labels.toml").write_text('[labels]\nCochlea = ["cochleae"]\nPituitary = ["Hypophysis"]\n')
    run(
        *(
            "nnunet_ext",
            "convert",
            "ears",
            "-d",
            "602",
            "-n",
            "Ear",
            "--modalities",
            "T1",
            "T2",
            "--labels",
            "labels.toml",
        ),
        *("--test", "ear_5", "--no-n4", "--no-preview", "-np", "1"),
    )
    planned = run(
        "nnUNetv2_plan_and_preprocess", "-d", "602", "-pl", "CascadeOARPlannerSmall", "-npfp", "1", "-np", "1"
    )
    assert f"{CROP}: Cochlea is left out" in planned
    preprocessed = run.folder / "preprocessed" / DATASET
    # The default -c preprocesses each grid once; every configuration finds its data there.
    data = {f"{PLANS}_{c}" for c in ("3d_lowres", "3d_fullres")}
    assert {f.name for f in preprocessed.iterdir() if f.is_dir()} == {*data, "gt_segmentations"}
    plans = json.loads((preprocessed / f"{PLANS}.json").read_text())
    assert {c["data_identifier"] for c in plans["configurations"].values() if "data_identifier" in c} == data
    assert plans["configurations"][CROP]["roi"]["left_out"] == [COCHLEA]
    assert plans["configurations"]["3d_cascade_fullres"]["roi"]["left_out"] == []
    assert plans["left_right_axis"] == 0  # the coarsest axis comes first
    for configuration in plans["configurations"].values():
        configuration["training"].update(num_epochs=1, iterations_per_epoch=2, val_iterations_per_epoch=1)
    (preprocessed / f"{PLANS}.json").write_text(json.dumps(plans))

    run("nnUNetv2_train", "602", "3d_lowres", "0", *MODEL)
    trained = run("nnUNetv2_train", "602", CROP, "0", *MODEL)
    assert "not scored: Cochlea" in trained
    validation = (
        run.folder / "results" / DATASET / f"CascadeOARTrainerReference__{PLANS}__{CROP}" / "fold_0" / "validation"
    )
    assert set(json.loads((validation / "summary.json").read_text())["mean"]) == {str(PITUITARY)}

    predict = ["nnunet_ext", "predict", "-d", "602", "-c", CROP, "-f", "0", *MODEL, "-i", f"raw/{DATASET}/imagesTs"]
    run(*predict, "-o", "contours")
    mask = sitk.ReadImage(str(run.folder / "contours" / "ear_5.nii.gz"))
    reference = sitk.ReadImage(str(run.folder / "raw" / DATASET / "labelsTs" / "ear_5.nii.gz"))
    assert mask.GetSize() == reference.GetSize()
    np.testing.assert_allclose(mask.GetDirection(), reference.GetDirection(), atol=1e-4)
    assert set(np.unique(sitk.GetArrayFromImage(mask))) <= {0, PITUITARY}
    table = run("nnunet_ext", "evaluate", "contours", f"raw/{DATASET}/labelsTs", "-o", "scores", "-np", "1")
    assert "| Cochlea | - | - | - | - | - | - | 1.25 | 0 |" in table
    assert "Not segmented by this model (no score, not counted): Cochlea" in table
