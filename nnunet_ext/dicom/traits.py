"""Values of an image that tell the volumes of a series apart, and their words in messages."""

from __future__ import annotations

from typing import NamedTuple


class Traits(NamedTuple):
    """Values of an image's header that say which volume it belongs to. None if the header lacks one.

    Attributes:
        kind: ImageType and ComplexImageComponent.
        echo, inversion: In ms.
        b: b-value in s/mm2.
        kvp: Tube voltage in kV.
        flip: Flip angle in degrees.
        kernel, stack: Reconstruction kernel, and stack of an enhanced object.
        acquisition: AcquisitionNumber.
        temporal, trigger, time: Number of the time point, delay after the trigger in ms, time of the day in s.
        instance: InstanceNumber, or number of the frame.
        content_time: Time of the day in s.
    """

    kind: str | None = None
    echo: float | None = None
    inversion: float | None = None
    b: float | None = None
    kvp: float | None = None
    flip: float | None = None
    kernel: str | None = None
    stack: str | None = None
    acquisition: float | None = None
    temporal: float | None = None
    trigger: float | None = None
    time: float | None = None
    instance: float | None = None
    content_time: float | None = None


#: Word of each trait in names, its unit, and how far values may differ by rounding: absolutely, and as a share.
TRAIT_WORDS: dict[str, tuple[str, str, float, float]] = {
    "kind": ("type", "", 0, 0),
    "echo": ("echo", "TE {:.4g} ms", 0.1, 0.01),
    "inversion": ("inversion", "TI {:.4g} ms", 1.0, 0.01),
    "b": ("b", "", 1.0, 0.01),
    "kvp": ("kVp", "", 1.0, 0.0),
    "flip": ("flip", "", 0.1, 0.0),
    "kernel": ("kernel", "", 0, 0),
    "stack": ("stack", "", 0, 0),
    "acquisition": ("acquisition", "", 0, 0),
    "temporal": ("time", "", 0, 0),
    "trigger": ("time", "trigger at {:.4g} ms", 1.0, 0.0),
    "time": ("time", "", 0.5, 0.0),
}
PART_WORDS = (*dict.fromkeys(word for word, *_ in TRAIT_WORDS.values()), "part")


def equal_within_rounding(a: float, b: float, least: float, share: float = 0.0) -> bool:
    """Whether two numbers differ by no more than `least`, or than a share of the larger."""
    return abs(a - b) <= max(least, share * max(abs(a), abs(b)))
