"""Published results of the reference study: a cascade of 3D U-Nets on CT, T1w and T2w of 60 patients, tested on 15.

A report shows them in columns of their own. They come from other patients and other contours, so they are never ranked or
tested. The values are means and SDs over cases, DSC in % and HD95 in mm. None stands for a value that the study lacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

_ORGANS = ("Eye_L", "Eye_R", "Lens_L", "Lens_R", "OpticNrv_L", "OpticNrv_R", "OpticChiasm")


@dataclass(frozen=True)
class Published:
    """A published system. `values` is metric (as in `metrics.METRICS`) -> organ -> (mean, SD)."""

    name: str
    values: MappingProxyType[str, MappingProxyType[str, tuple[float, float]]]


def _by_organ(values: tuple[tuple[float, float] | None, ...]) -> MappingProxyType[str, tuple[float, float]]:
    return MappingProxyType({o: v for o, v in zip(_ORGANS, values, strict=True) if v is not None})


def _published(name: str, dsc_percent: tuple, hd95_mm: tuple | None = None) -> Published:
    values = {"dsc_percent": _by_organ(dsc_percent)}
    if hd95_mm is not None:
        values["plain_hd95_mm"] = _by_organ(hd95_mm)
    return Published(name, MappingProxyType(values))


#: The localizer, the whole volume, and the segmenter with three crop sizes, in voxels of 1.25 x 0.8 x 0.8 mm.
SYSTEMS = (
    _published(
        "study: localizer",
        ((86.04, 2.88), (85.86, 5.60), (73.54, 6.45), (73.75, 7.62), (72.21, 10.77), (71.06, 11.04), (60.14, 13.08)),
    ),
    _published(
        "study: 80x256x256",
        ((87.03, 2.60), (87.69, 3.16), (75.27, 5.33), (75.36, 6.35), (73.12, 10.96), (73.50, 11.37), (63.06, 14.38)),
        ((1.36, 0.14), (1.88, 2.41), (2.82, 2.44), (2.88, 3.71), (2.02, 1.43), (1.60, 0.66), (7.32, 10.21)),
    ),
    _published(
        "study: 32x128x128",
        ((88.06, 2.55), (87.46, 3.88), (79.65, 4.94), (77.94, 4.64), (78.46, 6.23), (76.70, 7.85), (70.28, 7.60)),
        ((2.74, 0.73), (2.53, 0.91), (2.60, 2.81), (3.10, 3.93), (2.53, 0.96), (2.94, 1.64), (3.62, 1.81)),
    ),
    _published(
        "study: 32x96x96",
        ((87.62, 2.56), (87.54, 3.51), (78.39, 5.21), (79.85, 3.80), (80.39, 7.12), (77.47, 9.16), (70.47, 8.34)),
        ((2.82, 0.89), (3.19, 2.23), (2.07, 2.06), (1.94, 1.18), (2.34, 1.09), (2.83, 1.15), (3.30, 0.76)),
    ),
    _published(
        "study: 16x64x64",
        (None, None, (78.97, 6.97), (79.70, 7.15), (81.16, 6.86), (77.28, 8.78), (68.49, 8.02)),
        (None, None, (1.77, 1.14), (2.03, 1.20), (2.44, 1.10), (2.74, 1.04), (3.40, 0.72)),
    ),
)

#: Mean DSC of the chiasm in %, of the study's segmenter at 32x96x96 by its channels and of the systems it compares with.
CHIASM_DSC_PERCENT = MappingProxyType(
    {
        "study: 32x96x96, CT only": 61.93,
        "study: 32x96x96, CT+T1+T2": 70.47,
        "DeepLab (as the study cites it)": 55.6,
        "AnatomyNet (as the study cites it)": 53.2,
        "FocusNet (as the study cites it)": 63.8,
        "nnU-Net (as the study cites it)": 66.8,
    }
)
CHIASM = "OpticChiasm"
