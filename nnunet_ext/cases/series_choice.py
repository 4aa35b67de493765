"""The series that becomes a channel, if a patient has several."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nnunet_ext.cases.structures import Claim, refers_to
from nnunet_ext.dicom.model import Series
from nnunet_ext.dicom.stack import check_series
from nnunet_ext.messages import Message, in_english


def pick_series(
    name: str,
    channel: str,
    group: Sequence[Series],
    reference: Series | None,
    claims: Sequence[Claim],
    notes: list[Message],
) -> Series:
    """The series of a channel.

    If several are recognised, those that fit the RTSTRUCT and the reference channel go before the others.

    Args:
        name: Of the case.
        channel: Its name.
        group: Series of the case.
        reference: Series of the reference channel, None if this is it.
        claims: RTSTRUCTs that belong to the case.
        notes: Takes a message for every choice.

    Raises:
        ValueError: If there is none, if several are left, or if the one cannot be read.
    """
    candidates = [series for series in group if series.channel == channel]
    if not candidates:
        others = "; ".join(f"{s.label}: {s.reason}" for s in group if not s.channel) or "nothing else"
        raise ValueError(
            f"channel {channel} is missing: no series is recognised as one; left over: {others}. If one is it, name it in "
            f"a file for --series: [{name}] {channel} = NUMBER"
        )
    combined = [series for series in candidates if series.combined]
    for fits, why in (
        (lambda s: not s.problem, Message("other_unreadable")),
        (lambda s: any(content is not None and refers_to(content, s) for _, content, _ in claims),
         Message("rtstruct_drawn_on_it")),
        (lambda s: reference is not None and s.frame_of_reference_uid == reference.frame_of_reference_uid,
         Message("shares_the_frame")),
        (lambda s: reference is not None and s.study_uid == reference.study_uid, Message("same_study")),
        (lambda s: not any(_combines(other, s) for other in combined), Message("other_is_an_echo")),
        (lambda s: not s.derived, Message("other_was_computed")),
    ):  # fmt: skip
        fitting = [series for series in candidates if fits(series)]
        if fitting and len(fitting) < len(candidates):
            chosen = [s.label for s in fitting]
            left = [s.label + (f" ({s.problem})" if s.problem else "") for s in candidates if not fits(s)]
            notes.append(Message("series_chosen", {"channel": channel, "chosen": chosen, "reason": why, "left": left}))
            candidates = fitting
    if len(candidates) > 1:
        labels = [", ".join((series.label, *in_english(series.notes))) for series in candidates]
        whole = "NUMBER, or its SeriesInstanceUID" if any(not series.part for series in candidates) else ""
        parts = " and so on".join(f'"{series.choice}"' for series in [s for s in candidates if s.part][:1])
        raise ValueError(
            f"channel {channel} has {len(candidates)} series, {listed(labels)}; say which in a file for --series: "
            f"[{name}] {channel} = {' or '.join(filter(None, (whole, parts)))}"
        )
    try:
        check_series(candidates[0])
    except ValueError as error:
        remedy = parts_of(candidates)
        if remedy:
            remedy += f'; say which in a file for --series: [{name}] {channel} = "{candidates[0].parts[0].choice}"'
        raise ValueError(f"{channel}, {candidates[0].label}: {error}{remedy}") from None
    return candidates[0]


def _combines(series: Series, other: Series) -> bool:
    """Whether a series is the mean of several echoes of which the other is one."""
    same = (series.study_uid, series.frame_of_reference_uid, series.size)
    return (
        series.combined
        and not other.combined
        and any(part.startswith("echo ") for part in other.part)
        and same == (other.study_uid, other.frame_of_reference_uid, other.size)
    )


def listed(labels: Sequence[str], most: int = 8) -> str:
    """Labels of series in a message."""
    return " and ".join(labels[:most]) + (f" and {len(labels) - most} others" if len(labels) > most else "")


def parts_of(series: Iterable[Series]) -> str:
    """The parts of series that are no volume as a whole, as a file for --series can choose them."""
    choices = [
        f'"{part.choice}" ({", ".join(filter(None, (part.part_note, f"{len(part.slices)} images")))})'
        for one in series
        for part in one.parts
    ]
    return f"; it can be {listed(choices)}" if choices else ""
