"""The published values, entry by entry against the study's tables as text."""

from __future__ import annotations

from nnunet_ext.labels.organs import ORGANS
from nnunet_ext.reporting.reference_study import by_system, entries

TABLES = {
    ("3.1", "dsc_percent"): """
| organ | localizer |
| Eye_L | 86.04+-2.88 |
| Eye_R | 85.86+-5.60 |
| Lens_L | 73.54+-6.45 |
| Lens_R | 73.75+-7.62 |
| OpticNrv_L | 72.21+-10.77 |
| OpticNrv_R | 71.06+-11.04 |
| OpticChiasm | 60.14+-13.08 |
""",
    ("3.2", "dsc_percent"): """
| organ | 80x256x256 | 32x128x128 | 32x96x96 | 16x64x64 |
| Eye_L | 87.03+-2.60 | 88.06+-2.55 | 87.62+-2.56 | - |
| Eye_R | 87.69+-3.16 | 87.46+-3.88 | 87.54+-3.51 | - |
| Lens_L | 75.27+-5.33 | 79.65+-4.94 | 78.39+-5.21 | 78.97+-6.97 |
| Lens_R | 75.36+-6.35 | 77.94+-4.64 | 79.85+-3.80 | 79.70+-7.15 |
| OpticNrv_L | 73.12+-10.96 | 78.46+-6.23 | 80.39+-7.12 | 81.16+-6.86 |
| OpticNrv_R | 73.50+-11.37 | 76.70+-7.85 | 77.47+-9.16 | 77.28+-8.78 |
| OpticChiasm | 63.06+-14.38 | 70.28+-7.60 | 70.47+-8.34 | 68.49+-8.02 |
""",
    ("3.3", "hd95_mm"): """
| organ | 80x256x256 | 32x128x128 | 32x96x96 | 16x64x64 |
| Eye_L | 1.36+-0.14 | 2.74+-0.73 | 2.82+-0.89 | - |
| Eye_R | 1.88+-2.41 | 2.53+-0.91 | 3.19+-2.23 | - |
| Lens_L | 2.82+-2.44 | 2.60+-2.81 | 2.07+-2.06 | 1.77+-1.14 |
| Lens_R | 2.88+-3.71 | 3.10+-3.93 | 1.94+-1.18 | 2.03+-1.20 |
| OpticNrv_L | 2.02+-1.43 | 2.53+-0.96 | 2.34+-1.09 | 2.44+-1.10 |
| OpticNrv_R | 1.60+-0.66 | 2.94+-1.64 | 2.83+-1.15 | 2.74+-1.04 |
| OpticChiasm | 7.32+-10.21 | 3.62+-1.81 | 3.30+-0.76 | 3.40+-0.72 |
""",
    ("3.5", "dsc_percent"): """
| organ | DeepLab (Chen 2018) | AnatomyNet (Zhu 2019) | FocusNet (Gao 2019) | nnU-Net (He 2020) | best of crops |
| Eye_L | 86.7+-2.2 | - | 87.6+-0.8 | 89.5 | 88.1+-2.6 |
| Eye_R | 90.5+-0.6 | - | 91.2+-0.9 | 88.8 | 87.7+-3.2 |
| Lens_L | 59.2+-8.4 | - | 80.8+-4.7 | 80.6 | 79.7+-5.0 |
| Lens_R | 64.3+-6.6 | - | 79.0+-6.4 | 70.8 | 79.9+-3.8 |
| OpticNrv_L | 52.7+-9.9 | 72.1+-6.0 | 63.9+-3.9 | 70.8 | 81.2+-6.9 |
| OpticNrv_R | 57.1+-21.4 | 70.64+-10.0 | 61.7+-12.1 | 71.4 | 77.5+-9.2 |
| OpticChiasm | 55.6+-11.3 | 53.22+-15.0 | 63.8+-11.4 | 66.8 | 70.5+-8.3 |
""",
    ("3.6", "hd95_mm"): """
| organ | AnatomyNet (Zhu 2019) | FocusNet (Gao 2019) | best of crops |
| OpticNrv_L | 4.85+-2.3 | 3.76+-2.9 | 2.3+-1.1 |
| OpticNrv_R | 4.77+-4.3 | 2.65+-1.5 | 2.7+-1.0 |
| OpticChiasm | 5.76+-2.5 | 3.16+-1.3 | 3.3+-0.8 |
""",
    ("3.7", "dsc_percent"): """
| organ | CT | CT+T1+T2 |
| Eye_L | 87.56+-1.79 | 87.62+-2.56 |
| Eye_R | 84.05+-15.35 | 87.54+-3.51 |
| Lens_L | 78.15+-7.66 | 74.60+-7.90 |
| Lens_R | 80.77+-5.36 | 79.85+-3.80 |
| OpticNrv_L | 80.66+-6.79 | 80.39+-7.12 |
| OpticNrv_R | 77.95+-8.39 | 77.47+-9.16 |
| OpticChiasm | 61.93+-12.41 | 70.47+-8.34 |
""",
}


def printed() -> dict[tuple[str, str, str, str], str]:
    """Table, metric, system and organ of every entry -> its text."""
    found = {}
    for (table, metric), text in TABLES.items():
        header, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines())
        for organ, *cells in rows:
            for system, cell in zip(header[1:], cells, strict=True):
                if cell != "-":
                    found[table, metric, system, organ] = cell
    return found


def test_every_entry_is_that_of_the_study():
    expected = printed()
    assert len(expected) == 113
    held = {(e.table, e.metric, e.system, e.organ): e.text.replace(" ", "") for e in entries()}
    assert held == expected
    assert len(entries()) == 113  # none is there twice


def test_systems_stand_in_the_order_of_the_print_and_organs_in_ours():
    for (table, _), text in TABLES.items():
        assert (
            list(by_system(table)) == [cell.strip() for cell in text.strip().splitlines()[0].strip("|").split("|")][1:]
        )
        for values in by_system(table).values():
            assert [organ for organ in ORGANS if organ in values] == list(values)


def test_one_system_has_two_values_of_one_organ_and_only_these_are_marked():
    assert {(e.table, e.system, e.organ, e.text) for e in entries() if e.twice} == {
        ("3.2", "32x96x96", "Lens_L", "78.39 +- 5.21"),
        ("3.7", "CT+T1+T2", "Lens_L", "74.60 +- 7.90"),
    }
    both = {organ: (by_system("3.2")["32x96x96"][organ], by_system("3.7")["CT+T1+T2"][organ]) for organ in ORGANS}
    assert [organ for organ, (a, b) in both.items() if (a.mean, a.sd) != (b.mean, b.sd)] == ["Lens_L"]
