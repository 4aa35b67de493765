"""Colours of organs."""

from __future__ import annotations

from nnunet_ext.labels.colours import COLOURS, colours


def test_colours_are_fixed_by_the_place_in_the_labels_and_differ():
    many = {f"organ_{i}": i for i in range(1, 21)}
    assert len(set(colours(many).values())) == 20
    few = colours({"background": 0, "Lens_L": 1, "Lens_R": 2, "OpticChiasm": 3})
    assert few == {"Lens_L": COLOURS[0], "Lens_R": COLOURS[1], "OpticChiasm": COLOURS[2]}
