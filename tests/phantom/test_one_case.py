"""Images of a phantom: anatomy, contrast, and findings."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.labels.organs import ORGANS

LABEL = {name: k for k, name in enumerate(ORGANS, 1)}
VOLUME_ML = {"Eye": (5.5, 9.0), "Lens": (0.14, 0.26), "OpticNrv": (0.28, 0.65), "OpticChiasm": (0.19, 0.42)}
NEIGHBOURS = np.ones((3, 3, 3), bool)


def arrays(case, *names):
    return [sitk.GetArrayFromImage(case[name]) for name in names]


def test_seven_organs_have_adult_volumes(cases):
    for case in cases.values():
        (label,) = arrays(case, "label")
        voxel_ml = np.prod(case["label"].GetSpacing()) / 1000
        for name, k in LABEL.items():
            low, high = VOLUME_ML[name.rsplit("_", 1)[0]]
            volume_ml = (label == k).sum() * voxel_ml
            assert low < volume_ml < high, (name, volume_ml)
            assert abs(volume_ml - case["record"]["organs_ml"][name]) <= voxel_ml
        assert label.max() == len(ORGANS)


def test_every_organ_is_one_piece(cases):
    for case in cases.values():
        (label,) = arrays(case, "label")
        assert [ndimage.label(label == k, NEIGHBOURS)[1] for k in LABEL.values()] == [1] * 7


def test_left_organs_lie_at_larger_lps_x(cases):
    for case in cases.values():
        (label,) = arrays(case, "label")
        x_mm = {}
        for name, k in LABEL.items():
            z, y, x = np.argwhere(label == k).mean(axis=0)
            x_mm[name] = case["label"].TransformContinuousIndexToPhysicalPoint((x, y, z))[0]
        for organ in ("Eye", "Lens", "OpticNrv"):
            assert x_mm[f"{organ}_L"] > x_mm["OpticChiasm"] > x_mm[f"{organ}_R"]


def test_lens_is_enclosed_by_its_eye(cases):
    for case in cases.values():
        (label,) = arrays(case, "label")
        for side in "LR":
            lens, eye = label == LABEL[f"Lens_{side}"], label == LABEL[f"Eye_{side}"]
            rim = ndimage.binary_dilation(lens) & ~lens
            assert eye[rim].mean() > 0.9


def test_nerve_reaches_from_eye_to_chiasm(cases):
    for case in cases.values():
        (label,) = arrays(case, "label")
        for side in "LR":
            around = ndimage.binary_dilation(label == LABEL[f"OpticNrv_{side}"], NEIGHBOURS)
            assert LABEL[f"Eye_{side}"] in label[around]
            assert LABEL["OpticChiasm"] in label[around]
        assert all(45 <= length <= 50 for length in case["record"]["nerve_lengths_mm"])


def test_chiasm_shows_on_t2_and_hardly_on_ct(cases):
    for case in cases.values():
        ct, t1, t2, label = arrays(case, "CT", "T1", "T2", "label")
        chiasm = label == LABEL["OpticChiasm"]
        around = ndimage.binary_dilation(chiasm, NEIGHBOURS, iterations=2) & (label == 0)
        csf = around & (t1 < np.percentile(t1[around], 30))  # CSF is dark on T1
        vitreous = ndimage.binary_erosion(label == LABEL["Eye_R"], NEIGHBOURS)  # homogeneous: shows the noise
        vitreous &= ~ndimage.binary_dilation(label == LABEL["Lens_R"], NEIGHBOURS)

        def contrast_to_noise(image, chiasm=chiasm, csf=csf, vitreous=vitreous):
            noise = image[vitreous].std() + 1e-6
            return abs(float(np.median(image[chiasm])) - float(np.median(image[csf]))) / noise

        assert contrast_to_noise(ct) < 2.5
        assert contrast_to_noise(t2) > 2 * contrast_to_noise(ct)


def test_tissues_have_their_hounsfield_numbers(cases):
    for case in cases.values():
        ct, label = arrays(case, "CT", "label")
        vitreous = ndimage.binary_erosion(label == LABEL["Eye_R"], NEIGHBOURS)
        vitreous &= ~ndimage.binary_dilation(label == LABEL["Lens_R"], NEIGHBOURS)
        assert 0 < ct[vitreous].mean() < 30
        assert ct[label == LABEL["Lens_R"]].mean() > ct[vitreous].mean() + 20
        assert np.median(ct[:, :2]) == pytest.approx(-1000, abs=15)
        assert (ct > 700).mean() > 0.005


def test_couch_and_mask_are_in_ct_only(cases):
    for case in cases.values():
        ct, t1 = arrays(case, "CT", "T1")
        tissue = t1 > 0.12 * np.percentile(t1, 99)
        head = np.stack([ndimage.binary_fill_holes(plane) for plane in tissue])
        away = ~ndimage.binary_dilation(head, iterations=2)
        rows = np.flatnonzero(head.any(axis=(0, 2)))
        assert (ct[:, rows[-1] + 1 :][away[:, rows[-1] + 1 :]] > -750).sum() > 100  # couch
        near = ndimage.binary_dilation(head, iterations=2) & ~ndimage.binary_dilation(head)
        front = near[:, : (rows[0] + rows[-1]) // 2]
        assert (ct[:, : front.shape[1]][front] > -850).sum() > 100  # mask
        assert np.percentile(t1[away], 99.9) < 0.15 * np.percentile(t1, 99)


def test_other_seed_gives_another_case(cases, troubled):
    assert troubled.ct.GetSpacing() != cases["phantom_000"]["CT"].GetSpacing()


def test_missing_eye_leaves_out_eye_and_lens_but_keeps_the_nerve(troubled):
    label = sitk.GetArrayFromImage(troubled.label)
    assert set(np.unique(label)) == {0} | set(LABEL.values()) - {LABEL["Eye_L"], LABEL["Lens_L"]}
    assert troubled.record["organs_ml"]["Eye_L"] == 0
    assert sitk.GetArrayFromImage(troubled.ct).max() > 2500  # the clip
