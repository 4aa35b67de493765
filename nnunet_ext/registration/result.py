"""What a registration found."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import SimpleITK as sitk

from nnunet_ext.messages import Message
from nnunet_ext.registration.options import RegistrationOptions

HEADER, RIGID, ELASTIC = "header", "rigid", "elastic"
#: Share of the head that an image has to show to be registered without a warning.
LEAST_OVERLAP = 0.5

LEVEL_NAMES = {
    HEADER: Message("header_alignment"),
    RIGID: Message("rigid_alignment"),
    ELASTIC: Message("elastic_alignment"),
}


@dataclass(frozen=True)
class ChannelRegistration:
    """One moving image.

    Attributes:
        transform: Fixed points -> moving points, LPS, mm.
        kept: `header`, `rigid` or `elastic`.
        reason: Why.
        quality: Numbers, plain JSON; see `register`.
    """

    transform: sitk.Transform
    kept: str
    reason: Message
    quality: dict


@dataclass(frozen=True)
class RegistrationResult:
    """What `register` found: one entry per moving image, groups that share one transform, and the time it took."""

    channels: dict[str, ChannelRegistration]
    together: list[list[str]]
    options: RegistrationOptions
    runtime_s: float

    @property
    def warnings(self) -> list[Message]:
        """One for every image that is not registered as asked for, or that shows less than half of the head."""
        wanted = ELASTIC if self.options.elastic else RIGID
        messages = [
            Message("alignment_kept", {"image": name, "level": LEVEL_NAMES[found.kept], "reason": found.reason})
            for name, found in self.channels.items()
            if found.kept != wanted
        ]
        return messages + [
            Message("shows_little_of_the_head", {"image": name, "share": found.quality["overlap"]})
            for name, found in self.channels.items()
            if found.quality["overlap"] < LEAST_OVERLAP
        ]

    def as_dict(self) -> dict:
        """Plain JSON."""
        return {
            "options": asdict(self.options),
            "together": self.together,
            "runtime_s": round(self.runtime_s, 1),
            "images": {
                name: {"kept": found.kept, "reason": str(found.reason), **found.quality}
                for name, found in self.channels.items()
            },
        }
