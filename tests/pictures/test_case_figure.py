"""Overlay pictures: the patient's right is on the left, and what is drawn is what the masks hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.image import imread

from nnunet_ext.images.geometry import to_canonical
from nnunet_ext.images.reading import read_image
from nnunet_ext.labels.colours import COLOURS, colours
from nnunet_ext.pictures.case_figure import draw_case, draw_comparison
from nnunet_ext.pictures.contours import SMALLEST_VIEW_MM, VIEW_ASPECT, zoom_mm
from nnunet_ext.pictures.views import View, choose_views, picture_spacing_mm, slice_picture
from nnunet_ext.pictures.volumes import display_window, on_grid, read_case

SHAPE = (12, 40, 60)
SPACING_MM = (3.0, 0.8, 0.7)
LABELS = {"background": 0, "Lens_L": 1, "Lens_R": 2, "OpticChiasm": 3}
TURN = sitk.Euler3DTransform((0, 0, 0), 0.20, -0.15, 0.10)


def lps_image(array: np.ndarray) -> sitk.Image:
    """An oblique image whose axes are nearest to left, posterior, superior."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM[::-1])
    image.SetOrigin((-20.0, 12.0, 5.0))
    image.SetDirection(TURN.GetMatrix())
    return image


def label_map() -> np.ndarray:
    """Left lens at high x, right lens at low x, both anterior (low y); chiasm posterior and higher."""
    out = np.zeros(SHAPE, np.uint8)
    out[4, 8:12, 44:50] = 1
    out[4, 8:12, 10:16] = 2
    out[8:10, 28:32, 26:34] = 3
    return out


def write(folder: Path, name: str, image: sitk.Image) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.nii.gz"
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def case_files(tmp_path: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    images = {n: write(tmp_path, n, lps_image(rng.normal(40, 60, SHAPE).astype(np.int16))) for n in ("CT", "T1")}
    prediction = np.roll(label_map(), 1, axis=2)
    return images | {
        "reference": write(tmp_path, "reference", lps_image(label_map())),
        "prediction": write(tmp_path, "prediction", lps_image(prediction)),
    }


@pytest.mark.parametrize("code", ["LPS", "RAS", "SAR", "PIL"])
@pytest.mark.parametrize(
    ("plane", "index", "top", "left"),
    [
        ("axial", 6, (0, -1, 0), (-1, 0, 0)),  # LPS: anterior is -y, the patient's right is -x
        ("coronal", 20, (0, 0, 1), (-1, 0, 0)),  # superior is +z
        ("sagittal", 30, (0, 0, 1), (0, -1, 0)),
    ],
)
def test_world_directions_on_the_picture(tmp_path, code, plane, index, top, left):
    """Each voxel stores where it lies, so the picture tells which way the patient faces, whatever the file's axes."""
    blank = lps_image(np.zeros(SHAPE, np.float32))
    centre = np.array(blank.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in blank.GetSize()]))
    for name, direction in {"top": top, "left": left}.items():
        turned = TURN.TransformVector([float(d) for d in direction], (0.0, 0.0, 0.0))  # follow the oblique axes
        z, y, x = np.indices(SHAPE)
        axes = np.reshape(blank.GetDirection(), (3, 3)) * np.asarray(blank.GetSpacing())
        world = np.asarray(blank.GetOrigin())[:, None] + axes @ np.stack([x.ravel(), y.ravel(), z.ravel()])
        how_far = (np.asarray(turned) @ (world - centre[:, None])).reshape(SHAPE).astype(np.float32)
        path = write(tmp_path, name, sitk.DICOMOrient(lps_image(how_far), code))

        picture = slice_picture(sitk.GetArrayFromImage(to_canonical(read_image(path))), plane, index)
        step = -np.diff(picture, axis=0 if name == "top" else 1)
        assert (step > 0).all(), f"{name} of the {plane} picture is not {direction}"


def test_picture_spacing_follows_the_plane():
    volume = np.zeros(SHAPE)
    for plane, shape, spacing_mm in [
        ("axial", (40, 60), (0.8, 0.7)),
        ("coronal", (12, 60), (3.0, 0.7)),
        ("sagittal", (12, 40), (3.0, 0.8)),
    ]:
        assert slice_picture(volume, plane, 0).shape == shape
        assert picture_spacing_mm(SPACING_MM, plane) == spacing_mm


def test_views_go_through_lenses_and_chiasm():
    reference = label_map()
    reference[5, 9, 45] = reference[5, 9, 12] = 1  # a smaller area one slice up
    reference[8, 30, 26:30] = 0
    reference[9, 30, 26:34] = 3
    assert choose_views(reference, None, LABELS) == [
        View("axial", 4, "Lens", ("Lens_L", "Lens_R")),
        View("axial", 9, "OpticChiasm", ("OpticChiasm",)),
        View("coronal", 28, "OpticChiasm", ("OpticChiasm",)),
    ]


@pytest.mark.parametrize(
    ("left", "right", "pairs", "shown"),
    [
        ("left_lens", "right_lens", None, "lens"),
        ("LensL", "LensR", None, "Lens"),
        ("lens 1", "lens 2", [("lens 1", "lens 2")], "lens 1, lens 2"),
    ],
)
def test_left_and_right_share_a_slice_however_they_are_called(left, right, pairs, shown):
    labels = {left: 1, right: 2, "OpticChiasm": 3}
    assert choose_views(label_map(), None, labels, pairs=pairs)[0] == View("axial", 4, shown, (left, right))


def test_tilted_head_gets_a_view_of_each_lens():
    reference = label_map()
    reference[4][reference[4] == 2] = 0
    reference[2, 8:12, 10:16] = 2
    assert choose_views(reference, None, LABELS)[:2] == [
        View("axial", 4, "Lens_L", ("Lens_L",)),
        View("axial", 2, "Lens_R", ("Lens_R",)),
    ]


def test_views_fall_back_to_the_prediction_and_to_the_smallest_organs():
    reference = np.zeros(SHAPE, np.uint8)
    prediction = label_map()
    labels = {"liver": 1, "spleen": 3, "kidney": 2}
    prediction[1:4, 20:30, 20:30] = 1
    reference[6, 5, 5] = 3  # the reference wins where it has the organ
    found = choose_views(reference, prediction, labels)
    assert [(view.plane, view.index, view.shows) for view in found] == [
        ("axial", 6, "spleen"),
        ("axial", 4, "kidney"),
        ("coronal", 8, "kidney"),
    ]


def test_views_without_any_organ_are_the_middle():
    empty = np.zeros(SHAPE, np.uint8)
    assert choose_views(empty, None, LABELS) == [View("axial", 6, "no organ"), View("coronal", 20, "no organ")]


def test_zoom_holds_the_organ_and_its_neighbours_only():
    shape, pixel_mm = (200, 200), (0.8, 0.7)
    lens, eye, far = (np.zeros(shape, bool) for _ in range(3))
    lens[100:104, 100:110] = True
    eye[96:120, 90:120] = True
    far[10:14, 10:14] = True
    left, right, top, bottom = zoom_mm([{"lens": lens, "eye": eye, "far": far}, None], ["lens"], pixel_mm)
    assert (right - left) / (bottom - top) == pytest.approx(VIEW_ASPECT)
    assert right - left == pytest.approx(SMALLEST_VIEW_MM)
    assert left < 90 * 0.7 - 6.0
    assert right > 120 * 0.7 + 6.0 - 0.7
    assert top < 96 * 0.8 - 6.0
    assert bottom > 120 * 0.8 + 6.0 - 0.8
    assert left > 13 * 0.7


def test_display_window_of_mr_ignores_outliers_and_of_ct_is_fixed():
    volume = np.linspace(100, 200, 10_000).reshape(10, 100, 10)
    volume[0, 0, 0] = 1e6
    everything = (slice(None),) * 3
    assert display_window("CT", volume, everything) == (-135.0, 215.0)
    low, high = display_window("T1", volume, everything)
    assert low == pytest.approx(101, abs=0.1)
    assert high == pytest.approx(199.5, abs=0.1)
    assert display_window("T2", np.full((2, 2, 2), 7.0), everything) == (7.0, 8.0)


def test_colours_are_fixed_by_the_place_in_the_labels_and_differ():
    many = {f"organ_{i}": i for i in range(1, 21)}
    assert len(set(colours(many).values())) == 20
    assert colours(LABELS) == dict(zip(["Lens_L", "Lens_R", "OpticChiasm"], COLOURS, strict=False))


def pixels_of(picture: np.ndarray, colour: str) -> np.ndarray:
    """Rows and columns of the pixels in a colour, above the legend."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    close = np.abs(picture[: int(0.9 * len(picture)), :, :3] - rgb).max(axis=2) < 0.2
    return np.argwhere(close)


@pytest.mark.parametrize("code", ["LPS", "RAI"])
def test_left_lens_is_drawn_on_the_right_half(case_files, tmp_path, code):
    turned = write(tmp_path, "turned", sitk.DICOMOrient(lps_image(label_map()), code))
    flat = write(tmp_path, "flat", sitk.DICOMOrient(lps_image(np.zeros(SHAPE, np.int16)), code))
    grid, volumes, (_, prediction) = read_case({"CT": flat}, (None, turned))
    draw_case("case", grid, volumes, None, prediction, labels=LABELS).savefig(tmp_path / "p.png")
    picture = imread(tmp_path / "p.png")
    left, right = (pixels_of(picture, colours(LABELS)[organ]) for organ in ("Lens_L", "Lens_R"))
    assert len(left) > 50
    assert len(right) > 50
    assert left[:, 1].min() > right[:, 1].max()


def test_figure_names_case_channels_scores_and_what_was_missed():
    reference, prediction = label_map(), label_map()
    prediction[prediction == 3] = 0
    reference[reference == 2] = 0
    volumes = {"CT": np.zeros(SHAPE), "T2": np.ones(SHAPE)}
    scores = {"Lens_L": 87.65, "OpticChiasm": 0.0, "Lens_R": float("nan")}
    grid = lps_image(np.zeros(SHAPE, np.uint8))
    figure = draw_case("case_7", grid, volumes, reference, prediction, labels=LABELS, scores=scores)
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert texts == [
        "reference",
        "prediction",
        "Lens_L  DSC 87.7",
        "Lens_R  invented",
        "OpticChiasm  DSC 0.0  missed",
    ]
    assert figure.get_suptitle() == "case_7"
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["CT", "T2"]
    whole = figure.axes[0].get_title(loc="left")
    middle = grid.TransformContinuousIndexToPhysicalPoint((29.5, 19.5, 4))
    assert whole == f"Lens\naxial, z = {middle[2]:.1f} mm\nslice 5 of 12"
    marks = {text.get_text() for text in figure.axes[1].texts}
    assert {"R", "L", "A", "P", "10 mm"} <= marks
    assert figure.axes[1].get_aspect() == 1.0  # axes are in mm, so voxels keep their shape


def test_mask_on_another_grid_is_drawn_where_it_lies(case_files, tmp_path):
    fine = sitk.Resample(
        lps_image(label_map()), (90, 70, 30), sitk.Transform(), sitk.sitkNearestNeighbor, (-20.0, 12.0, 5.0),
        (0.5, 0.5, 1.5), TURN.GetMatrix(),
    )  # fmt: skip
    image = to_canonical(read_image(write(tmp_path, "fine", fine)))
    placed = on_grid(image, lps_image(label_map()), interpolation="nearest")
    drawn = sitk.GetArrayFromImage(placed)
    for value in (1, 2):
        truth = np.argwhere(label_map() == value).mean(axis=0)
        assert np.abs(np.argwhere(drawn == value).mean(axis=0) - truth).max() < 0.6


def test_import_leaves_pyplot_and_its_backend_alone():
    code = (
        "import sys, nnunet_ext.pictures.case_figure; print('matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def test_comparison_draws_each_experiments_prediction_in_its_column():
    reference = label_map()
    predictions = {"ours": reference, "theirs": np.where(reference == 3, 0, reference), "none": None}
    scores = {"ours": {"Lens_L": 100.0, "Lens_R": 100.0, "OpticChiasm": 100.0}, "theirs": {"OpticChiasm": 0.0}}
    volume = np.random.default_rng(0).normal(40, 60, SHAPE)
    figure = draw_comparison(
        "case_1", lps_image(reference), "CT", volume, reference, predictions, labels=LABELS, scores=scores
    )
    columns = {axes.get_title(): number for number, axes in enumerate(figure.axes) if axes.get_title() in predictions}
    assert list(columns) == ["ours", "theirs", "none"]
    per_row = 1 + len(predictions)
    chiasm_row = {name: figure.axes[per_row + number] for name, number in columns.items()}
    texts = {name: [text.get_text() for text in axes.texts] for name, axes in chiasm_row.items()}
    assert "OpticChiasm  DSC 100.0" in texts["ours"]
    assert "OpticChiasm  missed" in texts["theirs"]
    assert "no prediction" in texts["none"]
    # The reference's contour in each, the prediction's where there is one; all show the same place.
    assert [len(axes.collections) for axes in chiasm_row.values()] == [2, 1, 1]
    assert len({axes.get_xlim() for axes in chiasm_row.values()}) == 1
