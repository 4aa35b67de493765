"""Published results of the reference study: a cascade of 3D U-Nets on CT, T1w and T2w of 60 patients, tested on 15.

`assets/reference_study.csv` holds every entry of its Tables 3.1 to 3.3 and 3.5 to 3.7 as printed. It has no Table 3.4. The
values are means and SDs over cases, DSC in % and HD95 in mm. They come from other patients and other contours, so they are
never ranked with ours or tested.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources

CHIASM = "OpticChiasm"
LOCALIZER, CROPS = "localizer", ("32x128x128", "32x96x96", "16x64x64")
#: Tables of other methods, and the study's own place in them.
CITED = ("3.5", "3.6")
BEST_OF_CROPS = "best of crops"
#: Channels and crop of Table 3.7.
CT_ONLY, CT_AND_MR, MODALITIES_CROP = "CT", "CT+T1+T2", "32x96x96"
#: Our metric that is held against one of the study. It does not say of which points its HD95 is.
OURS = {"dsc_percent": "dsc_percent", "hd95_mm": "plain_hd95_mm"}


@dataclass(frozen=True)
class Published:
    """An entry of a table.

    Attributes:
        table: `3.1` to `3.7`.
        metric: `dsc_percent` or `hd95_mm`.
        system: Column of the table: a crop in voxels of 1.25 x 0.8 x 0.8 mm, channels, or another method.
        organ: TG-263 name.
        mean, sd: With the decimals of the print. None for an SD that is not given.
    """

    table: str
    metric: str
    system: str
    organ: str
    mean: Decimal
    sd: Decimal | None

    @property
    def text(self) -> str:
        """`70.64 +- 10.0`, or the mean alone."""
        return str(self.mean) if self.sd is None else f"{self.mean} +- {self.sd}"

    @property
    def twice(self) -> bool:
        """Whether the study prints two values of it: 78.39 in Table 3.2 and 74.60 in Table 3.7, of one system."""
        return (self.table, self.system, self.organ) in (
            ("3.2", MODALITIES_CROP, "Lens_L"),
            ("3.7", CT_AND_MR, "Lens_L"),
        )


@cache
def entries() -> tuple[Published, ...]:
    """All 113 entries, in the order of the tables."""
    text = (resources.files("nnunet_ext.reporting") / "assets" / "reference_study.csv").read_text(encoding="utf-8")
    return tuple(
        Published(
            row["table"],
            row["metric"],
            row["system"],
            row["organ"],
            Decimal(row["mean"]),
            Decimal(row["sd"]) if row["sd"] else None,
        )
        for row in csv.DictReader(text.splitlines())
    )


def by_system(table: str) -> dict[str, dict[str, Published]]:
    """System -> organ -> entry, with the systems in the order of the table."""
    found: dict[str, dict[str, Published]] = {}
    for entry in entries():
        if entry.table == table:
            found.setdefault(entry.system, {})[entry.organ] = entry
    return found
