import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.reporting.volumes import SHOWN_MARGIN_MM, LabelMap, organ_surface, pack_case

ORGANS = {"Eye_L": (1,), "OpticChiasm": (4,)}
SHAPE = (24, 50, 70)  # Z, Y, X
SPACING_MM = (2.5, 0.9, 0.7)  # along Z, Y, X


def grid(array: np.ndarray) -> sitk.Image:
    """On an oblique grid whose axes run to P, R and S, nearly."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    turn, tilt = np.radians([7.0, 5.0])
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    axes = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], float)  # columns: x to P, y to R, z to S
    image.SetDirection((about_z @ about_x @ axes).ravel())
    image.SetOrigin((31.0, -20.0, 145.0))
    return image


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:13, 24:29, 30:36] = 1
    labels[12:14, 20, 33:35] = 4
    ct = np.where(labels == 1, 100, -100).astype(np.int16) + np.arange(SHAPE[2], dtype=np.int16)
    paths = {name: tmp_path / f"{name}.nii.gz" for name in ("CT", "labels")}
    sitk.WriteImage(grid(ct), str(paths["CT"]))
    sitk.WriteImage(grid(labels), str(paths["labels"]))
    return paths


def unpack(data: bytes) -> tuple[dict, list[np.ndarray], dict[str, np.ndarray]]:
    content = gzip.decompress(data)
    length = int.from_bytes(content[:4], "little")
    header = json.loads(content[4 : 4 + length])
    shape, at = header["size"][::-1], 4 + length
    arrays = []
    for _ in [*header["channels"], *header["maps"]]:
        arrays.append(np.frombuffer(content, np.uint8, int(np.prod(shape)), at).reshape(shape))
        at += arrays[-1].size
    n = len(header["channels"])
    return header, arrays[:n], {m["name"]: a for m, a in zip(header["maps"], arrays[n:], strict=True)}


def world_ras_mm(header: dict, mask: np.ndarray) -> set[tuple]:
    indices = np.argwhere(mask)[:, ::-1]
    affine = np.array(header["affine"])
    return {tuple(p) for p in np.round(indices @ affine[:3, :3].T + affine[:3, 3], 2)}


def test_packed_labels_lie_where_the_file_has_them(files):
    header, _, maps = unpack(pack_case("case_1", {"CT": files["CT"]}, {"reference": LabelMap(files["labels"], ORGANS)}))
    image = sitk.ReadImage(str(files["labels"]))
    labels = sitk.GetArrayFromImage(image)
    for organ, values in header["maps"][0]["organs"].items():
        lps = [image.TransformIndexToPhysicalPoint(i[::-1].tolist()) for i in np.argwhere(labels == ORGANS[organ][0])]
        expected = {tuple(np.round((-x, -y, z), 2)) for x, y, z in lps}
        found = world_ras_mm(header, np.isin(maps["reference"], values))
        assert len(found) == len(expected)
        np.testing.assert_allclose(sorted(found), sorted(expected), atol=0.011)


def test_packed_axes_run_right_anterior_superior(files):
    header, _, _ = unpack(pack_case("case_1", {"CT": files["CT"]}, {"reference": LabelMap(files["labels"], ORGANS)}))
    assert np.all(np.diag(header["affine"])[:3] > 0.6)
    assert header["spacing_mm"] == [0.9, 0.7, 2.5], "the file's y axis runs to the right, its x axis to posterior"


def test_crop_keeps_the_margin_around_the_organs(files):
    header, _, maps = unpack(pack_case("case_1", {"CT": files["CT"]}, {"reference": LabelMap(files["labels"], ORGANS)}))
    filled = np.argwhere(maps["reference"] > 0)
    room_mm = filled.min(axis=0) * np.array(header["spacing_mm"][::-1])
    assert np.all(room_mm >= SHOWN_MARGIN_MM)


def test_grey_values_are_linear_in_the_image_and_say_their_window(files):
    header, (greys,), maps = unpack(
        pack_case("c", {"CT": files["CT"]}, {"reference": LabelMap(files["labels"], ORGANS)})
    )
    low, high = header["channels"][0]["window"]
    hu = -135.0 + (greys.astype(float) - low) / (high - low) * 350.0
    eye = maps["reference"] == header["maps"][0]["organs"]["Eye_L"][0]
    assert hu[eye].mean() == pytest.approx(100 + 32.5, abs=1)
    assert hu.max() <= 215 + 175
    assert greys.max() == 255


def test_prediction_on_another_grid_is_brought_onto_the_image(files, tmp_path):
    image = sitk.ReadImage(str(files["labels"]))
    other = tmp_path / "other.nii.gz"
    sitk.WriteImage(sitk.DICOMOrient(image, "LPS"), str(other))
    maps = {"reference": LabelMap(files["labels"], ORGANS), "ours": LabelMap(other, ORGANS)}
    _, _, found = unpack(pack_case("case_1", {"CT": files["CT"]}, maps))
    np.testing.assert_array_equal(found["ours"], found["reference"])


def test_label_maps_keep_their_own_meaning_of_values(files, tmp_path):
    image = sitk.ReadImage(str(files["labels"]))
    swapped = tmp_path / "swapped.nii.gz"
    sitk.WriteImage(sitk.ChangeLabel(image, {1: 4, 4: 1}), str(swapped))
    regions = {"Eye_L": (4,), "OpticChiasm": (1,), "All": (1, 4)}
    maps = {"reference": LabelMap(files["labels"], ORGANS), "ours": LabelMap(swapped, regions)}
    header, _, found = unpack(pack_case("case_1", {"CT": files["CT"]}, maps))
    reference, ours = (m["organs"] for m in header["maps"])
    for organ in ORGANS:
        np.testing.assert_array_equal(
            np.isin(found["ours"], ours[organ]), np.isin(found["reference"], reference[organ])
        )
    assert set(ours["All"]) == {*ours["Eye_L"], *ours["OpticChiasm"]}
    assert ("ours", "All") in {(s["map"], s["organ"]) for s in header["surfaces"]}


def test_surface_encloses_the_volume_of_a_ball_on_thick_slices():
    z, y, x = np.ogrid[:17, :41, :51]
    radius_mm = 12.0
    mask = ((z - 8) * 2.5) ** 2 + ((y - 20) * 0.9) ** 2 + ((x - 25) * 0.7) ** 2 <= radius_mm**2
    affine = np.diag([0.7, 0.9, 2.5, 1.0])
    vertices, triangles = organ_surface(mask, affine)
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    volume = abs(np.einsum("ij,ij->i", a, np.cross(b, c)).sum()) / 6
    assert volume == pytest.approx(4 / 3 * np.pi * radius_mm**3, rel=0.08)
    distance = np.linalg.norm(vertices - [25 * 0.7, 20 * 0.9, 8 * 2.5], axis=1)
    assert abs(distance - radius_mm).max() < 1.3, "half a slice"


def test_surface_of_a_single_voxel_is_there():
    mask = np.zeros((5, 6, 7), bool)
    mask[2, 3, 4] = True
    vertices, triangles = organ_surface(mask, np.diag([0.4, 0.4, 0.4, 1.0]))
    assert len(triangles)
    np.testing.assert_allclose(vertices.mean(axis=0), [1.6, 1.2, 0.8], atol=0.2)


def test_damaged_image_names_the_case(files, tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(files["CT"].read_bytes()[:200])
    with pytest.raises(ValueError, match="case 'case_7'"):
        pack_case("case_7", {"CT": broken}, {})
