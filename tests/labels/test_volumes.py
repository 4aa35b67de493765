"""Organs of impossible size are refused, of odd size reported; real and synthetic heads raise no alarm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.images.reading import read_image
from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.labels.volumes import check_organs
from nnunet_ext.messages import in_english

DATA = Path(__file__).parents[3] / "shared" / "data"
SHAPE, SPACING_MM = (60, 70, 80), (2.0, 1.5, 1.25)
LABELS = {organ: value for value, organ in enumerate(ORGANS, start=1)}
VOXEL_ML = 2.0 * 1.5 * 1.25 / 1000
#: Plausible volumes in mL and places in mm along `(Z, Y, X)`, from the middle of the volume.
ORGANS_ML = {"Eye": 7.0, "Lens": 0.2, "OpticNrv": 0.6, "OpticChiasm": 0.3}
PLACES_MM = {"Eye": (0, -33, 30), "Lens": (0, -47, 32), "OpticNrv": (0, -12, 20), "OpticChiasm": (0, 20, 0)}


def drawn(**volumes_ml: float) -> np.ndarray:
    """Label map of balls; `Eye_L=9.0` gives an organ another volume."""
    axes = [(np.arange(n) - n / 2) * mm for n, mm in zip(SHAPE, SPACING_MM, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    labels = np.zeros(SHAPE, np.uint8)
    for organ, value in LABELS.items():
        kind = organ.removesuffix("_L").removesuffix("_R")
        place = np.array(PLACES_MM[kind]) * (1, 1, -1 if organ.endswith("_R") else 1)
        n_voxels = round(volumes_ml.get(organ, ORGANS_ML[kind]) / VOXEL_ML)
        distance = np.where(labels == 0, ((grid - place) ** 2).sum(-1), np.inf).ravel()
        labels.ravel()[np.argsort(distance, kind="stable")[:n_voxels]] = value
    return labels


def check(label_map: np.ndarray, labels: dict[str, int] = LABELS, **options) -> list[str]:
    return in_english(check_organs(label_map, labels, spacing_mm=SPACING_MM, **options))


def test_plausible_organs_and_missing_ones_are_silent():
    labels = drawn()
    assert check(labels) == []
    labels[np.isin(labels, (1, 3))] = 0  # an eye that was removed
    assert check(labels) == []


@pytest.mark.parametrize(
    ("organ", "ml"), [("Lens_L", 9.0), ("Eye_L", 0.2), ("Lens_R", VOXEL_ML), ("OpticChiasm", 12.0), ("Eye_R", 65.0)]
)
def test_an_organ_of_impossible_volume_is_refused_by_name(organ: str, ml: float):
    with pytest.raises(
        ValueError, match=rf"^{organ} measures [\d.]+ ml, plausible are [\d.]+ to [\d.]+ ml: check names"
    ):
        check(drawn(**{organ: ml}))


def test_contours_in_centimetres_are_refused_in_one_line():
    small = {organ: max(VOXEL_ML, ORGANS_ML[organ.split("_")[0]] / 1000) for organ in ORGANS}
    with pytest.raises(ValueError, match=r"Eye_L measures .*; Eye_R measures .*: check names, label values and units"):
        check(drawn(**small))


@pytest.mark.parametrize(("organ", "ml"), [("Eye_L", 1.5), ("Eye_R", 14.0), ("Lens_L", 0.05), ("OpticNrv_R", 3.0)])
def test_an_odd_volume_is_one_line(organ: str, ml: float):
    """A shrunken eye, a very long one, a lens after surgery, a nerve drawn with a margin."""
    (line,) = check(drawn(**{organ: ml}))
    assert line.startswith(f"{organ} measures ")


def test_swapped_label_values_of_eyes_and_nerves_are_reported():
    eyes_and_nerves = {1: 5, 2: 6, 5: 1, 6: 2}
    labels = drawn()
    swapped = np.vectorize(lambda value: eyes_and_nerves.get(value, value), otypes=[np.uint8])(labels)
    (line,) = check(swapped)
    assert all(f"{eye} measures 0.6 ml, plausible are 3 to 12 ml" in line for eye in ("Eye_L", "Eye_R"))
    assert all(f"{nerve} measures" in line for nerve in ("OpticNrv_L", "OpticNrv_R"))


def test_a_mask_of_both_sides_and_a_stray_voxel_are_reported():
    labels = drawn()
    labels[labels == LABELS["Lens_R"]] = LABELS["Lens_L"]
    labels[55, 3, 3] = LABELS["OpticChiasm"]
    (line,) = check(labels)
    assert line.startswith("Lens_L is 7")
    assert "plausible are up to 25 mm; OpticChiasm is 7" in line


def test_an_inverted_mask_is_refused_and_a_brain_in_a_crop_is_not():
    ball = drawn(OpticChiasm=200.0) == LABELS["OpticChiasm"]
    for organ in ("Brain", "Cochlea_L", "Eye_L"):
        with pytest.raises(ValueError, match=rf"{organ} fills 8\d% of the image"):
            check((~ball).astype(np.uint8), labels={organ: 1})
    whole = np.ones(SHAPE, np.uint8)
    whole[0] = 0
    with pytest.raises(ValueError, match="Parotid fills 98% of the image"):
        check(whole, labels={"Parotid": 1})
    assert check(whole, labels={"External": 1}) == []
    head = np.zeros(SHAPE, np.uint8)
    head[:, 6:-6, 5:-5] = 1
    assert check(head, labels={"Brain": 1}) == []


def test_organs_at_the_border_are_named_and_may_be_small():
    labels = drawn()
    labels = labels[30:]  # through the middle of all
    (line,) = check(labels)
    assert line == f"at the border of the image, perhaps cut off: {', '.join(ORGANS)}"


def test_organs_in_air_are_refused_and_one_is_reported():
    labels = drawn()
    gas_in_the_eye = np.where(labels == 1, -990, 30)
    assert check(labels, ct_hu=gas_in_the_eye) == ["in air on the CT: Eye_L; check whether it lies where it was drawn"]
    ct_hu = np.where(np.isin(labels, (1, 3)), -990, 30)
    with pytest.raises(ValueError, match="in air on the CT: Eye_L, Lens_L"):
        check(labels, ct_hu=ct_hu)
    assert check(labels, ct_hu=np.full(SHAPE, 30)) == []


def test_other_names_of_an_organ_count_and_other_organs_do_not():
    labels = (drawn(Lens_L=9.0) == LABELS["Lens_L"]).astype(np.uint8)
    with pytest.raises(ValueError, match="left_lens measures"):
        check(labels, labels={"left_lens": 1})
    assert check(labels, labels={"Parotid_L": 1}) == []


def test_phantoms_raise_no_alarm(shared_phantom):
    phantom = shared_phantom(0, 2, size="tiny")
    labels, ct = (sitk.GetArrayFromImage(image) for image in (phantom.label, phantom.ct))
    assert check_organs(labels, LABELS, spacing_mm=phantom.ct.GetSpacing()[::-1], ct_hu=ct) == []


@pytest.mark.skipif(not DATA.is_dir(), reason="no real images beside the repository")
@pytest.mark.parametrize("number", [3, 10])
def test_real_heads_raise_no_alarm(number: int):
    image = read_image(DATA / "heads" / "label_maps" / f"head_{number:02d}.nii.gz")
    array = sitk.GetArrayFromImage(image)
    left = np.arange(array.shape[2]) < array.shape[2] // 2
    labels = np.zeros(array.shape, np.uint8)
    for organ, value, side in (("Eye_L", 506, left), ("Eye_R", 506, ~left), ("OpticNrv_L", 530, left),
                               ("OpticNrv_R", 530, ~left), ("OpticChiasm", 85, True)):  # fmt: skip
        labels[(array == value) & side] = LABELS[organ]
    assert check_organs(labels, LABELS, spacing_mm=image.GetSpacing()[::-1]) == []
