"""RTSTRUCT that a planning system files with the patient and opens beside the CT.

Contours run along the edges of the voxels, or on request within half a voxel of them without their steps. Either way
`rasterise` gives the mask back voxel by voxel. Each lies in the plane of one
image, as planning systems expect, also for a tilted gantry, whose images are parallel. A hole is cut by a keyhole, one
contour that runs inwards and back along one line (PS3.3 C.8.8.6.3). Some planning systems unite contours within contours
and some subtract them. A keyhole is the same for both.

Written as Implicit VR Little Endian, in which a contour may have more than the 65,534 bytes of an explicit length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from nnunet_ext.dicom.model import Series, Slice
from nnunet_ext.dicom.rtstruct_headers import structure_set
from nnunet_ext.dicom.series import find_series
from nnunet_ext.dicom.stack import series_grid
from nnunet_ext.dicom.text import tolerant_dicom
from nnunet_ext.dicom.tracing import trace_mask
from nnunet_ext.files import check_folder, check_output_file, read_json, written_whole
from nnunet_ext.images.file_names import image_stem
from nnunet_ext.images.geometry import back_to_grid, grid_difference, orientation_code, same_grid
from nnunet_ext.images.label_maps import label_map_of, read_label_map, shown_values
from nnunet_ext.labels.table import load_label_table
from nnunet_ext.messages import Message
from nnunet_ext.nnunet_folders import PREDICTIONS_REMEDY, need, read_dataset_json


def rtstruct(
    mask: Path,
    ct_series: Path,
    out: Path,
    *,
    labels_file: Path | None = None,
    dataset_json: Path | None = None,
    smooth_contours: bool = False,
    notes: list[Message] | None = None,
) -> list[str]:
    """Write the organs of a label map file as RTSTRUCT of the CT series they were contoured on.

    Args:
        mask: Label map on the grid of the series, in any orientation.
        ct_series: Folder with the series, at any depth. Of several CTs, the one on whose grid the mask lies is taken.
        out: File to write.
        labels_file: Label table, see `labels.load_label_table`.
        dataset_json: `dataset.json` with the labels. Without either, the one beside the mask, or one folder above.
        smooth_contours, notes: See `write_rtstruct`.

    Returns:
        Organs without a voxel. They are in the structure set, without contours.

    Raises:
        FileNotFoundError: If a file or folder is not there.
        ValueError: If no series, or more than one, has the mask's grid, or a label has no name.
    """
    from nnunet_ext.labels.values import organ_values
    from nnunet_ext.nnunet_folders import labels_from_dataset_json, organs_not_segmented

    mask = Path(mask)
    check_output_file(out, f"{image_stem(mask) or mask.stem}.dcm")
    label_map = read_label_map(mask)
    if labels_file is not None:
        labels: Mapping = load_label_table(labels_file).values
    elif dataset_json is not None:
        labels = need(read_dataset_json(dataset_json), "labels", dataset_json)
    else:
        labels = labels_from_dataset_json(mask.parent, mask.parent)
        left_out = organs_not_segmented(mask.parent, organ_values(labels))
        labels = {organ: value for organ, value in labels.items() if organ not in left_out}
    manifest = mask.parent / "predictions.json"
    model = ""
    if manifest.is_file():
        made_by = read_json(manifest, {"models?": [str], "model?": str}, remedy=PREDICTIONS_REMEDY)
        model = made_by.get("model", ", ".join(made_by.get("models", [])[-1:]))
    series = _series_of(label_map, Path(ct_series))
    return write_rtstruct(
        label_map, series, out, labels=labels, model=model, smooth_contours=smooth_contours, notes=notes
    )


def _series_of(label_map: sitk.Image, folder: Path) -> Series:
    """The one CT on whose grid a label map lies, or the one other image series if there is no CT."""
    if folder.is_file():
        raise NotADirectoryError(
            f"CT series {folder} is a single file; name the folder that holds all images of the series, {folder.parent}"
        )
    check_folder(folder, "folder of the CT series")
    found = find_series(folder).images
    candidates = [one for one in found if one.modality == "CT"] or found
    refused, fitting = [], []
    for one in candidates:
        try:
            _on_grid(label_map, series_grid(one)[0])
            fitting.append(one)
        except ValueError as error:
            refused.append(f"{one.label}: {error}")
    if not fitting:
        raise ValueError(
            f"no image series in {folder} is the one that was contoured. " + ("; ".join(refused) or "There is none")
        )
    if len(fitting) > 1:
        raise ValueError(
            f"{len(fitting)} series in {folder} have the mask's grid: {'; '.join(one.label for one in fitting)}. Give a "
            "folder with the one that was contoured"
        )
    return fitting[0]


def write_rtstruct(
    label_map: sitk.Image,
    series: Series,
    out: Path,
    *,
    labels: Mapping[str, int],
    model: str = "",
    smooth_contours: bool = False,
    notes: list[Message] | None = None,
) -> list[str]:
    """Write the organs of a label map as RTSTRUCT of the series they were contoured on.

    Args:
        label_map: On the grid of the series (`dicom.stack.series_grid`), its axes in any order and direction.
        series: The CT, from `dicom.series.find_series`.
        out: File to write, replaced only when complete.
        labels: Organ -> label value, as in `dataset.json`, without the organs that the model leaves out. Their order
            gives the organs' numbers and colours, which are those of `labels.colours`.
        model: Name of the model that drew the contours. Its first 64 characters go into the description of every organ,
            all of it into that of the structure set.
        smooth_contours: Round the steps of the voxels off, within half a voxel and at the same area. The mask that
            `rasterise` makes of the contours stays the same.
        notes: Takes one message for everything of the CT's header that is left out.

    Returns:
        Organs without a voxel. They are in the structure set as organs without contours, and named in its description.

    Raises:
        ValueError: If the label map lies on another grid (the message names both), holds no organ, or holds a value
            that `labels` does not know. Also if an organ lies between the images of a series with uneven gaps, or the
            series names no study or frame of reference.
        OSError: If a file cannot be read or written.
    """
    from nnunet_ext.labels.values import organ_values

    organs = organ_values(labels)
    grid, planes = series_grid(series)
    label_map, odd = label_map_of(label_map)
    array = sitk.GetArrayFromImage(_on_grid(label_map, grid))
    box = next(iter(ndimage.find_objects((array != 0).astype(np.uint8))), None)
    if box is None:
        raise ValueError(f"the label map is empty, none of {', '.join(organs)} has a voxel: there is nothing to draw")
    array, grid, planes = array[box], grid[box[::-1]], planes[box[0]]
    known = {0, *(value for values in organs.values() for value in values)}
    if unknown := [*odd, *(value for value in np.unique(array).tolist() if value not in known)]:
        raise ValueError(
            f"the label map holds the value {shown_values(unknown)}, which is none of the labels {dict(labels)}"
        )
    contours = {
        organ: _contours(organ, np.isin(array, values), grid, planes, smooth=smooth_contours)
        for organ, values in organs.items()
    }
    empty = [organ for organ, polygons in contours.items() if not polygons]
    write_contours(contours, series, out, labels=labels, model=model, notes=notes)
    return empty


def _on_grid(label_map: sitk.Image, grid: sitk.Image) -> sitk.Image:
    turned = sitk.DICOMOrient(label_map, orientation_code(grid))
    if not same_grid(turned, grid):
        raise ValueError(f"the mask lies on another grid than the series: {grid_difference(label_map, grid)}")
    return back_to_grid(turned, grid)


def _contours(
    organ: str, mask: np.ndarray, grid: sitk.Image, planes: Sequence[Slice | None], *, smooth: bool
) -> list[np.ndarray]:
    """Polygons `(N, 3)` in mm, LPS, each in the plane of its image to the last digit of the image's own position."""
    between = [k for k in np.flatnonzero(mask.any(axis=(1, 2))).tolist() if planes[k] is None]
    if between:
        raise ValueError(
            f"{organ} lies on {len(between)} planes between the images: the gaps of the series are uneven, and the mask "
            "is on the straight grid it was interpolated to. A planning system shows contours on images only; "
            "reconstruct the series with even gaps and contour that"
        )
    normal = np.reshape(grid.GetDirection(), (3, 3))[:, 2]
    polygons = []
    for points in trace_mask(mask, grid, smooth=smooth):
        plane = planes[round(grid.TransformPhysicalPointToContinuousIndex(points[0].tolist())[2])]
        polygons.append(points + ((np.asarray(plane.position_mm) - points[0]) @ normal) * normal)
    return polygons


def write_contours(
    contours: Mapping[str, Sequence[np.ndarray]],
    series: Series,
    out: Path,
    *,
    labels: Mapping[str, int] | None = None,
    model: str = "",
    headers: Mapping[str, object] | None = None,
    notes: list[Message] | None = None,
) -> None:
    """Write closed planar contours as RTSTRUCT of a series.

    Args:
        contours: Organ -> polygons `(N, 3)` in mm, LPS, each in the plane of one image. None for an empty organ.
        series: From `dicom.series.find_series`.
        out: File to write, replaced only when complete.
        labels: All organs in label order, for the colours. None for those of `contours`.
        model: See `write_rtstruct`.
        headers: More elements by keyword. They win over ours.
        notes: See `write_rtstruct`.

    Raises:
        ValueError: As `write_rtstruct`, and if a name is no name of a structure.
        OSError: If a file cannot be read or written.
    """
    import pydicom

    out = Path(out)
    with tolerant_dicom():
        image = pydicom.dcmread(series.paths[0], stop_before_pixels=True, force=True)
        dataset = structure_set(contours, series, image, labels, model, [] if notes is None else notes)
        for keyword, value in (headers or {}).items():
            setattr(dataset, keyword, value)
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        out.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(out) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
