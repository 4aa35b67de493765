"""What a registration found."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import SimpleITK as sitk

from nnunet_ext.registration.options import RegistrationOptions

HEADER, RIGID, ELASTIC = "header", "rigid", "elastic"
#: Share of the head that an image has to show to be registered without a warning.
LEAST_OVERLAP = 0.5

LEVEL_NAMES = {HEADER: "header's alignment", RIGID: "rigid alignment", ELASTIC: "elastic alignment"}


@dataclass(frozen=True)
class ChannelRegistration:
    """One moving image.

    Attributes:
        transform: Fixed points -> moving points, LPS, mm.
        kept: `header`, `rigid` or `elastic`.
        reason: Why, in one line.
        quality: Numbers, plain JSON; see `register`.
    """

    transform: sitk.Transform
    kept: str
    reason: str
    quality: dict


@dataclass(frozen=True)
class RegistrationResult:
    """What `register` found: one entry per moving image, groups that share one transform, and the time it took."""

    channels: dict[str, ChannelRegistration]
    together: list[list[str]]
    options: RegistrationOptions
    runtime_s: float

    @property
    def warnings(self) -> list[str]:
        """One line for every image that is not registered as asked for, or that shows less than half of the head."""
        wanted = ELASTIC if self.options.elastic else RIGID
        lines = [
            f"{name}: kept the {LEVEL_NAMES[found.kept]}: {found.reason}"
            for name, found in self.channels.items()
            if found.kept != wanted
        ]
        return lines + [
            f"{name}: shows {found.quality['overlap']:.0%} of the head, little to register by; check the checkerboard"
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
                name: {"kept": found.kept, "reason": found.reason, **found.quality}
                for name, found in self.channels.items()
            },
        }
