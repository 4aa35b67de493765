"""RTSTRUCT files, read region by region.

A problem of one region is kept with it, and the others are read.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_ext.dicom.structure_set import CLOSED, CONTOUR_KINDS, Contour, References, Roi, StructureSet
from nnunet_ext.dicom.text import element_text, stated_charsets, tolerant_dicom

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: Errors of pydicom for a value that is missing, or that is no sequence although one is due.
DAMAGE = (TypeError, AttributeError, LookupError, OSError, EOFError, NotImplementedError, OverflowError, struct.error)
_UNDEFINED_LENGTH = 0xFFFFFFFF


class _Malformed(ValueError):
    """A fault in words of ours, without a header value."""


def read_rtstruct(path: Path) -> StructureSet:
    """Regions of an RTSTRUCT, in file order. Regions without contours are there too.

    Raises:
        ValueError: If the file is no RTSTRUCT, is cut off, or has no regions. A fault of one region is its `problem`.
            No message holds a header value.
    """
    import pydicom

    with tolerant_dicom():
        try:
            dataset = pydicom.dcmread(path, force=True)
        except Exception as error:
            raise ValueError(f"the RTSTRUCT cannot be read ({type(error).__name__}); export it again") from None
        if _is_cut_off(dataset):
            raise ValueError("the RTSTRUCT is cut off; export it again")
        if "StructureSetROISequence" not in dataset:
            raise ValueError("the RTSTRUCT has no list of regions (StructureSetROISequence); export it again")
        try:
            return _content(dataset)
        except _Malformed:
            raise
        except (*DAMAGE, ValueError) as error:
            raise ValueError(f"the RTSTRUCT is damaged ({type(error).__name__}); export it again") from None


def _content(dataset: Dataset) -> StructureSet:
    listed: dict[str, References] = {}
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        uid = _uid(frame, "FrameOfReferenceUID")
        listed[uid] = listed.get(uid, References()) | _references(frame)
    contours: dict[int, list[Contour]] = {}
    problems: dict[int, str] = {}
    without_number = 0
    for item in dataset.get("ROIContourSequence") or ():
        drawn, problem = _contours(item)
        number = _whole(item, "ReferencedROINumber")
        if number is None:
            without_number += bool(drawn or problem)
            continue
        contours.setdefault(number, []).extend(drawn)
        if problem:
            problems.setdefault(number, problem)
    items = list(dataset.get("StructureSetROISequence") or ())
    count = Counter(_whole(item, "ROINumber") for item in items)
    strangers = [number for number in contours if number not in count and (contours[number] or number in problems)]
    charsets = stated_charsets(dataset)
    rois: list[Roi] = []
    for item in items:
        number = _whole(item, "ROINumber")
        drawn = [] if number is None else contours.get(number, [])
        problem = "" if number is None else problems.get(number, "")
        if number is None and (without_number or strangers):
            problem = "is a region without a number, so its contours are not known; export it again"
        elif number not in contours and without_number:
            problem = "has no contour, and the RTSTRUCT has a region without a number; export it again"
        elif count[number] > 1 and (drawn or problem):
            problem = f"is one of two regions with the number {number}; export it again"
        frame, name = _uid(item, "ReferencedFrameOfReferenceUID"), element_text(item, "ROIName", charsets)
        rois.append(Roi(number, name, frame, tuple(drawn), problem))
    leftover = [f"contours of region {number}, which is not in the list of regions" for number in strangers]
    if without_number:
        leftover.append("contours of a region without a number")
    return StructureSet(tuple(rois), listed, tuple(leftover))


def _is_cut_off(dataset: Dataset) -> bool:
    """Whether the file ends within an element. pydicom gives the part of it that is there."""
    elements = (dataset.get_item(tag) for tag in dataset.keys())  # noqa: SIM118 a dataset iterates over its elements
    return any(
        isinstance(element.value, bytes)
        and getattr(element, "length", _UNDEFINED_LENGTH) not in (_UNDEFINED_LENGTH, len(element.value))
        for element in elements
    )


def _references(frame: Dataset) -> References:
    series, sops = set(), set()
    for study in frame.get("RTReferencedStudySequence") or ():
        for one in study.get("RTReferencedSeriesSequence") or ():
            series.add(_uid(one, "SeriesInstanceUID"))
            sops |= {_uid(image, "ReferencedSOPInstanceUID") for image in one.get("ContourImageSequence") or ()}
    return References(frozenset(series - {""}), frozenset(sops - {""}))


def _contours(item: Dataset) -> tuple[list[Contour], str]:
    """Contours of one region, and the fault of the first that cannot be used."""
    drawn: list[Contour] = []
    try:
        contours = list(item.get("ContourSequence") or ())
        for number, contour in enumerate(contours, start=1):
            try:
                one = _contour(contour)
            except _Malformed as error:
                return drawn, f"cannot be used: contour {number} of {len(contours)} {error}; export it again"
            if len(one.points_mm):
                drawn.append(one)
    except (*DAMAGE, ValueError) as error:
        return drawn, f"cannot be used: its contours are damaged ({type(error).__name__}); export it again"
    return drawn, ""


def _contour(contour: Dataset) -> Contour:
    text = re.sub(r"[^A-Z]", "", str(contour.get("ContourGeometricType") or CLOSED).upper())
    if text not in CONTOUR_KINDS:
        raise _Malformed("is of an unknown type (ContourGeometricType)")
    points = _points(contour)
    said = _whole(contour, "NumberOfContourPoints")
    if said is not None and said != len(points):
        raise _Malformed(f"has {len(points)} points and says it has {said} (NumberOfContourPoints)")
    images = []
    for image in contour.get("ContourImageSequence") or ():
        frame = _whole(image, "ReferencedFrameNumber")
        if uid := _uid(image, "ReferencedSOPInstanceUID"):
            images.append((uid, None if frame is None else frame - 1))
    return Contour(points, CONTOUR_KINDS[text], tuple(images))


def _points(contour: Dataset) -> np.ndarray:
    element = contour.get_item("ContourData") if "ContourData" in contour else None
    value = None if element is None else element.value
    if isinstance(value, bytes):  # as it is in the file: much quicker than pydicom's objects for each number
        value = value.strip(b" \x00")
        numbers = value.split(b"\\") if value else ()
    else:
        numbers = () if value is None else np.ravel(value).tolist()
    try:
        values = np.array([float(number) for number in numbers])
    except (TypeError, ValueError):
        values = np.array([np.nan])
    if values.size % 3:
        raise _Malformed(f"has points that are not x, y, z numbers: {values.size} values")
    if not np.all(np.isfinite(values)):
        raise _Malformed("has points that are not x, y, z numbers")
    return values.reshape(-1, 3)


def _whole(item: Dataset, keyword: str) -> int | None:
    """A whole number, the first of several. None if there is none."""
    try:
        return int(np.ravel(item.get(keyword))[0])
    except (TypeError, ValueError, LookupError, OverflowError):
        return None


def _uid(item: Dataset, keyword: str) -> str:
    return str(item.get(keyword) or "").strip(" \x00")
