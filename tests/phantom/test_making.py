"""Phantoms: files, anatomy, contrast and reproducibility, on tiny cases."""

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from reference_tables import check_file
from scipy import ndimage

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.phantom.acquisition import Grid, Organs, label_map
from nnunet_ext.phantom.anatomy import HeadParameters, build_anatomy
from nnunet_ext.phantom.making import SIZES, _draw_grid, _Pose, _Shift, make_phantom, make_phantoms
from nnunet_ext.phantom.shapes import biconvex, biconvex_volume_ml, capsule, ellipsoid, flat_tube, sphere, tube

N_CASES = 3
LABEL = {name: k for k, name in enumerate(ORGANS, 1)}
VOLUME_ML = {"Eye": (5.5, 9.0), "Lens": (0.14, 0.26), "OpticNrv": (0.28, 0.65), "OpticChiasm": (0.19, 0.42)}
NEIGHBOURS = np.ones((3, 3, 3), bool)


@pytest.fixture(scope="module")
def folder(shared_phantom, tmp_path_factory):
    out = tmp_path_factory.mktemp("phantoms")
    shared_phantom.write(out, n_cases=N_CASES, size="tiny")
    return out


@pytest.fixture(scope="module")
def cases(folder):
    """Case -> file name without ending -> image, plus the record."""
    found = {}
    for case in sorted(folder.iterdir()):
        images = {name: sitk.ReadImage(str(case / f"{name}.nii.gz")) for name in ("CT", "T1", "T2", "label")}
        found[case.name] = images | {"record": json.loads((case / "phantom.json").read_text())}
    return found


@pytest.fixture(scope="module")
def troubled():
    """A case of another seed with a missing left eye, an orbital tumour and streaks from a clip."""
    head = HeadParameters.draw(np.random.default_rng(5))
    head = replace(head, missing_eye="left", tumour="orbit", streaks="clip")
    return make_phantom(1, 0, size="tiny", parameters=head)


@pytest.fixture(scope="module")
def unregistered(shared_phantom, tmp_path_factory):
    out = tmp_path_factory.mktemp("unregistered")
    return shared_phantom.write(out, n_cases=1, size="tiny", unregistered=True)[0]


def arrays(case, *names):
    return [sitk.GetArrayFromImage(case[name]) for name in names]


def test_files_of_a_case_share_one_grid_away_from_the_origin(cases):
    assert list(cases) == [f"phantom_{i:03d}" for i in range(N_CASES)]
    for case in cases.values():
        ct = case["CT"]
        for name in ("T1", "T2", "label"):
            image = case[name]
            assert image.GetSize() == ct.GetSize()
            assert image.GetSpacing() == ct.GetSpacing()
            assert image.GetOrigin() == ct.GetOrigin()
            assert image.GetDirection() == ct.GetDirection()
        assert np.linalg.norm(ct.GetOrigin()) > 10
        assert ct.GetPixelID() == sitk.sitkInt16
        assert case["label"].GetPixelID() == sitk.sitkUInt8


def test_records_hold_the_documented_keys(cases, unregistered):
    for record in (next(iter(cases.values()))["record"], json.loads((unregistered / "phantom.json").read_text())):
        check_file(record, "phantom.json")


def test_cases_have_different_grids(cases):
    assert len({c["CT"].GetSize() for c in cases.values()}) == N_CASES
    assert len({c["CT"].GetSpacing() for c in cases.values()}) == N_CASES


def test_only_finished_cases_are_in_the_folder(folder):
    for case in folder.iterdir():
        assert {p.name for p in case.iterdir()} == {
            "CT.nii.gz",
            "T1.nii.gz",
            "T2.nii.gz",
            "label.nii.gz",
            "phantom.json",
        }


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


def test_drawn_heads_stay_within_the_stated_ranges():
    for seed in range(40):
        head = HeadParameters.draw(np.random.default_rng(seed))
        assert max(np.abs(head.rotation_deg)) <= 10
        assert np.linalg.norm(head.translation_mm) <= 15
        assert all(0.15 <= v <= 0.25 for v in head.lens_ml)
        assert 0.2 <= head.chiasm_ml <= 0.4
        assert all(3 <= 2 * r <= 4 for r in head.nerve_radius_mm)
        assert all(23 <= 2 * r <= 25 for r in head.globe_radius_mm)
        if seed % 8 == 0:  # the geometry takes longer than the draw
            assert all(45 <= v <= 50 for v in build_anatomy(head, np.random.default_rng(0)).nerve_lengths_mm)


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


def test_same_seed_gives_the_same_case_in_one_or_two_processes(cases, tmp_path):
    made = make_phantoms(tmp_path, n_cases=2, first_case=1, size="tiny", n_processes=2, show_progress=False)
    assert [folder.name for folder in made] == ["phantom_001", "phantom_002"]
    for folder in made:
        for name in ("CT", "T1", "T2", "label"):
            image = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{name}.nii.gz")))
            np.testing.assert_array_equal(image, *arrays(cases[folder.name], name))


def test_other_seed_gives_another_case(cases, troubled):
    assert troubled.ct.GetSpacing() != cases["phantom_000"]["CT"].GetSpacing()


def test_missing_eye_leaves_out_eye_and_lens_but_keeps_the_nerve(troubled):
    label = sitk.GetArrayFromImage(troubled.label)
    assert set(np.unique(label)) == {0} | set(LABEL.values()) - {LABEL["Eye_L"], LABEL["Lens_L"]}
    assert troubled.record["organs_ml"]["Eye_L"] == 0
    assert sitk.GetArrayFromImage(troubled.ct).max() > 2500  # the clip


def test_rerun_makes_only_what_is_missing(folder, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.nii.gz")}
    paths = make_phantoms(folder, n_cases=N_CASES, size="tiny", n_processes=1, show_progress=False)
    assert [p.name for p in paths] == [f"phantom_{i:03d}" for i in range(N_CASES)]
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.nii.gz")} == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 9}, "seed=0 instead of 9"),
        ({"size": "small"}, "size='tiny'"),
        ({"unregistered": True}, "unregistered"),
    ],
)
def test_raises_when_the_folder_holds_cases_made_with_other_options(folder, change, words):
    options = {"n_cases": N_CASES, "size": "tiny", "show_progress": False} | change
    with pytest.raises(ValueError, match=f"phantom_000.*{words}"):
        make_phantoms(folder, **options)


def test_raises_when_a_case_folder_is_not_a_phantom(tmp_path):
    (tmp_path / "phantom_001").mkdir()
    with pytest.raises(ValueError, match=r"phantom_001.*no phantom.json"):
        make_phantoms(tmp_path, n_cases=2, size="tiny", show_progress=False)
    assert not (tmp_path / "phantom_000").exists()


def test_raises_when_the_size_is_unknown(tmp_path):
    with pytest.raises(ValueError, match=r"'huge'.*tiny, small, full"):
        make_phantoms(tmp_path, n_cases=1, size="huge")
    with pytest.raises(ValueError, match="n_cases is -1"):
        make_phantoms(tmp_path, n_cases=-1)


def test_unregistered_transform_brings_the_mr_onto_the_ct(unregistered):
    ct, t2, label = (sitk.ReadImage(str(unregistered / f"{n}.nii.gz")) for n in ("CT", "T2", "label"))
    transform = sitk.ReadTransform(str(unregistered / "mr_to_ct.tfm"))
    labels = sitk.GetArrayFromImage(label)

    def overlap(with_transform):
        """Dice of the bright vitreous and the eye labels, each eye on its own: the bias field makes one brighter."""
        moved = sitk.GetArrayFromImage(sitk.Resample(t2, ct, with_transform, sitk.sitkLinear, 0.0, sitk.sitkFloat32))
        both, total = 0, 0
        for eye in (labels == LABEL[name] for name in ("Eye_L", "Eye_R")):
            limit = 0.7 * np.percentile(moved[ndimage.binary_erosion(eye)], 90)
            bright = ndimage.binary_dilation(eye, iterations=4) & (moved > limit)
            both, total = both + (bright & eye).sum(), total + bright.sum() + eye.sum()
        return 2 * both / total

    assert t2.GetSpacing() != ct.GetSpacing()
    assert overlap(transform) > 0.75
    assert overlap(sitk.Transform()) < overlap(transform) - 0.1


def test_shift_equals_its_sitk_transform_and_inverts():
    rng = np.random.default_rng(3)
    grid = Grid((50, 60, 40), (4.0, 3.5, 5.0), (-110.0, -250.0, 30.0))
    shift = _Shift.draw(rng, grid)
    points = rng.uniform(grid.origin_mm, grid.end_mm, (50, 3))
    moved = shift.to_mr_mm(points)
    np.testing.assert_allclose([shift.to_sitk().TransformPoint(p) for p in points.tolist()], moved, atol=1e-6)
    np.testing.assert_allclose(shift.to_ct_mm(moved), points, atol=2e-3)
    assert np.linalg.norm(shift.bend_mm(points), axis=1).max() <= 2


def test_pose_inverts_and_the_whole_head_is_in_the_grid():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        head = HeadParameters.draw(rng)
        pose = _Pose.of(head, rng)
        points = rng.uniform(-90, 90, (20, 3))
        np.testing.assert_allclose(pose.to_head_mm(pose.to_world_mm(points)), points, atol=1e-3)
        for sizes in SIZES.values():
            grid = _draw_grid(sizes, pose, head, rng)
            crown = pose.to_world_mm(np.array([0, 8, 117.0]) * head.scale)
            assert (crown > grid.origin_mm).all()
            assert (crown < grid.end_mm).all()


def test_label_map_keeps_the_volume_of_a_nerve_between_two_slices():
    # Rows of 0.4 and 0.45: the majority rule would label nothing.
    coverage = np.zeros((7, 2, 1, 10), np.float32)
    coverage[4, 0], coverage[4, 1] = 0.4, 0.45
    grid = Grid((10, 1, 2), (1.0, 1.0, 5.0), (0.0, 0.0, 0.0))
    label = label_map(Organs(coverage, (0, 0, 0)), grid, {})
    assert (label == 5).sum() == 8  # round(10 * 0.85)
    assert not label[0].any()
    # A centreline on the other slice comes first.
    line = np.stack([np.arange(10.0), np.zeros(10), np.zeros(10)], axis=1)
    assert (label_map(Organs(coverage, (0, 0, 0)), grid, {5: line})[0] == 5).sum() == 8


def test_label_map_exchanges_stray_voxels_for_touching_ones():
    coverage = np.zeros((7, 1, 1, 9), np.float32)
    coverage[6, 0, 0] = [0.9, 0.9, 0.3, 0.2, 0, 0, 0, 0.7, 0]
    grid = Grid((9, 1, 1), (1.0, 1.0, 5.0), (0.0, 0.0, 0.0))
    label = label_map(Organs(coverage, (0, 0, 0)), grid, {})
    np.testing.assert_array_equal(label[0, 0], [7, 7, 7, 0, 0, 0, 0, 0, 0])  # 3 voxels; the one apart is given up


def test_shapes_measure_distance():
    p = np.float32([[0, 0, 5], [0, 0, 2], [3, 0, 0]])
    np.testing.assert_allclose(sphere((0, 0, 0), 3).distance_mm(p), [2, -1, 0], atol=1e-5)
    np.testing.assert_allclose(ellipsoid((0, 0, 0), (3, 3, 3)).distance_mm(p), [2, -1, 0], atol=1e-5)
    rod = capsule((0, 0, -1), (0, 0, 1), 1)
    np.testing.assert_allclose(rod.distance_mm(p), [3, 0, 2], atol=1e-5)
    np.testing.assert_allclose(
        tube(np.float32([[0, 0, -1], [0, 0, 0], [0, 0, 1]]), 1.0).distance_mm(p), [3, 0, 2], atol=1e-4
    )
    ribbon = flat_tube(np.float32([[0, -5, 0], [0, 5, 0]]), 1.0, (1, 0, 0), 3.0)
    np.testing.assert_allclose(ribbon.distance_mm(p), [4, 1, 0], atol=1e-4)  # 3 mm wide to either side
    assert sphere((5, 0, 0), 1).mirrored().distance_mm(np.float32([-5, 0, 0])) == pytest.approx(-1)


def test_biconvex_volume_matches_its_shape():
    size = {"radius_mm": 4.9, "front_mm": 1.9, "back_mm": 2.6}
    axis = np.arange(-6, 6, 0.2, dtype=np.float32)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    inside = biconvex((0, 0, 0), (0, -1, 0), **size).distance_mm(points) < 0
    assert inside.sum() * 0.2**3 / 1000 == pytest.approx(biconvex_volume_ml(**size), rel=0.02)
    # The flatter cap faces forward, towards -y.
    y = points[inside][:, 1]
    assert y.min() == pytest.approx(-1.9, abs=0.2)
    assert y.max() == pytest.approx(2.6, abs=0.25)
