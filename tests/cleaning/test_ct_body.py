"""Nothing of the patient is lost, and little of couch and mask is left: on real heads, phantoms and drawn heads."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.cases.preparing import ChannelOptions, prepare_channels
from nnunet_ext.cleaning.body import body_mask_array
from nnunet_ext.cleaning.ct_body import find_ct_body
from nnunet_ext.images.geometry import to_canonical

HEADS = Path(__file__).parents[3] / "shared" / "data" / "heads"


def score(ct: np.ndarray, kept: np.ndarray, body: np.ndarray, spacing_mm) -> tuple[int, float]:
    """Voxels of tissue lost inside the body, and the share of what lay over 5 mm off it that is left, both by slice."""
    inner = np.stack([ndimage.binary_erosion(one) for one in body])
    off_mm = np.stack(
        [
            ndimage.distance_transform_edt(~one, sampling=spacing_mm[1:]) if one.any() else np.full(one.shape, np.inf)
            for one in body
        ]
    )
    foreign = (off_mm > 5) & (ct > -700)
    lost = inner & (ct > -300) & ~kept
    return np.count_nonzero(lost), np.count_nonzero(foreign & kept) / max(1, np.count_nonzero(foreign))


@pytest.mark.parametrize("name", ["fixation_02", "fixation_04", "fixation_05", "fixation_07"])
def test_heads_of_real_people_lose_nothing(name: str):
    folder = HEADS / name
    if not folder.is_dir():
        pytest.skip("the heads of real people are not on this machine")
    ct, body = (to_canonical(sitk.ReadImage(str(folder / f"{part}.nii.gz"))) for part in ("CT", "body"))
    array, spacing_mm = sitk.GetArrayFromImage(ct), ct.GetSpacing()[::-1]
    found = find_ct_body(array, spacing_mm=spacing_mm)
    lost, left = score(array, found.kept, sitk.GetArrayFromImage(body) > 0, spacing_mm)
    assert lost <= 50
    assert left <= 0.02


@pytest.mark.parametrize(("seed", "case", "size"), [(7, 1, "tiny"), (0, 0, "tiny")])
def test_phantoms_lose_nothing(seed: int, case: int, size: str, shared_phantom):
    phantom = shared_phantom(seed, case, size=size, with_truth=True)
    truth, organs = phantom.truth.body, sitk.GetArrayFromImage(phantom.label) > 0
    ct, spacing_mm = sitk.GetArrayFromImage(phantom.ct), phantom.ct.GetSpacing()[::-1]
    found = find_ct_body(ct, spacing_mm=spacing_mm)
    lost, left = score(ct, found.kept, truth, spacing_mm)
    assert lost <= 50
    assert left < 0.08  # most of it is the crown's own soft edge, and the mask that touches it
    assert found.kept[organs].all()
    assert np.count_nonzero(truth & ~found.body) < 2e-3 * np.count_nonzero(truth)


def drawn_head(
    spacing_mm=(2.5, 1.0, 1.0),
    *,
    mask: bool = True,
    couch_mm: float | None = 110.0,
    nose_off_mm: float = 0.0,
    neck: bool = False,
    mask_mm: float = 2.2,
):
    """CT `(Z, Y, X)`, true body and what is foreign: ears are plates of 3.6 mm with a gap behind, the nose is narrow.

    Args:
        spacing_mm: Voxel size.
        mask: Whether a mask of `mask_mm` lies 1 to 4 mm above face and ears.
        couch_mm: Where the couch begins behind the middle of the head, which ends at 90; None: no couch.
        nose_off_mm: How far the volume begins behind its usual place; from 8 on it touches the tip of the nose.
        neck: Whether a neck goes on below the border of the volume.
    """
    low = np.array([-70.0 if neck else -105.0, -118.0 + nose_off_mm, -115.0])
    high = np.array([105.0, 150.0, 115.0])
    shape = np.ceil((high - low) / spacing_mm).astype(int)
    z, y, x = (
        (low[a] + np.arange(shape[a]) * spacing_mm[a]).reshape([-1 if b == a else 1 for b in range(3)])
        for a in range(3)
    )
    head = (np.sqrt((z / 95) ** 2 + (y / 90) ** 2 + (x / 75) ** 2) - 1) * 80
    if neck:
        head = np.minimum(head, np.maximum(np.hypot(x / 1.1, y - 15) - 50, z))
    nose = np.sqrt(((z + 5) / 1.6) ** 2 + x**2) - np.clip(9 + (y + 90) * 0.35, 0, 14)
    nose = np.maximum(np.maximum(nose, -110 - y), y + 70)
    out = np.abs(x) - 70
    ear = np.maximum(np.abs(y - 10 - 0.8 * np.clip(out, 0, 25)) - 1.8, np.hypot(z / 1.3, out) - 24) + 0 * z
    depth = np.minimum(np.minimum(head, nose), ear)
    width = float(np.mean(spacing_mm))
    ct = -1000 + 1040 * np.clip(0.5 - depth / width, 0, 1)
    ct = np.where(head < -8, np.where(head > -15, 900, 40), ct)
    body = depth <= 0
    foreign = np.zeros(body.shape, bool)
    if mask:
        gap = 2.5 + 1.5 * np.sin(x / 17) * np.cos(z / 23)
        sheet = np.clip(0.5 + (depth - gap) / width, 0, 1) * np.clip(0.5 - (depth - gap - mask_mm) / width, 0, 1)
        sheet = sheet * (y < 20)
        ct = np.maximum(ct, -1000 + 1000 * sheet)
        foreign |= (sheet > 0.3) & ~body
    if couch_mm is not None:
        couch = ((y > couch_mm) & (y < couch_mm + 3) | (y > couch_mm + 28)) & (np.abs(x) < 300) & (z < 1000) & ~body
        ct = np.where(couch, np.maximum(ct, -20), ct)
        foreign |= couch
    rng = np.random.default_rng(0)
    return np.round(ct + rng.normal(0, 12, ct.shape)).astype(np.int16), body, foreign


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mask": False},
        {"couch_mm": None},
        {"mask": False, "couch_mm": None},
        {"couch_mm": 89.0},
        {"nose_off_mm": 12.0},
        {"neck": True},
        {"spacing_mm": (5.0, 0.98, 0.98)},
        {"spacing_mm": (2.5, 0.6, 0.6)},
        {"spacing_mm": (1.5, 1.5, 1.5), "mask_mm": 3.2},
    ],
    ids=str,
)
def test_thin_ears_and_noses_stay(options):
    ct, body, foreign = drawn_head(**options)
    spacing_mm = options.get("spacing_mm", (2.5, 1.0, 1.0))
    found = find_ct_body(ct, spacing_mm=spacing_mm)
    lost, left = score(ct, found.kept, body, spacing_mm)
    assert lost <= 50
    assert np.count_nonzero(body & ~found.body) < 2e-3 * np.count_nonzero(body)
    if foreign.any():
        assert left <= 0.02
        assert np.count_nonzero(found.body & foreign) < 0.25 * np.count_nonzero(foreign)


def test_an_oblique_image_in_another_axis_order_is_cleaned_alike():
    ct, body, _ = drawn_head()
    image = sitk.GetImageFromArray(ct)
    image.SetSpacing((1.0, 1.0, 2.5))
    turn = sitk.Euler3DTransform((0, 0, 0), 0.15, -0.1, 0.2)
    image.SetDirection(turn.GetMatrix())
    turned = sitk.PermuteAxes(image, (2, 0, 1))[::-1, :, :]
    result = prepare_channels({"CT": turned}, ChannelOptions())
    after = sitk.GetArrayFromImage(result.images["CT"])
    lost, left = score(ct, after != -1000, body, (2.5, 1.0, 1.0))
    assert lost <= 50
    assert left <= 0.02


def test_a_sheet_loose_in_a_sinus_goes_and_thin_walls_stay():
    ct, _, _ = drawn_head(mask=False)
    ct[30:46, 100:130, 100:130] = -1000
    sheet = np.zeros(ct.shape, bool)
    sheet[34:42, 106:124, 109:112] = True
    wall = np.zeros(ct.shape, bool)
    wall[30:46, 100:130, 120] = True
    ct[sheet | wall] = 30
    found = find_ct_body(ct, spacing_mm=(2.5, 1.0, 1.0))
    assert found.kept[wall].all()
    assert not found.kept[sheet].any()
    assert found.body[30:46, 100:130, 100:130].all()


def test_rows_of_slices_without_a_body_and_empty_volumes_hold_none():
    ct, body, _ = drawn_head(mask=False)
    above = np.concatenate([ct, np.full((12, *ct.shape[1:]), -1000, np.int16)])
    found = find_ct_body(above, spacing_mm=(2.5, 1.0, 1.0))
    assert not found.body[len(ct) :].any()
    assert np.count_nonzero(body & ~found.body[: len(ct)]) < 2e-3 * np.count_nonzero(body)
    empty = find_ct_body(np.full((20, 30, 40), -1000.0), spacing_mm=(2.5, 1.0, 1.0))
    assert not empty.body.any()
    assert not empty.kept.any()


def two_legs() -> tuple[np.ndarray, np.ndarray]:
    """Two thighs of unlike width that touch nowhere, bool `(Z, Y, X)` in voxels of 3 x 2 x 2 mm, and a couch behind."""
    y, x = np.ogrid[:100, :140]
    legs = (np.hypot(y - 45, x - 37) < 31) | (np.hypot(y - 45, x - 101) < 27)
    couch = (y >= 80) & (y < 82) & (x >= 0)
    return np.broadcast_to(legs, (20, 100, 140)).copy(), np.broadcast_to(couch, (20, 100, 140)).copy()


def test_the_second_leg_stays_in_ct_and_mr_and_the_couch_goes():
    legs, couch = two_legs()
    rng = np.random.default_rng(0)
    ct = np.where(legs, 40.0, np.where(couch, -20.0, -1000.0)) + rng.normal(0, 10, legs.shape)
    found = find_ct_body(ct, spacing_mm=(3.0, 2.0, 2.0))
    assert found.kept[legs].all()
    assert not found.body[couch].any()
    mr = np.where(legs, 400.0, 10.0) + rng.normal(0, 4, legs.shape)
    body = body_mask_array(mr, spacing_mm=(3.0, 2.0, 2.0), is_ct=False)
    assert np.count_nonzero(body & legs) > 0.97 * np.count_nonzero(legs)
