"""Colours of organs."""

from __future__ import annotations

from matplotlib import colormaps
from matplotlib.colors import to_hex

from nnunet_ext.labels.colours import COLOURS, FURTHER_COLOURS, colours
from nnunet_ext.labels.organs import ORGANS


def test_the_seven_organs_have_seven_colours_and_keep_them_beside_background_and_ignore():
    labels = {organ: value for value, organ in enumerate(ORGANS, start=1)}
    assert list(colours(labels).items()) == list(zip(ORGANS, COLOURS, strict=True))
    assert colours({"background": 0, **labels, "ignore": 8}) == colours(labels)


def test_more_organs_take_the_palette_of_matplotlib_and_then_begin_anew():
    labels = {f"organ_{value}": value for value in range(1, 31)}
    found = list(colours(labels).values())
    assert found[7:27] == list(FURTHER_COLOURS) == [to_hex(colour) for colour in colormaps["tab20"].colors]
    assert found[27:] == list(COLOURS[:3])


def test_colours_are_fixed_by_the_place_in_the_labels_and_differ():
    many = {f"organ_{i}": i for i in range(1, 21)}
    assert len(set(colours(many).values())) == 20
    few = colours({"background": 0, "Lens_L": 1, "Lens_R": 2, "OpticChiasm": 3})
    assert few == {"Lens_L": COLOURS[0], "Lens_R": COLOURS[1], "OpticChiasm": COLOURS[2]}
