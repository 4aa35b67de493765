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


def test_an_organ_has_its_colour_in_every_data_set():
    many = {f"organ_{i}": i for i in range(1, 21)}
    assert len(set(colours(many).values())) == 20
    few = colours({"background": 0, "OpticChiasm": 1, "Lens_R": 2, "Lens_L": 3})
    assert few == {"OpticChiasm": COLOURS[6], "Lens_R": COLOURS[3], "Lens_L": COLOURS[2]}
    assert colours({"right_eye": 1, "chiasma": 2}) == {"right_eye": COLOURS[1], "chiasma": COLOURS[6]}


def test_other_organs_take_free_colours_and_two_names_of_one_organ_differ():
    found = colours({"Brain": 1, "Eye_L": 2, "Parotid_L": 3, "left_eye": 4})
    assert found == {"Brain": COLOURS[1], "Eye_L": COLOURS[0], "Parotid_L": COLOURS[2], "left_eye": COLOURS[3]}
