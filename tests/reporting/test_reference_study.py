"""The published values, against the study's tables as text."""

from __future__ import annotations

from nnunet_ext.reporting.reference_study import CHIASM_DSC_PERCENT, SYSTEMS

DSC_PERCENT = """
| organ | localizer | 80x256x256 | 32x128x128 | 32x96x96 | 16x64x64 |
|---|---|---|---|---|---|
| Eye_L | 86.04+-2.88 | 87.03+-2.60 | 88.06+-2.55 | 87.62+-2.56 | - |
| Eye_R | 85.86+-5.60 | 87.69+-3.16 | 87.46+-3.88 | 87.54+-3.51 | - |
| Lens_L | 73.54+-6.45 | 75.27+-5.33 | 79.65+-4.94 | 78.39+-5.21 | 78.97+-6.97 |
| Lens_R | 73.75+-7.62 | 75.36+-6.35 | 77.94+-4.64 | 79.85+-3.80 | 79.70+-7.15 |
| OpticNrv_L | 72.21+-10.77 | 73.12+-10.96 | 78.46+-6.23 | 80.39+-7.12 | 81.16+-6.86 |
| OpticNrv_R | 71.06+-11.04 | 73.50+-11.37 | 76.70+-7.85 | 77.47+-9.16 | 77.28+-8.78 |
| OpticChiasm | 60.14+-13.08 | 63.06+-14.38 | 70.28+-7.60 | 70.47+-8.34 | 68.49+-8.02 |
"""
HD95_MM = """
| organ | 80x256x256 | 32x128x128 | 32x96x96 | 16x64x64 |
|---|---|---|---|---|
| Eye_L | 1.36+-0.14 | 2.74+-0.73 | 2.82+-0.89 | - |
| Eye_R | 1.88+-2.41 | 2.53+-0.91 | 3.19+-2.23 | - |
| Lens_L | 2.82+-2.44 | 2.60+-2.81 | 2.07+-2.06 | 1.77+-1.14 |
| Lens_R | 2.88+-3.71 | 3.10+-3.93 | 1.94+-1.18 | 2.03+-1.20 |
| OpticNrv_L | 2.02+-1.43 | 2.53+-0.96 | 2.34+-1.09 | 2.44+-1.10 |
| OpticNrv_R | 1.60+-0.66 | 2.94+-1.64 | 2.83+-1.15 | 2.74+-1.04 |
| OpticChiasm | 7.32+-10.21 | 3.62+-1.81 | 3.30+-0.76 | 3.40+-0.72 |
"""


def parsed(text: str) -> dict[str, dict[str, tuple[float, float]]]:
    header, _, *rows = (line.strip("|").split("|") for line in text.strip().splitlines())
    systems = [f"study: {name.strip()}" for name in header[1:]]
    found: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in systems}
    for organ, *cells in rows:
        for name, cell in zip(systems, cells, strict=True):
            if cell.strip() != "-":
                mean, sd = cell.split("+-")
                found[name][organ.strip()] = (float(mean), float(sd))
    return found


def test_values_are_those_of_the_tables():
    for metric, text in (("dsc_percent", DSC_PERCENT), ("plain_hd95_mm", HD95_MM)):
        assert {s.name: dict(s.values[metric]) for s in SYSTEMS if metric in s.values} == parsed(text)


def test_chiasm_gains_from_mr_and_is_compared_with_four_others():
    assert CHIASM_DSC_PERCENT["study: 32x96x96, CT only"] == 61.93
    assert CHIASM_DSC_PERCENT["study: 32x96x96, CT+T1+T2"] == parsed(DSC_PERCENT)["study: 32x96x96"]["OpticChiasm"][0]
    assert sorted(CHIASM_DSC_PERCENT.values()) == [53.2, 55.6, 61.93, 63.8, 66.8, 70.47]
