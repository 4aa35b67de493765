"""Prediction against reference in 3D: the volume in both, the missed and the extra volume.

The volume in both is a solid. The missed and the extra volume are coloured, translucent shells around it. World axes are
LPS, in mm. Seen from the front and from below, the patient's right is on the picture's left, as on axial slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from scipy import ndimage
from skimage.measure import marching_cubes

from nnunet_ext.labels.colours import colours
from nnunet_ext.labels.pairs import pair_names
from nnunet_ext.labels.values import organ_values

if TYPE_CHECKING:
    from mpl_toolkits.mplot3d import Axes3D

BOTH, MISSED, EXTRA = "in both", "missed", "extra"
MEANS = {BOTH: "", MISSED: " (reference only)", EXTRA: " (prediction only)"}
#: Told apart also by readers who can't tell red from green.
COLOURS = {BOTH: "#d8d2c4", MISSED: "#f0334b", EXTRA: "#2f8cff"}
SHELL_ALPHA = 0.62
#: View -> elevation and azimuth of the camera in degrees, as matplotlib counts them for axes to L, P and S.
VIEWS = {"from the front": (0, -90), "from the left, above": (28, -28), "from below": (-90, -90)}
#: Letters at the left, right, top and bottom edge, if the view is along an axis.
LETTERS = {"from the front": "RLSI", "from below": "RLAP"}
#: Views of single organs, below each other.
ORGAN_VIEWS = ("from the front", "from below")
#: Single organs side by side, and the size of their panels in inches.
COLUMNS, PANEL_IN = 7, 2.3
#: The mesh of a single organ has voxels of this share of its length, but not below this size.
ORGAN_MESH_SHARE, FINEST_MESH_MM = 1 / 25, 0.4
NOTHING = "neither reference nor prediction holds an organ, so there is nothing to draw."
#: Meshes are made on voxels of at most this size, in mm, smoothed by about half an original voxel.
MESH_MM = 0.9
#: What is longer is noise of a network that has learned little, or no small organ. Its mesh has the voxels of the image:
#: on finer ones its triangles take minutes to draw.
LONGEST_FINE_MM = 120.0
BACKGROUND = "#14161a"
#: Towards the light and towards a weaker one, in camera axes (right, up, to the viewer).
KEY_LIGHT, FILL_LIGHT = (-0.45, 0.65, 0.62), (0.7, -0.2, 0.5)


def draw_surfaces(
    title: str,
    spacing_mm: Sequence[float],
    reference: np.ndarray,
    prediction: np.ndarray,
    *,
    labels: Mapping[str, int],
) -> Figure:
    """All organs of one case from three sides, on one scale.

    Args:
        title: Above the picture.
        spacing_mm: Voxel size along `(Z, Y, X)`.
        reference: Label map on an LPS grid, shape `(Z, Y, X)`.
        prediction: The same for the prediction.
        labels: Organ -> label value.

    Raises:
        ValueError: If neither label map holds an organ.
    """
    figure = Figure(figsize=(15.0, 5.9), dpi=150, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    scene = _scene(spacing_mm, reference, prediction, labels)
    for number, name in enumerate(VIEWS):
        _draw_view(figure, (number / 3 + 0.004, 0.09, 0.325, 0.78), scene, name)
        figure.text(number / 3 + 0.165, 0.885, name, color="white", fontsize=12, ha="center", va="bottom")
        places = [(0.006, 0.48), (0.322, 0.48), (0.165, 0.845), (0.165, 0.095)]
        for letter, (x, y) in zip(LETTERS.get(name, ""), places, strict=False):
            figure.text(number / 3 + x, y, letter, color="white", fontsize=12, fontweight="bold", ha="center")
    figure.text(0.008, 0.985, title, color="white", fontsize=15, ha="left", va="top")
    _draw_legend(figure, _volumes(spacing_mm, reference, prediction))
    return figure


def draw_organ_surfaces(
    title: str,
    spacing_mm: Sequence[float],
    reference: np.ndarray,
    prediction: np.ndarray,
    *,
    labels: Mapping[str, int],
    scores: Mapping[str, float] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> Figure:
    """Every organ of one case on its own, each on a scale that fills its panel, from the front and from below.

    So a lens is as large as an eye, and is not hidden in it. Right organs stand left of left ones, as on slices.

    Args:
        title: Above the picture.
        spacing_mm, reference, prediction, labels: As for `draw_surfaces`.
        scores: Organ -> DSC in percent, printed above it.
        pairs: Left and right organs. None finds them by name.

    Raises:
        ValueError: If neither label map holds an organ.
    """
    values, colour, scores = organ_values(labels), colours(labels), scores or {}
    masks = {organ: (np.isin(reference, v), np.isin(prediction, v)) for organ, v in values.items()}
    shown = [organ for organ in _right_first(values, pairs) if masks[organ][0].any() or masks[organ][1].any()]
    if not shown:
        raise ValueError(NOTHING)
    n_columns = min(len(shown), COLUMNS)
    n_blocks = -(-len(shown) // n_columns)
    head_in, foot_in, name_in, view_in, left_in, scale_in = 0.55, 0.5, 0.8, PANEL_IN, 0.45, 0.25
    block_in = name_in + len(ORGAN_VIEWS) * view_in + scale_in
    width_in, height_in = left_in + n_columns * view_in, head_in + n_blocks * block_in + foot_in
    figure = Figure(figsize=(width_in, height_in), dpi=120, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    for place, organ in enumerate(shown):
        block, column = divmod(place, n_columns)
        left, top_in = (left_in + column * view_in) / width_in, height_in - head_in - block * block_in
        dsc = scores.get(organ, float("nan"))
        name = organ if np.isnan(dsc) else f"{organ}  DSC {dsc:.1f}"
        middle = left + 0.5 * view_in / width_in
        figure.text(middle, (top_in - 0.1) / height_in, name, color=colour[organ], fontsize=12, ha="center", va="top")
        amounts = _amounts(spacing_mm, *masks[organ])
        figure.text(middle, (top_in - 0.36) / height_in, amounts, color="white", fontsize=8.5, ha="center", va="top")
        scene = _scene(
            spacing_mm, reference, prediction, {organ: labels[organ]}, mesh_mm=_fine_mm(spacing_mm, *masks[organ])
        )
        seen_mm = _seen_mm(scene[0], ORGAN_VIEWS) / 0.9  # room for the letters
        for row, view in enumerate(ORGAN_VIEWS):
            bottom_in = top_in - name_in - (row + 1) * view_in
            rectangle = (left, bottom_in / height_in, view_in / width_in, view_in / height_in)
            _draw_view(figure, rectangle, scene, view, seen_mm=seen_mm)
            _draw_letters(figure, rectangle, LETTERS[view])
            if row == len(ORGAN_VIEWS) - 1:
                _draw_scale(figure, rectangle, seen_mm)
    for block in range(n_blocks):
        for row, view in enumerate(ORGAN_VIEWS):
            middle_in = height_in - head_in - block * block_in - name_in - (row + 0.5) * view_in
            options: dict[str, Any] = {"color": "white", "fontsize": 11, "rotation": 90, "ha": "center", "va": "center"}
            figure.text(0.12 / width_in, middle_in / height_in, view, **options)
    figure.text(0.1 / width_in, 1 - 0.1 / height_in, title, color="white", fontsize=15, ha="left", va="top")
    _draw_legend(figure, [(part, f"{part}{MEANS[part]}") for part in (BOTH, MISSED, EXTRA)])
    return figure


def _fine_mm(spacing_mm: Sequence[float], reference: np.ndarray, prediction: np.ndarray) -> float:
    """Voxel size of the mesh of one organ, so that a lens is as smooth as an eye."""
    (box,) = ndimage.find_objects((reference | prediction).astype(np.uint8))
    length_mm = max((s.stop - s.start) * mm for s, mm in zip(box, spacing_mm, strict=True))
    return float(np.clip(ORGAN_MESH_SHARE * length_mm, FINEST_MESH_MM, MESH_MM))


def _right_first(organs: Iterable[str], pairs: Sequence[tuple[str, str]] | None) -> list[str]:
    """Organs in label order, but for pairs, which come together, the right one first."""
    organs = list(organs)
    pairs = pair_names(organs).pairs if pairs is None else pairs
    partners = {organ: (right, left) for left, right in pairs for organ in (left, right)}
    return list(dict.fromkeys(o for organ in organs for o in partners.get(organ, (organ,)) if o in organs))


def _draw_view(
    figure: Figure,
    rectangle: tuple[float, float, float, float],
    scene: tuple[np.ndarray, np.ndarray, np.ndarray],
    view: str,
    *,
    seen_mm: float | None = None,
) -> None:
    """A scene from one side. `seen_mm` is what the smaller side of the place spans, None to fit all of `VIEWS`."""
    vertices, normals, face_colours = scene
    low, high = vertices.min(axis=(0, 1)), vertices.max(axis=(0, 1))
    # matplotlib shows the diagonal of the box in an axes' height at zoom 1.
    zoom = float(np.linalg.norm(high - low)) / (_seen_mm(vertices, VIEWS) if seen_mm is None else seen_mm)
    axes: Axes3D = figure.add_axes(rectangle, projection="3d", computed_zorder=False)
    axes.set_proj_type("ortho")
    axes.view_init(*VIEWS[view])
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]), facecolor=BACKGROUND)
    axes.set_box_aspect(high - low, zoom=zoom)
    axes.set_axis_off()
    shaded = face_colours.copy()
    shaded[:, :3] = _shade(face_colours[:, :3], normals, *VIEWS[view])
    # Without antialiasing: it would draw the seams of all triangles.
    mesh = Poly3DCollection(vertices, facecolors=shaded, edgecolors="none", antialiased=False, rasterized=True)
    axes.add_collection3d(mesh)
    mesh.set_clip_on(False)  # an oblique view need not be centred


def _seen_mm(vertices: np.ndarray, views: Iterable[str]) -> float:
    """What a panel has to span so that a scene fits from all these sides, with a margin."""
    points = vertices.reshape(-1, 3)
    return max(float(np.ptp(points @ _camera(*VIEWS[view])[:2].T, axis=0).max()) for view in views) / 0.9


def _draw_letters(figure: Figure, rectangle: tuple[float, float, float, float], letters: str) -> None:
    left, bottom, width, height = rectangle
    places = [(0.04, 0.5), (0.96, 0.5), (0.5, 0.95), (0.5, 0.05)]
    for letter, (x, y) in zip(letters, places, strict=True):
        options: dict[str, Any] = {"color": "#9aa0a6", "fontsize": 9, "ha": "center", "va": "center"}
        figure.text(left + x * width, bottom + y * height, letter, **options)


def _draw_scale(figure: Figure, rectangle: tuple[float, float, float, float], seen_mm: float) -> None:
    """A bar of a round length below a panel, up to a third of its width."""
    left, bottom, width, height = rectangle
    bar_mm = max(mm for mm in (0.5, 1, 2, 5, 10, 20, 50, 100) if mm <= max(seen_mm / 3, 0.5))
    start, y = left + 0.06 * width, bottom - 0.08 * height
    end = start + bar_mm / seen_mm * width
    figure.add_artist(Line2D([start, end], [y, y], color="white", linewidth=2.5, solid_capstyle="butt"))
    figure.text(start, y + 0.02 * height, f"{bar_mm:g} mm", color="white", fontsize=8.5, ha="left", va="bottom")


def _draw_legend(figure: Figure, parts: Sequence[tuple[str, str]]) -> None:
    handles = [Patch(facecolor=COLOURS[part], label=text) for part, text in parts]
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, labelcolor="white", fontsize=12)


def _amounts(spacing_mm: Sequence[float], reference: np.ndarray, prediction: np.ndarray) -> str:
    """Volumes of the three parts of one organ, in words."""
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    parts = {name: np.count_nonzero(mask) * voxel_ml for name, mask in parts_of(reference, prediction).items()}
    return f"{parts[BOTH]:.2f} mL in both\n{parts[MISSED]:.2f} missed, {parts[EXTRA]:.2f} extra"


def parts_of(reference: np.ndarray, prediction: np.ndarray) -> dict[str, np.ndarray]:
    """In both, missed (reference only) and extra (prediction only) of two bool masks."""
    return {BOTH: reference & prediction, MISSED: reference & ~prediction, EXTRA: prediction & ~reference}


def _volumes(spacing_mm: Sequence[float], reference: np.ndarray, prediction: np.ndarray) -> list[tuple[str, str]]:
    """Part -> its volume in words. Organs are counted apart, so a voxel with the wrong organ is missed and extra."""
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    right = int(np.count_nonzero((reference == prediction) & (reference > 0)))
    counts = {BOTH: right, MISSED: int((reference > 0).sum()) - right, EXTRA: int((prediction > 0).sum()) - right}
    return [(part, f"{part}{MEANS[part]}: {voxels * voxel_ml:.2f} mL") for part, voxels in counts.items()]


def _scene(
    spacing_mm: Sequence[float],
    reference: np.ndarray,
    prediction: np.ndarray,
    labels: Mapping[str, int],
    *,
    mesh_mm: float = MESH_MM,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triangles `(N, 3, 3)` as points `(x, y, z)` in mm, their normals `(N, 3)` and colours `(N, 4)`, of all organs."""
    meshes = []
    for values in organ_values(labels).values():
        masks = np.isin(reference, values), np.isin(prediction, values)
        found = ndimage.find_objects((masks[0] | masks[1]).astype(np.uint8))
        if not found:
            continue
        box = tuple(slice(max(s.start - 2, 0), s.stop + 2) for s in found[0])
        offset_mm = [s.start * mm for s, mm in zip(box, spacing_mm, strict=True)]
        meshes += _organ(masks[0][box], masks[1][box], spacing_mm, offset_mm, mesh_mm)
    if not meshes:
        raise ValueError(NOTHING)
    triangles, normals, face_colours = (np.concatenate(arrays) for arrays in zip(*meshes, strict=True))
    return triangles, normals, face_colours


def _organ(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: Sequence[float],
    offset_mm: Sequence[float],
    mesh_mm: float,
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The solid in both, and the faces of the joint surface that belong to one of them only."""
    meshes = []
    parts = parts_of(reference, prediction)
    if (mesh := _mesh(parts[BOTH], spacing_mm, mesh_mm)) is not None:
        triangles, normals = mesh
        colour = np.tile((*to_rgb(COLOURS[BOTH]), 1.0), (len(triangles), 1))
        meshes.append((_to_xyz(triangles, offset_mm), normals[:, ::-1], colour))
    if (mesh := _mesh(reference | prediction, spacing_mm, mesh_mm)) is not None:
        triangles, normals = mesh
        # The part a face belongs to: that of the voxel just inside it.
        inside = np.round((triangles.mean(axis=1) - 0.3 * min(spacing_mm) * normals) / spacing_mm).astype(int)
        inside = tuple(np.clip(inside, 0, np.subtract(reference.shape, 1)).T)
        nearest = ndimage.distance_transform_edt(~(reference | prediction), return_distances=False, return_indices=True)
        inside = tuple(nearest[axis][inside] for axis in range(3))
        for part in (MISSED, EXTRA):
            chosen = parts[part][inside]
            colour = np.tile((*to_rgb(COLOURS[part]), SHELL_ALPHA), (int(chosen.sum()), 1))
            meshes.append((_to_xyz(triangles[chosen], offset_mm), normals[chosen][:, ::-1], colour))
    return meshes


def _mesh(mask: np.ndarray, spacing_mm: Sequence[float], mesh_mm: float) -> tuple[np.ndarray, np.ndarray] | None:
    """Triangles `(N, 3, 3)` in mm along `(Z, Y, X)` from the first voxel's centre, and outward unit normals `(N, 3)`."""
    if not mask.any():
        return None
    is_long = max(n * mm for n, mm in zip(mask.shape, spacing_mm, strict=True)) > LONGEST_FINE_MM
    factors = [1 if is_long else max(1, int(np.ceil(mm / mesh_mm))) for mm in spacing_mm]
    pad = 3
    field = ndimage.zoom(np.pad(mask, pad).astype(np.float32), factors, order=1, grid_mode=True, mode="grid-constant")
    smooth = ndimage.gaussian_filter(field, [0.5 * f for f in factors])
    # A structure of a voxel or two must not be smoothed away, so it is meshed at half of its own peak.
    level = min(0.5, 0.5 * float(smooth.max()))
    fine_mm = np.divide(spacing_mm, factors)
    points, faces, normals, _ = marching_cubes(smooth, level, spacing=tuple(fine_mm))
    # Index 0 of the fine grid lies (factor - 1) / 2 fine voxels before the first coarse centre.
    points = points - fine_mm * [(f - 1) / 2 for f in factors] - np.multiply(pad, spacing_mm)
    face_normals = normals[faces].mean(axis=1)
    length = np.linalg.norm(face_normals, axis=1, keepdims=True)
    return points[faces], face_normals / np.where(length > 0, length, 1)


def _to_xyz(triangles: np.ndarray, offset_mm: Sequence[float]) -> np.ndarray:
    return (triangles + np.asarray(offset_mm))[..., ::-1]


def _camera(elevation: float, azimuth: float) -> np.ndarray:
    """Unit vectors to the right, up and to the viewer, as rows, of a camera as matplotlib places it."""
    e, a = np.radians([elevation, azimuth])
    towards = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    right = np.array([-np.sin(a), np.cos(a), 0.0])
    return np.stack([right, np.cross(towards, right), towards])


def _shade(rgb: np.ndarray, normals: np.ndarray, elevation: float, azimuth: float) -> np.ndarray:
    """RGB `(N, 3)` lit for a camera by ambient light, two lamps and a soft highlight."""
    seen = normals @ _camera(elevation, azimuth).T
    seen = np.where(seen[:, 2:] < 0, -seen, seen)  # both sides of a shell are lit
    key, fill = (np.clip(seen @ (np.asarray(lamp) / np.linalg.norm(lamp)), 0, 1) for lamp in (KEY_LIGHT, FILL_LIGHT))
    highlight = 0.22 * key**24
    return np.clip(rgb * (0.26 + 0.66 * key + 0.2 * fill)[:, None] + highlight[:, None], 0, 1)
