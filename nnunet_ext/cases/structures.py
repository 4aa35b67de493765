"""The RTSTRUCT of a case, which is the one drawn on its CT.

An RTSTRUCT counts only if its patient and frame of reference are those of the reference channel (the CT). Every image
that the contours of organs refer to must belong to that channel. Other references (an MR it was fused with, another CT)
and regions that are no organ do not matter. Without such references, the series, images or frame of reference it lists
must be the CT's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nnunet_ext.cases.series_rules import means
from nnunet_ext.dicom.model import Series
from nnunet_ext.dicom.rtstruct_reader import read_rtstruct
from nnunet_ext.dicom.structure_set import Roi, StructureSet
from nnunet_ext.images.channels import reference_of_case
from nnunet_ext.labels.table import LabelTable
from nnunet_ext.messages import Message

#: RTSTRUCT, what it holds, and why it does not belong to a case; None if it does.
Claim = tuple[Series, StructureSet | None, Message | None]
#: Kinds of messages on an RTSTRUCT that say what to do.
_WITH_REMEDY = {"rtstruct_refused", "contours_on_another_series", "contours_on_lost_images"}


def read_structure(series: Series) -> tuple[StructureSet | None, Message | None]:
    """Content of an RTSTRUCT, or why it cannot be read."""
    try:
        return read_rtstruct(series.paths[0]), None
    except ValueError as error:
        return None, Message("rtstruct_refused", {"error": str(error)})
    except OSError:
        return None, Message("rtstruct_unreadable")


def refers_to(content: StructureSet, series: Series) -> bool:
    """Whether contours are drawn on images of a series. If they do not say, whether the series is listed."""
    there = {one.sop_uid for one in series.slices}
    drawn_on = content.contour_sop_uids
    if drawn_on:
        return not drawn_on.isdisjoint(there)
    if series.part and content.sop_uids:  # all parts of a series share its UID
        return not content.sop_uids.isdisjoint(there)
    return series.uid in content.series_uids or not content.sop_uids.isdisjoint(there)


def drawn_organs(content: StructureSet, table: LabelTable | None) -> tuple[Roi, ...]:
    """Regions with contours that are organs. All with contours if none is an organ, or if there is no table."""
    drawn = tuple(roi for roi in content.rois if roi.contours)
    return tuple(roi for roi in drawn if table is not None and table.organ(roi.name)) or drawn


def mismatch(
    structure: Series,
    content: StructureSet,
    series: Series,
    channel: str,
    table: LabelTable | None,
    others: Sequence[Series] = (),
) -> Message | None:
    """Why an RTSTRUCT does not belong to a series. None if it does."""
    if structure.patient.key != series.patient.key:
        return Message("rtstruct_of_another_patient", {"channel": channel})
    frame, frames = series.frame_of_reference_uid, content.frame_of_reference_uids
    if frames and frame and frame not in frames:
        return Message("rtstruct_in_another_frame", {"channel": channel})
    organs = drawn_organs(content, table)

    def name(roi: Roi) -> str:
        return (table.organ(roi.name) if table is not None else None) or "a region"

    elsewhere = [name(roi) for roi in organs if frame and roi.frame_of_reference_uid not in ("", frame)]
    if elsewhere:
        regions = list(dict.fromkeys(elsewhere))
        return Message("regions_in_another_frame", {"channel": channel, "regions": regions})
    there = {one.sop_uid for one in series.slices}
    for roi in organs:
        drawn_on = [{uid for uid, _ in contour.images} for contour in roi.contours]
        lost = [uids for uids in drawn_on if uids and uids.isdisjoint(there)]
        if lost:
            where = [s.label for s in others if not {one.sop_uid for one in s.slices}.isdisjoint(set().union(*lost))]
            region, n, n_all = name(roi), len(lost), len(drawn_on)
            if not where:
                return Message("contours_on_lost_images", {"region": region, "n": n, "all": n_all, "channel": channel})
            return Message(
                "contours_on_another_series",
                {"region": region, "n": n, "all": n_all, "channel": channel, "labels": where},
            )
    if any(contour.images for roi in organs for contour in roi.contours):
        return None
    listed = content.references(organs)
    if listed.series_uids or listed.sop_uids:
        ties = series.uid in listed.series_uids or not listed.sop_uids.isdisjoint(there)
        return None if ties else Message("rtstruct_of_another_series", {"channel": channel})
    if not frame or frame not in frames:
        return Message("rtstruct_names_no_images", {"channel": channel})
    return None


def claims_of(
    groups: Sequence[list[Series]],
    structures: Sequence[Claim],
    modalities: Sequence[str],
    table: LabelTable | None,
    optional: Sequence[str] = (),
) -> dict[int, list[Claim]]:
    """RTSTRUCTs per group, each with the reason it does not fit. One that fits another group is left to that one.

    `optional` are channels that a case may lack.
    """
    references = {
        id(group): reference_of_case(modalities, {series.channel for series in group}, optional) for group in groups
    }
    claims: dict[int, list[Claim]] = {id(group): [] for group in groups}
    # Looked up, not searched: 1,000 patients have half a million images.
    owner = {uid: id(group) for group in groups for s in group for uid in (s.uid, *(one.sop_uid for one in s.slices))}
    for structure, content, problem in structures:
        related, fits = [], []
        referred = set() if content is None else {owner.get(uid) for uid in content.series_uids | content.sop_uids}
        for group in groups:
            if structure.patient.key != group[0].patient.key and id(group) not in referred:
                continue
            channel = references[id(group)]
            candidates = [series for series in group if series.channel == channel] or list(group)
            reasons = (
                [mismatch(structure, content, s, channel, table, group) for s in candidates]
                if content is not None
                else [problem]
            )
            related.append((group, None if None in reasons else reasons[0]))
            if None in reasons:
                fits.append(group)
        several = (
            content is not None
            and len(fits) > 1
            and not replace(content, rois=drawn_organs(content, table)).contour_sop_uids
        )
        for group, reason in related:
            if not fits or group in fits:
                unclear = Message("rtstruct_of_several_cases", {"channel": references[id(group)]})
                claims[id(group)].append((structure, content, unclear if several else reason))
    return claims


def pick_structure(
    name: str,
    claims: Sequence[Claim],
    series: Series,
    rule: Sequence | None,
    channel: str,
    notes: list[Message],
    table: LabelTable,
    group: Sequence[Series],
) -> tuple[Series | None, StructureSet | None]:
    """The RTSTRUCT of a case with its content, None if there is none.

    Args:
        name: Of the case.
        claims: RTSTRUCTs of its patient, from `claims_of`.
        series: Of the reference channel.
        rule: Names of the RTSTRUCT in the series file, None if it has none.
        channel: Name of the reference channel.
        notes: Takes a message for every RTSTRUCT that is left out.
        table: Which regions are which organs.
        group: Series of the case.

    Raises:
        ValueError: If several belong to the series, or none does although there is one.
    """
    if rule:
        claims = [claim for claim in claims if any(means(value, claim[0]) for value in rule)]
        if not claims:
            raise ValueError("the RTSTRUCT that the series file names is not there")
    checked = [
        (s, c, reason if c is None else mismatch(s, c, series, channel, table, group) or reason)
        for s, c, reason in claims
    ]
    good = [(s, c) for s, c, reason in checked if reason is None]
    bad = [(s, reason) for s, _, reason in checked if reason is not None]
    if len(good) > 1:
        raise ValueError(
            f"{len(good)} RTSTRUCTs belong to the {channel}, {' and '.join(s.label for s, _ in good)}; say which in a file "
            f'for --series: [{name}] RTSTRUCT = "LABEL", or its SOPInstanceUID'
        )
    if not good and bad:
        remedy = "" if bad[0][1].kind in _WITH_REMEDY else "; export both again, or remove it"
        raise ValueError(f"the RTSTRUCT, {bad[0][0].label}, is refused: {bad[0][1]}{remedy}")
    notes += [Message("rtstruct_left_out", {"label": s.label, "reason": reason}) for s, reason in bad]
    return good[0] if good else (None, None)
