"""A case as a folder of images, with one label map or a mask per organ.

A case folder holds one image per channel (`CT.nii.gz`, `patient7_T1.nrrd`). For training it also holds one label map
(`label.nii.gz`, values in the order of the label table) or one mask per organ (`Lens_L.nii.gz`). Masks lie beside the
images or in `masks/` or `structures/`. `cases/label_files.py` knows other names of label maps.

Several files may hold the parts of one organ and are united. Two files of the whole organ are refused.
`cases/organ_masks.py` settles overlaps. Files that the label table does not know are left out and listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import SimpleITK as sitk

from nnunet_ext.cases.case import DrawnLabels, ReadImages
from nnunet_ext.cases.label_files import (
    SLICER_ENDING,
    label_stem,
    read_segments,
    read_slicer_labels,
    without_label_words,
)
from nnunet_ext.cases.organ_masks import merge_masks, unite_parts, voxels_per_organ
from nnunet_ext.images.file_names import MODALITY_ALIASES, image_files, image_stem
from nnunet_ext.images.geometry import grid_difference, orientation_code, place_in, same_grid, to_canonical
from nnunet_ext.images.label_maps import label_map_of, shown_values, whole_labels
from nnunet_ext.images.notes import collected_notes
from nnunet_ext.images.reading import read_image
from nnunet_ext.images.source_files import OTHER_IMAGES, FileCount
from nnunet_ext.labels.table import LabelTable
from nnunet_ext.messages import Message

LABEL_MAP_NAMES = ("label", "labels", "seg", "segmentation", "labelmap")


@dataclass(frozen=True)
class FolderCase:
    """One case folder.

    `label_files` maps an organ to its mask files, or None to one label map. Empty without labels.
    """

    folder: Path
    identifier: str
    test: bool
    images: dict[str, Path]
    label_files: dict[str | None, list[Path]]
    ignored: list[str]
    notes: tuple[Message, ...] = ()
    files: FileCount = field(default_factory=FileCount)
    as_trained: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def has_labels(self) -> bool:
        return bool(self.label_files)

    def inputs(self) -> dict[str, Path]:
        paths = [*self.images.values(), *(path for paths in self.label_files.values() for path in paths)]
        return {path.relative_to(self.folder).as_posix(): path for path in sorted(_files_of(paths))}

    def used_files(self) -> tuple[set[Path], set[Path]]:
        """Files of the channels, files of the labels."""
        labels = [path for paths in self.label_files.values() for path in paths]
        return _files_of(self.images.values()), _files_of(labels)

    def roles(self) -> dict:
        return {
            "images": {modality: path.name for modality, path in self.images.items()},
            "labels": {str(organ): [path.name for path in paths] for organ, paths in self.label_files.items()},
        }

    def read_images(self) -> ReadImages:
        warnings: list[Message] = []
        with collected_notes(warnings):
            images = {modality: read_image(path) for modality, path in self.images.items()}
        sources = {modality: path.relative_to(self.folder).as_posix() for modality, path in self.images.items()}
        return ReadImages(images, sources, warnings)  # NIfTI, NRRD and MetaImage have no word for a frame of reference

    def read_labels(self, images: Mapping[str, sitk.Image], table: LabelTable) -> DrawnLabels:
        warnings: list[Message] = []
        with collected_notes(warnings):
            label_map, voxels = self._read_labels(images, table, warnings)
        return DrawnLabels(label_map, voxels, warnings)

    def _read_labels(
        self, images: Mapping[str, sitk.Image], table: LabelTable, warnings: list[Message]
    ) -> tuple[sitk.Image, dict[str, int]]:
        if None not in self.label_files:
            return merged_masks(self, table, warnings)
        path = self.label_files[None][0]
        stem = image_stem(path)
        assert stem is not None  # of a file that was found by its ending
        segments = is_slicer(path) and read_segments(path)
        labels, counts = read_slicer_labels(path, table, warnings) if segments else label_map_of_case(self, table)
        drawn = [organ for organ, voxels in counts.items() if voxels]
        if not segments and stem.lower() not in LABEL_MAP_NAMES and len(drawn) == 1 < len(table.names):
            raise ValueError(
                f"{path.name} holds one value, that of {drawn[0]}, so it could be the mask of anything; name it "
                f"{drawn[0]}{path.name[len(stem) :]}, or label{path.name[len(stem) :]}"
            )
        if not is_slicer(path):
            return labels, counts
        # 3D Slicer writes only the part of the grid that holds segments.
        placed = (place_in(to_canonical(labels), to_canonical(image)) for image in images.values())
        return next((whole for whole in placed if whole is not None), labels), counts

    def describe(self, table: LabelTable) -> list[str]:
        lines = [f"{modality} <- {path.name}" for modality, path in self.images.items()]
        for organ, paths in self.label_files.items():
            lines.append(f"{organ or 'labels'} <- {' + '.join(path.name for path in paths)}")
        if self.label_files and None not in self.label_files:
            lacking = [organ for organ in table.names if organ not in self.label_files]
            lines += [f"no mask of {', '.join(lacking)}"] if lacking else []
        lines += [f"left over: {', '.join(self.ignored)}"] if self.ignored else []
        # The images are named above.
        others = [reason for reason in self.files.reasons() if OTHER_IMAGES not in reason]
        return lines + ([f"also left over: {', '.join(others)}"] if others else [])

    def public(self, text: str) -> str:
        return text


def _files_of(paths: Iterable[Path]) -> set[Path]:
    return {file for path in paths for file in image_files(path)}


def is_slicer(path: Path) -> bool:
    """Whether a file is a segmentation of 3D Slicer, by its ending."""
    return path.name.lower().endswith(SLICER_ENDING)


def names_of_case(folder: Path, images: Iterable[Path]) -> list[str]:
    """Names of the case, its images and the channels, which do not tell labels from images."""
    channels = [name for names in MODALITY_ALIASES.values() for name in names]
    return [folder.name, "MR", "MRI", *channels, *(image_stem(path) or "" for path in images)]


def drawn_name(path: Path, table: LabelTable, known: Sequence[str]) -> str:
    """Name of an organ in a mask's file name, without the words that only say that it is a mask."""
    stem = label_stem(path) or ""
    return stem if table.organ(stem) else without_label_words(stem, known) or stem


def label_map_of_case(case: FolderCase, table: LabelTable) -> tuple[sitk.Image, dict[str, int]]:
    """The one label map of a case, in the values of the label table."""
    path = case.label_files[None][0]
    image, odd = label_map_of(read_image(path))
    values = np.unique(sitk.GetArrayViewFromImage(image)).tolist()
    if not any(values) and not odd:
        raise ValueError(
            f"{path.name} is an empty label map: every voxel is 0; leave it out, or export the labels again"
        )
    known = {0, *table.values.values()}
    if wrong := [*odd, *(value for value in values if value not in known)]:
        raise ValueError(
            f"label value {shown_values(wrong)} in {path.name} is not in the label table "
            f"({', '.join(f'{v} {organ}' for organ, v in table.values.items())}); pass a table with --labels"
        )
    image = sitk.Cast(image, sitk.sitkUInt16)
    return image, voxels_per_organ(sitk.GetArrayViewFromImage(image), table)


def merged_masks(case: FolderCase, table: LabelTable, warnings: list[Message]) -> tuple[sitk.Image, dict[str, int]]:
    """One label map from one mask per organ. `organ_masks` settles overlaps."""
    grid, first = None, ""
    masks: dict[str, np.ndarray] = {}
    for organ in table.names:
        drawn: dict[str, np.ndarray] = {}
        for path in case.label_files.get(organ, ()):
            image = read_image(path)
            if grid is None:
                grid, first = image, path.name
            elif not same_grid(image, grid):
                image = to_canonical(image)
                if not same_grid(image, to_canonical(grid)):
                    raise ValueError(
                        f"masks {path.name} and {first} lie on different grids: {grid_difference(image, to_canonical(grid))}"
                    )
                image = sitk.DICOMOrient(image, orientation_code(grid))
            array = sitk.GetArrayViewFromImage(image)
            values = np.unique(array)
            if values.size > 2:  # what scaling and resampling left of whole numbers
                array, odd = whole_labels(array)
                values = values if odd else np.unique(array)
            if values.size > 2 or (values.size == 2 and values[0] != 0):
                raise ValueError(f"mask {path.name} of {organ} holds {values.size} values, {shown_values(values.tolist())}; "
                                 "a mask has 0 and one other")  # fmt: skip
            name = drawn_name(path, table, names_of_case(case.folder, case.images.values()))
            drawn[name] = drawn.get(name, np.zeros(array.shape, dtype=bool)) | (array != 0)
        if drawn:
            masks[organ] = unite_parts(organ, drawn, table)
    assert grid is not None  # there are masks, each of an organ of the table
    return merge_masks(masks, grid, table, warnings)
