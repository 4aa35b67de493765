"""Names of the organs that the package knows."""

from __future__ import annotations

from nnunet_ext.labels.organs import ORGANS, PAIRED_ALIASES, built_in_aliases, normalise_name


def test_names_are_compared_by_letters_and_digits_in_lower_case():
    assert (
        normalise_name("LENS-LT")
        == normalise_name("\uff2c\uff25\uff2e\uff33\uff3f\uff2c\uff34")
        == normalise_name("lens lt.")
        == "lenslt"
    )  # full width
    assert normalise_name("左眼 球") == "左眼球"


def test_an_alias_names_one_organ_only():
    names = [(normalise_name(alias), organ) for organ, aliases in built_in_aliases(ORGANS).items() for alias in aliases]
    owners: dict[str, set[str]] = {}
    for name, organ in names:
        owners.setdefault(name, set()).add(organ)
    assert {name: organs for name, organs in owners.items() if len(organs) > 1} == {}


def test_aliases_come_for_the_organs_asked_for_that_are_known():
    assert built_in_aliases(["Brain"]) == {}
    (aliases,) = built_in_aliases(["Lens_R", "Brain"]).values()
    plain = {normalise_name(alias) for alias in aliases}
    assert {"rightlens", "lensrt", "右晶体", "linserechts"} <= plain
    assert len(plain) > len(PAIRED_ALIASES["Lens"])
