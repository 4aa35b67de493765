"""Which RTSTRUCT belongs to a case: the one drawn on its CT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nnunet_ext.cases.series_rules import means
from nnunet_ext.dicom.model import Series
from nnunet_ext.dicom.rtstruct_reader import Roi, StructureSet, read_rtstruct
from nnunet_ext.images.channels import reference_channel
from nnunet_ext.labels.table import LabelTable


def read_structure(series: Series) -> tuple[StructureSet | None, str]:
    try:
        return read_rtstruct(series.paths[0]), ""
    except (ValueError, OSError) as error:
        return None, str(error) if isinstance(error, ValueError) else "the RTSTRUCT cannot be read"


def refers_to(content: StructureSet, series: Series) -> bool:
    """Whether contours are drawn on images of a series; if they do not say, whether the series is listed."""
    there = {one.sop_uid for one in series.slices}
    drawn_on = content.contour_sop_uids
    if drawn_on:
        return not drawn_on.isdisjoint(there)
    if series.part and content.sop_uids:  # all parts of a series share its UID
        return not content.sop_uids.isdisjoint(there)
    return series.uid in content.series_uids or not content.sop_uids.isdisjoint(there)


def drawn_organs(content: StructureSet, table: LabelTable | None) -> tuple[Roi, ...]:
    """Regions with contours that are organs; all with contours where there are no organs, or nobody says which."""
    drawn = tuple(roi for roi in content.rois if roi.contours)
    return tuple(roi for roi in drawn if table is not None and table.organ(roi.name)) or drawn


def mismatch(
    structure: Series,
    content: StructureSet,
    series: Series,
    channel: str,
    table: LabelTable | None,
    others: Sequence[Series] = (),
) -> str:
    """Why an RTSTRUCT does not belong to a series, with the remedy after a semicolon; empty where it does."""
    if structure.patient.key != series.patient.key:
        return f"its patient is not the {channel}'s"
    frame, frames = series.frame_of_reference_uid, content.frame_of_reference_uids
    if frames and frame and frame not in frames:
        return f"its frame of reference is not the {channel}'s"
    organs = drawn_organs(content, table)

    def name(roi: Roi) -> str:
        return (table.organ(roi.name) if table is not None else None) or "a region"

    elsewhere = [name(roi) for roi in organs if frame and roi.frame_of_reference_uid not in ("", frame)]
    if elsewhere:
        return (
            f"some of its regions are drawn in another frame of reference than the {channel}'s: "
            f"{', '.join(dict.fromkeys(elsewhere))}"
        )
    there = {one.sop_uid for one in series.slices}
    for roi in organs:
        drawn_on = [{uid for uid, _ in contour.images} for contour in roi.contours]
        lost = [uids for uids in drawn_on if uids and uids.isdisjoint(there)]
        if lost:
            where = [s.label for s in others if not {one.sop_uid for one in s.slices}.isdisjoint(set().union(*lost))]
            return (
                f"{name(roi)}: {len(lost)} of its {len(drawn_on)} contours are drawn on images that are not in the "
                f"{channel}" + (f" but in {' and '.join(where)}; draw it on the {channel}, or copy it there"
                                if where else f"; export the {channel} it was drawn on, all images")
            )  # fmt: skip
    if any(contour.images for roi in organs for contour in roi.contours):
        return ""
    listed = content.references(organs)
    if listed.series_uids or listed.sop_uids:
        ties = series.uid in listed.series_uids or not listed.sop_uids.isdisjoint(there)
        return "" if ties else f"the series it refers to is not the {channel}"
    if not frame or frame not in frames:
        return f"it does not say which images it was drawn on, so nothing ties it to the {channel}"
    return ""


def claims_of(
    groups: Sequence[list[Series]],
    structures: Sequence[tuple[Series, StructureSet | None, str]],
    modalities: Sequence[str],
    table: LabelTable | None,
) -> dict[int, list[tuple[Series, StructureSet | None, str]]]:
    """RTSTRUCTs per group, each with the reason it does not fit; one that fits another group is left to that one."""
    channel = reference_channel(modalities)
    claims: dict[int, list] = {id(group): [] for group in groups}
    # Looked up, not searched: 1,000 patients have half a million images.
    owner = {uid: id(group) for group in groups for s in group for uid in (s.uid, *(one.sop_uid for one in s.slices))}
    for structure, content, problem in structures:
        related, fits = [], []
        referred = set() if content is None else {owner.get(uid) for uid in content.series_uids | content.sop_uids}
        for group in groups:
            if structure.patient.key != group[0].patient.key and id(group) not in referred:
                continue
            candidates = [series for series in group if series.channel == channel] or list(group)
            reasons = (
                [mismatch(structure, content, s, channel, table, group) for s in candidates]
                if content is not None
                else [problem]
            )
            related.append((group, min(reasons, key=len)))
            if "" in reasons:
                fits.append(group)
        several = (
            content is not None
            and len(fits) > 1
            and not replace(content, rois=drawn_organs(content, table)).contour_sop_uids
        )
        for group, reason in related:
            if not fits or group in fits:
                unclear = (
                    f"it refers to the {channel}s of several cases, and its contours do not say which they are drawn on"
                )
                claims[id(group)].append((structure, content, unclear if several else reason))
    return claims


def pick_structure(
    name: str,
    claims: Sequence[tuple[Series, StructureSet | None, str]],
    series: Series,
    rule: Sequence | None,
    channel: str,
    notes: list[str],
    table: LabelTable,
    group: Sequence[Series],
) -> tuple[Series | None, StructureSet | None]:
    if rule:
        claims = [claim for claim in claims if any(means(value, claim[0]) for value in rule)]
        if not claims:
            raise ValueError("the RTSTRUCT that the series file names is not there")
    checked = [
        (s, c, reason if c is None else mismatch(s, c, series, channel, table, group) or reason)
        for s, c, reason in claims
    ]
    good = [(s, c) for s, c, reason in checked if not reason]
    bad = [(s, reason) for s, _, reason in checked if reason]
    if len(good) > 1:
        raise ValueError(
            f"{len(good)} RTSTRUCTs belong to the {channel}, {' and '.join(s.label for s, _ in good)}; say which in a file "
            f'for --series: [{name}] RTSTRUCT = "LABEL", or its SOPInstanceUID'
        )
    if not good and bad:
        remedy = "" if ";" in bad[0][1] else "; export both again, or remove it"
        raise ValueError(f"the RTSTRUCT, {bad[0][0].label}, is refused: {bad[0][1]}{remedy}")
    notes += [f"the RTSTRUCT, {s.label}, is left out: {reason}" for s, reason in bad]
    return good[0] if good else (None, None)
