"""Meaning of the numbers in a collection of label maps, read from a TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_ext.files import read_toml
from nnunet_ext.images.label_maps import shown_values
from nnunet_ext.phantom.from_maps.tissues import CODE, MAP_TISSUES

#: The file for the label maps of SynthSeg.
DEFAULT_LABELS = Path(__file__).with_name("default_labels.toml")
#: Tissues without which no case can be made.
NEEDED = ("air", "eyes", "optic_chiasm")


@dataclass(frozen=True)
class MapLabels:
    """What the numbers of a label map mean.

    Attributes:
        tissue_of: Number -> name of a tissue in `MAP_TISSUES`.
        left, right: Numbers of the left and the right half of the brain. Both empty if the file does not say.
    """

    tissue_of: Mapping[int, str]
    left: frozenset[int] = frozenset()
    right: frozenset[int] = frozenset()

    def codes(self, numbers: np.ndarray) -> np.ndarray:
        """Tissue codes, uint8, of an array of numbers.

        Raises:
            ValueError: If a number has no meaning.
        """
        lowest = int(numbers.min())
        if int(numbers.max()) - lowest < 2**20:  # counting is far quicker than sorting
            places = numbers - numbers.dtype.type(lowest)
            present = np.flatnonzero(np.bincount(places.ravel())) + lowest
        else:
            present = np.unique(numbers)
        unknown = [int(number) for number in present if int(number) not in self.tissue_of]
        if unknown:
            several = len(unknown) > 1
            raise ValueError(
                f"the number{'s' * several} {shown_values(unknown)} {'have' if several else 'has'} no meaning; "
                "add a tissue for each in the file of --labels-file"
            )
        table = np.zeros(int(present[-1]) - lowest + 1, np.uint8)
        table[present - lowest] = [CODE[self.tissue_of[int(number)]] for number in present]
        return table[numbers - numbers.dtype.type(lowest)]


def load_map_labels(path: Path | None = None) -> MapLabels:
    """Meaning of the numbers from a TOML file, without one that of SynthSeg's label maps.

    `[tissues]` has one line per tissue, such as `bone = [515]`. `[halves]` may list numbers of the `left` and the `right`
    half of the brain. Without it the sides are those of the file's own axes.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is not TOML, or a line makes no sense.
    """
    path = DEFAULT_LABELS if path is None else Path(path)
    called = f"labels file {path.name}"
    content = read_toml(path, called=called)
    tissues = content.get("tissues")
    if not isinstance(tissues, dict):
        raise ValueError(f"{called} has no [tissues] section; write [tissues], then bone = [515]")
    tissue_of: dict[int, str] = {}
    for tissue, numbers in tissues.items():
        if tissue not in MAP_TISSUES:
            raise ValueError(f"{called}: {tissue!r} is no tissue. Use: {', '.join(MAP_TISSUES)}")
        for number in _whole_numbers(numbers, f"{called}: {tissue}"):
            if tissue_of.setdefault(number, tissue) != tissue:
                raise ValueError(f"{called}: {number} is both {tissue_of[number]} and {tissue}; keep it once")
    missing = [tissue for tissue in NEEDED if tissue not in tissue_of.values()]
    if missing:
        raise ValueError(f"{called} has no number for {', '.join(missing)}")
    halves = content.get("halves", {})
    if not isinstance(halves, dict) or set(halves) - {"left", "right"} or len(halves) == 1:
        raise ValueError(f"{called}: [halves] needs two lines, left = [2, 3] and right = [41, 42]")
    sides = {side: frozenset(_whole_numbers(halves[side], f"{called}: {side}")) for side in halves}
    if sides and (not all(sides.values()) or sides["left"] & sides["right"]):
        raise ValueError(f"{called}: left and right of [halves] need numbers of their own")
    return MapLabels(tissue_of, **sides)


def _whole_numbers(numbers: object, where: str) -> list[int]:
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise ValueError(f"{where} = {numbers!r} is not a list of whole numbers, such as [2, 41]")
    return numbers
