"""A torso: exact labels, no crown, no mirror symmetry, and files as those of a head."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from reference_tables import check_file
from scipy import ndimage

from nnunet_ext.cleaning.body import body_mask_array
from nnunet_ext.cleaning.ct_body import find_ct_body
from nnunet_ext.cleaning.head import HeadPlace
from nnunet_ext.phantom.case_files import is_complete
from nnunet_ext.phantom.making import make_phantoms
from nnunet_ext.phantom.torso import TORSO_ORGANS, TorsoCase, make_torso


@pytest.fixture(scope="module")
def torso() -> TorsoCase:
    return make_torso(0, 0, size="tiny")


def test_labels_are_single_pieces_of_the_recorded_volumes(torso):
    label = sitk.GetArrayFromImage(torso.label)
    voxel_ml = np.prod(torso.label.GetSpacing()) / 1000
    assert torso.organs == TORSO_ORGANS
    for value, organ in enumerate(TORSO_ORGANS, start=1):
        assert ndimage.label(label == value, structure=np.ones((3, 3, 3)))[1] == 1
        assert np.count_nonzero(label == value) * voxel_ml == pytest.approx(torso.record["organs_ml"][organ], rel=0.1)


def test_images_end_inside_the_body_and_halves_differ(torso):
    ct = sitk.GetArrayFromImage(torso.images["CT"])
    body = body_mask_array(ct, spacing_mm=torso.label.GetSpacing()[::-1], is_ct=True)
    assert body[0].any()
    assert body[-1].any()
    place = HeadPlace.of(body, torso.label.GetSpacing()[::-1])
    assert place is not None
    assert not place.has_crown
    label = sitk.GetArrayFromImage(torso.label) > 0
    first, end = place.body[2]
    mirrored = label[:, :, first:end][:, :, ::-1]
    assert np.count_nonzero(mirrored & label[:, :, first:end]) < 0.1 * np.count_nonzero(label)


def test_organs_differ_from_what_lies_around_them_in_the_mr(torso):
    label, t2 = (sitk.GetArrayFromImage(image) for image in (torso.label, torso.images["T2"]))
    for value in (1, 2, 3):
        around = ndimage.binary_dilation(label > 0, iterations=3) & (label == 0)
        assert np.median(t2[label == value]) > 1.5 * np.median(t2[around])


def test_cleaning_takes_the_couch_and_no_organ(torso):
    ct, label = (sitk.GetArrayFromImage(image) for image in (torso.images["CT"], torso.label))
    found = find_ct_body(ct, spacing_mm=torso.label.GetSpacing()[::-1])
    assert found.kept[label > 0].all()
    below = np.flatnonzero(found.body.any(axis=(0, 2)))[-1] + 3
    assert (ct[:, below:] > -400).any()  # the couch
    assert not found.kept[:, below:].any()


def test_the_transform_brings_a_t2_of_its_own_onto_the_ct():
    case = make_torso(0, 1, size="tiny", unregistered=True)
    label, ct = sitk.GetArrayFromImage(case.label), case.images["CT"]
    duct = label == 3

    def brightness(transform: sitk.Transform) -> float:
        t2 = sitk.GetArrayFromImage(sitk.Resample(case.images["T2"], ct, transform, sitk.sitkLinear))
        return float(t2[duct].mean())

    assert case.images["T2"].GetSpacing() != ct.GetSpacing()
    assert brightness(case.mr_to_ct) > 1.5 * brightness(sitk.Transform(3, sitk.sitkIdentity))


def test_files_of_a_torso_are_documented_complete_and_no_head(tmp_path):
    (folder,) = make_phantoms(tmp_path, n_cases=1, site="torso", size="tiny", n_processes=1, show_progress=False)
    assert {file.name for file in folder.iterdir()} == {"CT.nii.gz", "T2.nii.gz", "label.nii.gz", "phantom.json"}
    record = json.loads((folder / "phantom.json").read_text())
    check_file(record, "phantom.json --site torso")
    assert is_complete(folder, record["options"], channels=("CT", "T2"))
    with pytest.raises(ValueError, match=r"phantom_000.*site='torso' instead of 'head'"):
        make_phantoms(tmp_path, n_cases=1, size="tiny", show_progress=False)
    with pytest.raises(ValueError, match=r"site 'knee' is not known. Use one of: head, torso"):
        make_phantoms(tmp_path, n_cases=1, site="knee", show_progress=False)
