"""Registration on phantoms with a known transform, on real templates where they are there, and which level is kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from reference_tables import check_file

from nnunet_ext.cases.preparing import ChannelOptions, prepare_channels
from nnunet_ext.cli.main import main
from nnunet_ext.dataset_conversion.convert import convert
from nnunet_ext.end_to_end.registration_benchmark import target_error_mm
from nnunet_ext.phantom.torso import make_torso
from nnunet_ext.registration import elastic as elastic_module
from nnunet_ext.registration import elastix
from nnunet_ext.registration.checkerboard import draw_checkerboard
from nnunet_ext.registration.options import RegistrationOptions
from nnunet_ext.registration.registering import _frames, register
from nnunet_ext.registration.similarity import mutual_information
from nnunet_ext.registration.transforms import chained

TEMPLATES = Path(__file__).parents[3] / "shared" / "data" / "template_triplet"
RIGID = RegistrationOptions(elastic=False)


@pytest.fixture(scope="module")
def unregistered(shared_phantom):
    return shared_phantom(5, 0, size="tiny", unregistered=True)


def _mean_error_mm(phantom, transform: sitk.Transform) -> float:
    return float(np.mean(list(target_error_mm(phantom.label, transform, phantom.mr_to_ct).values())))


def _moved(image: sitk.Image, transform: sitk.Euler3DTransform) -> sitk.Image:
    """The same voxels with a header that puts them where the transform takes them: an oblique grid."""
    image = sitk.Image(image)
    matrix = np.reshape(transform.GetMatrix(), (3, 3))
    image.SetOrigin(transform.TransformPoint(image.GetOrigin()))
    image.SetDirection((matrix @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    return image


def _known_move() -> sitk.Euler3DTransform:
    """15 mm and 10 degrees."""
    transform = sitk.Euler3DTransform()
    axis, angle = np.array([1.0, 2.0, 3.0]) / np.sqrt(14), np.deg2rad(10)
    cross = np.cross(np.eye(3), axis)
    matrix = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    transform.SetMatrix(matrix.ravel().tolist(), 1e-8)
    transform.SetTranslation([10.0, 5.0, -10.0])
    return transform


def test_mutual_information_is_the_entropy_of_equal_images_and_zero_for_a_constant():
    values = np.repeat([0.0, 1.0, 2.0, 3.0], 25)
    assert mutual_information(values, values) == pytest.approx(np.log(4))
    assert mutual_information(values, np.ones(100)) == 0.0
    assert mutual_information(values, np.tile([0.0, 1.0, 2.0, 3.0], 25)) == pytest.approx(0.0, abs=0.02)


def test_target_error_of_a_shift_is_its_length(unregistered):
    shift = sitk.TranslationTransform(3, [3.0, 0.0, 4.0])
    errors = target_error_mm(unregistered.label, shift, sitk.Transform(3, sitk.sitkIdentity))
    assert list(errors) == [1, 2, 3, 4, 5, 6, 7]
    assert all(error == pytest.approx(5.0) for error in errors.values())


def test_phantom_is_registered_within_a_millimetre_at_the_organs_and_twice_the_same(unregistered):
    before = _mean_error_mm(unregistered, sitk.Transform(3, sitk.sitkIdentity))
    images = {"T1": unregistered.t1, "T2": unregistered.t2}
    first, again = (register(unregistered.ct, images, options=RIGID) for _ in range(2))
    assert before > 4
    for name, found in first.channels.items():
        assert found.kept == "rigid"
        assert _mean_error_mm(unregistered, found.transform) <= 1.0
        information = found.quality["mutual_information"]
        assert information["rigid"] > information["header"]
        assert found.quality["edge_overlap"]["rigid"] > found.quality["edge_overlap"]["header"]
        point = unregistered.ct.TransformIndexToPhysicalPoint([40, 40, 40])
        assert found.transform.TransformPoint(point) == pytest.approx(
            again.channels[name].transform.TransformPoint(point), abs=1e-3
        )
    json.dumps(first.as_dict())


def test_an_mr_is_registered_to_another_mr_if_there_is_no_ct(unregistered):
    """T1 and T2 of one session lie in one place. The T2 is moved by 15 mm and 10 degrees, and comes back."""
    move = _known_move()
    images = {"T2": _moved(unregistered.t2, move)}
    found = register(unregistered.t1, images, fixed_is_ct=False, options=RIGID).channels["T2"]
    assert found.kept == "rigid"
    middle = unregistered.t1.TransformContinuousIndexToPhysicalPoint([n / 2 for n in unregistered.t1.GetSize()])
    offsets = np.array([(40, -40, 0), (-40, -40, 0), (0, 30, 30), (0, 0, -30)])
    errors = [
        np.linalg.norm(np.subtract(found.transform.TransformPoint(p), move.TransformPoint(p)))
        for p in (np.asarray(middle) + offsets).tolist()
    ]
    assert np.mean(errors) <= 1.0


def test_a_bent_head_is_registered_elastically_and_as_well_as_rigidly(unregistered):
    images = {"T1": unregistered.t1, "T2": unregistered.t2}
    rigid, elastic = (register(unregistered.ct, images, options=o) for o in (RIGID, None))
    found = elastic.channels["T1"]
    assert found.kept == "elastic"
    assert elastic.warnings == []
    hidden = found.quality["hidden_mutual_information"]
    assert hidden["elastic"] > hidden["rigid"]
    low, high = found.quality["jacobian"]
    assert 0.5 <= low < 1.0 < high <= 2.0
    errors = [_mean_error_mm(unregistered, result.channels["T1"].transform) for result in (rigid, elastic)]
    assert errors[1] <= errors[0] + 0.05
    assert errors[1] <= 1.0


def test_elastic_is_not_kept_without_a_gain_and_the_warning_says_so(unregistered, monkeypatch):
    monkeypatch.setattr(elastic_module, "FIRST_STEP_MM", 3.0)  # steps so long that the fit goes wrong
    options = RegistrationOptions(elastic_iterations=2)
    result = register(unregistered.ct, {"T1": unregistered.t1}, options=options)
    assert result.channels["T1"].kept == "rigid"
    assert "T1: kept the rigid alignment" in str(result.warnings[0])


def test_header_is_kept_where_registration_does_not_raise_the_mutual_information(shared_phantom):
    phantom = shared_phantom(0, 0, size="tiny")
    # The CT itself as moving image: no alignment is better than the header's.
    result = register(phantom.ct, {"CT again": phantom.ct}, options=RIGID, bias_corrected=True)
    found = result.channels["CT again"]
    assert found.kept == "header"
    assert found.quality["moved_mm"]["max"] == 0.0
    assert "kept the header's alignment" in str(result.warnings[0])


def test_a_chain_with_an_elastic_transform_can_be_written_and_maps_as_read(unregistered, tmp_path):
    link = _known_move()
    chain = chained(link, unregistered.mr_to_ct)
    sitk.WriteTransform(chain, str(tmp_path / "T2.tfm"))
    read = sitk.ReadTransform(str(tmp_path / "T2.tfm"))
    point = unregistered.ct.TransformIndexToPhysicalPoint([40, 41, 42])
    expected = link.TransformPoint(unregistered.mr_to_ct.TransformPoint(point))
    assert chain.TransformPoint(point) == pytest.approx(expected, abs=1e-9)
    assert read.TransformPoint(point) == pytest.approx(expected, abs=1e-6)


def test_no_moving_image_and_no_head_are_refused():
    empty = sitk.Image(20, 21, 22, sitk.sitkFloat32)
    with pytest.raises(ValueError, match="no moving image"):
        register(empty, {})
    with pytest.raises(ValueError, match=r"the fixed image holds one value \(0\)"):
        register(empty, {"T1": empty})


def test_conversion_registers_before_it_resamples(unregistered, monkeypatch):
    from nnunet_ext.cases import preparing as channels_module

    quick = channels_module.register
    monkeypatch.setattr(channels_module, "register", lambda *a, **k: quick(*a, **{**k, "options": RIGID}))
    images = {"CT": unregistered.ct, "T1": unregistered.t1}
    channels = prepare_channels(images, ChannelOptions(n4=False, register=True))
    true = sitk.Resample(unregistered.t1, channels.images["CT"], unregistered.mr_to_ct, sitk.sitkLinear, 0.0)
    both = [sitk.GetArrayFromImage(image)[channels.body] for image in (channels.images["T1"], true)]
    assert np.corrcoef(*both)[0, 1] > 0.9
    assert channels.record["T1"]["registration"]["kept"] == "rigid"
    assert channels.fields_of_view["T1"].shape == channels.body.shape


def test_command_writes_images_transforms_report_and_picture(unregistered, tmp_path):
    for name, image in (("CT", unregistered.ct), ("T1", unregistered.t1)):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    out = tmp_path / "out"
    assert main(["register", f"{tmp_path}/CT.nii.gz", f"{tmp_path}/T1.nii.gz", "-o", str(out), "--rigid-only"]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "T1.tfm", "T1_registered.nii.gz", "checkerboard.png", "registration.json",
    ]  # fmt: skip
    assert _mean_error_mm(unregistered, sitk.ReadTransform(str(out / "T1.tfm"))) <= 1.0
    assert sitk.ReadImage(str(out / "T1_registered.nii.gz")).GetSize() == unregistered.ct.GetSize()
    record = json.loads((out / "registration.json").read_text())
    assert record["images"]["T1"]["kept"] == "rigid"
    check_file(record, "registration.json")


def test_images_may_share_a_transform_only_within_their_frame_of_reference():
    names = ["T1", "T2", "FLAIR"]
    assert _frames(names, None) == [names]
    assert _frames(names, [["CT", "FLAIR"], ["T2", "T1"]]) == [["FLAIR"], ["T1", "T2"]]
    assert _frames(names, [["T1"]]) == [["T1"], ["T2"], ["FLAIR"]]
    with pytest.raises(ValueError, match="one frame of reference"):
        _frames(names, [["T1", "T2"], ["T2"]])


def _slab(image: sitk.Image, point_mm, depth_mm: float) -> sitk.Image:
    """The slices within half the depth of a point."""
    middle, half = image.TransformPhysicalPointToContinuousIndex(point_mm)[2], depth_mm / image.GetSpacing()[2] / 2
    return image[:, :, max(0, round(middle - half)) : min(image.GetSize()[2], round(middle + half) + 1)]


def _tilted(image: sitk.Image, spacing_mm) -> sitk.Image:
    """The same head on a grid of its own, tilted by 25 and turned by 15 degrees."""
    turn = sitk.Euler3DTransform()
    turn.SetRotation(np.deg2rad(25), np.deg2rad(5), np.deg2rad(15))
    axes = np.reshape(turn.GetMatrix(), (3, 3))
    size = [int(n * mm / new) for n, mm, new in zip(image.GetSize(), image.GetSpacing(), spacing_mm, strict=True)]
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    origin = np.subtract(middle, axes @ ((np.array(size) - 1) / 2 * spacing_mm))
    return sitk.Resample(
        image, size, sitk.Transform(), sitk.sitkLinear, origin.tolist(), spacing_mm, axes.ravel().tolist(), 0.0
    )


def _with_shoulders(ct: sitk.Image) -> sitk.Image:
    """120 mm of water below, 440 mm wide."""
    mm = ct.GetSpacing()
    assert ct.GetDirection()[8] > 0  # first slice is the lowest
    below, beside = round(120 / mm[2]), round(100 / mm[0])
    larger = sitk.ConstantPad(ct, [beside, 0, below], [beside, 0, 0], -1000)
    array = sitk.GetArrayFromImage(larger)
    y, x = (np.arange(n) - n / 2 for n in array.shape[1:])
    array[:below, ((y * mm[1] / 100) ** 2)[:, None] + (x * mm[0] / 220) ** 2 < 1] = 40
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(larger)
    return result


def test_ct_down_to_the_shoulders_is_registered_within_a_millimetre(unregistered):
    result = register(_with_shoulders(unregistered.ct), {"T1": unregistered.t1}, options=RIGID)
    assert _mean_error_mm(unregistered, result.channels["T1"].transform) <= 1.0


@pytest.mark.parametrize(("kind", "limit_mm"), [("slab of 60 mm", 1.0), ("tilted", 1.0), ("thick slices", 1.5)])
def test_unusual_fields_of_view_and_grids_are_registered(unregistered, kind, limit_mm):
    label = sitk.GetArrayViewFromImage(unregistered.label)
    middle = np.argwhere(label > 0).mean(axis=0)[::-1].tolist()
    point = unregistered.mr_to_ct.TransformPoint(unregistered.label.TransformContinuousIndexToPhysicalPoint(middle))
    change = {
        "slab of 60 mm": lambda: _slab(unregistered.t1, point, 60.0),
        "tilted": lambda: _tilted(unregistered.t1, (2.0, 2.2, 2.7)),
        "thick slices": lambda: _tilted(unregistered.t1, (1.5, 1.5, 5.0)),
    }
    result = register(unregistered.ct, {"T1": change[kind]()}, options=RIGID)
    assert result.channels["T1"].kept == "rigid"
    assert _mean_error_mm(unregistered, result.channels["T1"].transform) <= limit_mm
    assert any("little to register by" in line for line in map(str, result.warnings)) == kind.startswith("slab")


def test_a_slab_whose_best_starts_mislead_is_found_all_the_same(shared_phantom):
    # Of 27 starts, the right ones come ninth and thirteenth.
    phantom = shared_phantom(0, 0, size="tiny", unregistered=True)
    label = sitk.GetArrayViewFromImage(phantom.label)
    middle = np.argwhere(label > 0).mean(axis=0)[::-1].tolist()
    point = phantom.mr_to_ct.TransformPoint(phantom.label.TransformContinuousIndexToPhysicalPoint(middle))
    result = register(phantom.ct, {"T1": _slab(phantom.t1, point, 60.0)}, options=RIGID)
    assert result.channels["T1"].kept == "rigid"
    assert _mean_error_mm(phantom, result.channels["T1"].transform) <= 1.0


def test_missing_elastix_says_what_to_install(unregistered, tmp_path, monkeypatch, capsys):
    def missing(name: str) -> str:
        raise elastix.PackageNotFoundError(name)

    monkeypatch.setattr(elastix, "version", missing)
    with pytest.raises(ModuleNotFoundError, match="pip install itk-elastix"):
        RegistrationOptions(backend="elastix")
    with pytest.raises(ModuleNotFoundError, match="pip install itk-elastix"):
        convert(tmp_path, dataset_id=1, name="X", layout="folders", register=True, register_backend="elastix")
    with pytest.raises(ValueError, match="add --register"):
        convert(tmp_path, dataset_id=1, name="X", layout="folders", register_backend="elastix")
    with pytest.raises(ValueError, match="'ants' is not one of simpleitk, elastix"):
        RegistrationOptions(backend="ants")
    sitk.WriteImage(unregistered.t1, str(tmp_path / "T1.nii.gz"))
    arguments = ["register", *[str(tmp_path / "T1.nii.gz")] * 2, "-o", str(tmp_path / "out"), "--backend", "elastix"]
    assert main(arguments) == 1
    assert "pip install itk-elastix" in capsys.readouterr().err


def test_carried_back_image_is_the_image_through_its_transform(unregistered):
    move = _known_move()
    move.SetCenter((10.0, -20.0, 30.0))
    carried = sitk.Resample(elastix._carried_back(unregistered.t1, move), unregistered.ct)
    through = sitk.Resample(unregistered.t1, unregistered.ct, move)
    assert np.allclose(*map(sitk.GetArrayFromImage, (carried, through)), atol=1e-2)


def test_elastix_finds_a_known_warp_on_an_oblique_grid():
    pytest.importorskip("itk", reason="itk-elastix is not installed: pip install itk-elastix")
    rng = np.random.default_rng(0)
    fixed = sitk.GetImageFromArray(rng.random((26, 30, 34)).astype(np.float32))
    fixed.SetSpacing((2.0, 2.5, 3.0))
    fixed.SetOrigin((-30.0, 10.0, 5.0))
    fixed.SetDirection(np.roll(np.reshape(_known_move().GetMatrix(), (3, 3)), 1, axis=1).ravel().tolist())
    fixed = sitk.SmoothingRecursiveGaussian(fixed, 4.0) * 1000
    start = _known_move()
    start.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint((17.0, 15.0, 13.0)))
    true = sitk.BSplineTransformInitializer(fixed, [2, 2, 2], 3)
    true.SetParameters(rng.uniform(-4, 4, len(true.GetParameters())).tolist())
    # Fixed points go through the warp, then through `start`, into the moving image: so it holds the values of `fixed`.
    moving = _moved(sitk.Resample(fixed, fixed, sitk.DisplacementFieldTransform(_inverse_field(true, fixed))), start)
    mask = sitk.Cast(fixed > -1e9, sitk.sitkUInt8)
    options = {"knots_mm": 40.0, "iterations": 150, "samples": 3000, "largest_step_mm": 0.5, "seed": 1}
    found, again = (elastix.fit_elastic(fixed, mask, moving, start, **options) for _ in range(2))
    assert found.GetParameters() == again.GetParameters()
    points = [
        fixed.TransformIndexToPhysicalPoint((i, j, k)) for i in (10, 17, 24) for j in (9, 15, 21) for k in (8, 13, 18)
    ]
    before, after = (
        np.mean([np.linalg.norm(np.subtract(t.TransformPoint(p), true.TransformPoint(p))) for p in points])
        for t in (sitk.Transform(3, sitk.sitkIdentity), found)
    )
    assert before > 1.0
    assert after < 0.4 * before


def _inverse_field(transform: sitk.Transform, grid: sitk.Image) -> sitk.Image:
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection()
    )
    return sitk.InverseDisplacementField(
        field, grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), subsamplingFactor=4
    )


def test_elastix_registers_a_phantom_within_a_millimetre(unregistered):
    pytest.importorskip("itk", reason="itk-elastix is not installed: pip install itk-elastix")
    options = RegistrationOptions(backend="elastix")
    result = register(unregistered.ct, {"T1": unregistered.t1}, options=options)
    found = result.channels["T1"]
    assert found.kept in ("rigid", "elastic")
    assert _mean_error_mm(unregistered, found.transform) <= 1.0
    assert result.as_dict()["options"]["backend"] == "elastix"


@pytest.mark.skipif(not TEMPLATES.is_dir(), reason="the template triplet is not here")
def test_template_gives_the_known_move_back():
    """Moved by 15 mm and 10 degrees, the MR lands where it lands unmoved: the templates' own mismatch cancels out.

    Against the identity the error is about 1 mm, and no setting is wrong: the CT is its own mirror image, while T1 fits
    its mirror image best when shifted by 0.5 to 1.1 mm, so its middle lies 0.3 to 0.5 mm to one side; and the optimum of
    mutual information, of its normalised form and of gradients, in the whole head or in parts of it, lies anywhere from
    0.5 to 2.2 mm (T1) or 1.1 to 3.7 mm (T2) from the identity, in directions that disagree.
    """
    ct, t1 = (sitk.ReadImage(str(TEMPLATES / f"{name}.nii.gz")) for name in ("CT", "T1"))
    move = _known_move()
    still, moved = (register(ct, {"T1": image}, options=RIGID).channels["T1"] for image in (t1, _moved(t1, move)))
    points = [
        (32.0, -55.0, -30.0),
        (-32.0, -55.0, -30.0),
        (15.0, -30.0, -20.0),
        (-15.0, -30.0, -20.0),
        (0.0, -5.0, -15.0),
    ]
    errors = [
        np.linalg.norm(
            np.subtract(moved.transform.TransformPoint(p), move.TransformPoint(still.transform.TransformPoint(p)))
        )
        for p in points
    ]
    assert moved.kept == "rigid"
    assert np.mean(errors) <= 0.5


def test_a_trunk_is_registered_by_the_part_that_the_mr_shows():
    torso = make_torso(3, 0, size="tiny", unregistered=True)
    ct = torso.images["CT"]
    higher = round(260 / ct.GetSpacing()[2])  # the MR lies below all that is within 200 mm of the upper end
    array = np.pad(sitk.GetArrayFromImage(ct), ((0, higher), (0, 0), (0, 0)), mode="edge")
    long_ct = sitk.GetImageFromArray(array)
    long_ct.SetSpacing(ct.GetSpacing())
    long_ct.SetOrigin(ct.GetOrigin())
    result = register(long_ct, {"T2": torso.images["T2"]}, options=RIGID)
    found = result.channels["T2"]
    assert found.kept == "rigid"
    errors_mm = target_error_mm(torso.label, found.transform, torso.mr_to_ct)
    assert list(errors_mm) == [1, 2, 3]
    assert max(errors_mm.values()) <= 1.5
    assert found.quality["overlap"] > 0.8
    assert result.warnings == []
    moved = {
        name: sitk.Resample(torso.images["T2"], long_ct, transform, sitk.sitkLinear)
        for name, transform in (("before", sitk.Transform(3, sitk.sitkIdentity)), ("after", found.transform))
    }
    figure = draw_checkerboard(result, long_ct, {"T2": moved["before"]}, {"T2": moved["after"]})
    heights = [axes.get_images()[0].get_extent()[2] for axes in figure.axes[-2:]]  # coronal and sagittal, mm
    assert all(90 < height < 130 for height in heights)  # what the MR shows, not the upper 220 mm
