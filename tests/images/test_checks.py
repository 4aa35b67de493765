"""Channels that hold nothing, copies, lost slices and values cut off; real images and phantoms raise no alarm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.cases.preparing import ChannelOptions, prepare_channels
from nnunet_ext.cleaning.body import check_body
from nnunet_ext.images.checks import check_arrays, check_images, lost_slices, report_lost_slices
from nnunet_ext.images.reading import read_image
from nnunet_ext.messages import in_english
from nnunet_ext.registration.registering import register
from nnunet_ext.registration.to_files import register_files

DATA = Path(__file__).parents[3] / "shared" / "data"
SHAPE, SPACING_MM = (34, 44, 40), (5.0, 4.6, 4.2)
OPTIONS = ChannelOptions(n4=False)


def to_image(array: np.ndarray, *, spacing_mm=SPACING_MM) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_mm[::-1])
    turn = sitk.Euler3DTransform((0, 0, 0), 0.1, -0.08, 0.12)
    image.SetDirection(turn.GetMatrix())
    return image


def head() -> np.ndarray:
    """Bool `(Z, Y, X)`; a head that ends at the lower border, with air above."""
    z, y, x = np.meshgrid(*(np.arange(n) - n / 2 for n in SHAPE), indexing="ij", sparse=True)
    return (np.sqrt((y * 4.6 / 88) ** 2 + (x * 4.2 / 72) ** 2 + (np.maximum(z, 0) * 5 / 70) ** 2) < 1) & (z < 20)


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    inside = head()
    tissue = rng.normal(0, 12, SHAPE)
    return {
        "CT": np.round(np.where(inside, 40, -1000) + tissue).astype(np.int16),
        "T1": np.round(np.where(inside, 300, 20) + tissue).astype(np.int16),
        "T2": np.round(np.where(inside, 210, 20) + rng.normal(0, 9, SHAPE)).astype(np.int16),
    }


def prepared(arrays: dict[str, np.ndarray], **options):
    return prepare_channels({name: to_image(array) for name, array in arrays.items()}, OPTIONS, **options)


def burnt_in(array: np.ndarray) -> np.ndarray:
    result = np.full_like(array, 7)
    result[3, 5:8, 6] = 4000
    return result


BLANK: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "one value": (lambda a: np.full_like(a, 100), r"T1 holds one value \(100\)"),
    "a fraction": (lambda a: np.full(a.shape, 0.25, np.float32), r"T1 holds one value \(0\.25\)"),
    "a burnt-in letter": (burnt_in, r"T1 holds one value \(7\) but for 3 voxels"),
    "a mask": (lambda a: (a > 150).astype(np.uint8), r"T1 holds 2 values \(0 to 1\), as a mask"),
    "a label map": (lambda a: (a // 60).clip(0, 6).astype(np.uint8), r"T1 holds \d values \(0 to \d\), as a"),
    "a value per slice": (
        lambda a: np.broadcast_to(np.arange(len(a))[:, None, None], a.shape).astype(np.int16),
        "T1 holds one value in each of its slices"),
    "a value per sagittal slice": (
        lambda a: np.broadcast_to(np.arange(a.shape[2]), a.shape).astype(np.int16),
        "T1 holds one value in each of its slices"),
    "NaN": (lambda a: np.where(a > 300, np.nan, a).astype(np.float32), "T1 has values that are NaN"),
    "a head of one value": (
        lambda a: np.where(head(), 100, a).astype(np.int16), r"T1 holds one value \(100\) in 1?[09][0-9]% of the body"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BLANK)
def test_a_channel_that_holds_nothing_is_refused_by_name(arrays, kind: str):
    spoil, message = BLANK[kind]
    with pytest.raises(ValueError, match=message):
        prepared({**arrays, "T1": spoil(arrays["T1"])})


@pytest.mark.parametrize("value", [-1000, 0, 40])
def test_a_blank_ct_is_blank_rather_than_not_in_hu(arrays, value: int):
    with pytest.raises(ValueError, match=rf"CT holds one value \({value}\); export it again$"):
        prepared({**arrays, "CT": np.full(SHAPE, value, np.int16)})


def test_the_remedy_for_a_channel_that_a_case_may_lack_is_to_leave_it_out(arrays):
    with pytest.raises(ValueError, match=r"T2 holds one value .*, or leave its file out"):
        prepared({**arrays, "T2": np.zeros(SHAPE, np.int16)}, optional=["T1", "T2"])


@pytest.mark.parametrize(("one", "other"), [("T1", "T2"), ("CT", "T1")])
def test_one_image_under_two_names_is_refused_in_any_axis_order(arrays, one: str, other: str):
    copy = sitk.DICOMOrient(to_image(arrays[one].astype(np.float32)), "PIR")
    images = {name: to_image(array) for name, array in arrays.items()} | {other: copy}
    with pytest.raises(ValueError, match=f"{one} and {other} are the same image"):
        check_images(images)
    with pytest.raises(ValueError, match="are the same image"):
        check_arrays({one: arrays[one], other: arrays[one].copy()}, spacing_mm=SPACING_MM)


def test_register_refuses_blank_images_and_its_command_copies(arrays, tmp_path: Path):
    images = {name: to_image(array) for name, array in arrays.items()}
    with pytest.raises(ValueError, match="T2 holds one value"):
        register(images["CT"], {"T1": images["T1"], "T2": images["T2"] * 0})
    files = [tmp_path / f"{name}.nii.gz" for name in arrays]
    for file, name in zip(files, ("CT", "T1", "T1"), strict=True):
        sitk.WriteImage(images[name], str(file))
    with pytest.raises(ValueError, match="T1 and T2 are the same image"):
        register_files(files[0], files[1:], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_untouched_images_raise_no_alarm(arrays):
    result = prepared(arrays)
    assert (result.warnings, result.fields_of_view) == ([], {})


def test_an_mr_whose_background_was_set_to_zero_raises_no_alarm(arrays):
    for name in ("T1", "T2"):
        arrays[name][~head()] = 0
    arrays["T1"][0, 0, 0] = 300  # a bright voxel in a corner
    result = prepared(arrays)
    assert (result.warnings, result.fields_of_view) == ([], {})


@pytest.mark.parametrize("padding", [-32768, -2000])
def test_padding_of_an_mr_is_set_to_its_background_and_said(arrays, padding: int):
    padded = arrays["T1"].copy()
    padded[:, :, :4] = padding
    result = prepared({**arrays, "T1": padded})
    said = f"T1: 10% of the voxels hold {padding}, far below all others: padding, set to {arrays['T1'][:, :, 4:].min()}"
    assert in_english(result.warnings) == [said]
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(result.images["T1"]), np.maximum(padded, arrays["T1"][:, :, 4:].min())
    )


def test_an_mr_with_negative_values_has_no_padding(arrays):
    centred = arrays["T1"].astype(np.float32) - 300
    assert prepared({**arrays, "T1": centred}).warnings == []


def test_every_line_can_be_read_in_chinese(arrays):
    arrays["CT"][16:18, 20:22, 18:22] = 3071
    arrays["T1"][:, :, :4] = -2000
    arrays["T2"][8:11] = 0
    arrays["T2"] = np.minimum(arrays["T2"], 210)
    lines = prepared(arrays).warnings
    assert len(lines) == 4
    assert [line for line in lines if line.text("zh") == str(line)] == []


# ------------------------------------------------------------------------------------------- lost slices


@pytest.mark.parametrize("channel", ["CT", "T1"])
@pytest.mark.parametrize(("lost", "count"), [(np.s_[8:11], 3), (np.s_[:15], 15), (np.s_[5:20:2], 8)])
def test_lost_slices_are_counted_and_lie_beyond_the_field_of_view(arrays, channel: str, lost: slice, count: int):
    arrays[channel][lost] = arrays[channel].min()
    result = prepared(arrays)
    assert f"{channel}: {count} of {SHAPE[0]} axial slices hold one value" in " ".join(in_english(result.warnings))
    assert len(result.warnings) == 1, result.warnings
    inside = result.fields_of_view[channel]
    assert not inside[lost].any()
    assert np.count_nonzero(inside.any(axis=(1, 2))) == SHAPE[0] - count


def test_lost_slices_of_an_mr_on_its_own_grid_are_brought_onto_the_ct(arrays):
    arrays["T1"][8:14] = 0
    images = {name: to_image(array) for name, array in arrays.items()}
    images["T1"] = sitk.DICOMOrient(images["T1"][1:, 1:, :], "SAR")
    result = prepare_channels(images, OPTIONS)
    assert "T1: 6 of 34 axial slices hold one value" in " ".join(in_english(result.warnings))
    assert not result.fields_of_view["T1"][8:14].any()


def test_few_slices_at_the_end_of_a_registered_mr_are_no_line(arrays):
    body = head()
    arrays["T1"][:3] = 0
    assert report_lost_slices("T1", lost_slices(arrays["T1"], body)) == []
    arrays["T1"][:8] = 0
    assert len(report_lost_slices("T1", lost_slices(arrays["T1"], body))) == 1


# ------------------------------------------------------------------------------------------- cut off


def test_values_cut_off_at_the_top_are_reported(arrays):
    cut = np.minimum(arrays["T1"], 300)
    lines = in_english(prepared({**arrays, "T1": cut}).warnings)
    assert any("T1: " in line and "highest value (300)" in line for line in lines)
    coarse = np.round(arrays["T1"] / 8).astype(np.int16)  # many voxels at the highest value, as many just below
    assert prepared({**arrays, "T1": coarse}).warnings == []
    limit = np.percentile(arrays["T1"], 99.5)
    assert prepared({**arrays, "T1": np.minimum(arrays["T1"], limit).astype(np.int16)}).warnings == []


def test_an_image_without_a_body_is_refused(arrays):
    with pytest.raises(ValueError, match="T1 shows no body: less than 20 mL found"):
        check_body("T1", arrays["T1"], np.zeros(SHAPE, bool), voxel_ml=0.1)


@pytest.mark.skipif(not DATA.is_dir(), reason="no real images beside the repository")
def test_real_heads_raise_no_alarm():
    images = {name: read_image(DATA / "template_triplet" / f"{name}.nii.gz") for name in ("CT", "T1", "T2")}
    lines = prepare_channels(images, ChannelOptions(n4=False, allow_non_hu=True)).warnings
    assert [line for line in lines if line.kind != "non_hu_accepted"] == []
    assert prepare_channels({"CT": read_image(DATA / "heads" / "fixation_04" / "CT.nii.gz")}, OPTIONS).warnings == []
