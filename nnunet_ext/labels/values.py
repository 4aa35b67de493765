"""Label values of organs and of their left/right pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def organ_values(labels: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Organ -> its label values (several for a region), without `background` and `ignore`.

    Raises:
        ValueError: If no organ remains or one has a value below 1.
    """
    organs = {name: values_of(label) for name, label in labels.items() if name not in ("background", "ignore")}
    organs = {name: values for name, values in organs.items() if values != (0,)}
    if not organs:
        raise ValueError(f"the labels {dict(labels)} name no organ. Give at least one, e.g. {{'Eye_L': 1}}.")
    for name, values in organs.items():
        if not values or min(values) < 1:
            raise ValueError(f"organ '{name}' has label {labels[name]}; organs need label values of 1 or more.")
    return organs


def values_of(label: int | list[int] | tuple[int, ...]) -> tuple[int, ...]:
    """Label values of an organ, one or several."""
    return tuple(int(v) for v in label) if isinstance(label, (list, tuple)) else (int(label),)


def pair_values(pairs: Iterable[tuple[str, str]], labels: Mapping[str, int]) -> list[tuple[int, int]]:
    """`(left, right)` label values of pairs of names, sorted."""
    return sorted((int(labels[left]), int(labels[right])) for left, right in pairs)
