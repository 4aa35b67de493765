"""The tissues that heads of label maps are made of."""

from __future__ import annotations

#: Tissues a label map may hold, by the names that its TOML file uses. `fat_and_muscle` is divided per case. The last
#: three are drawn anew as smooth shapes.
MAP_TISSUES = (
    "air",
    "skin",
    "fat",
    "muscle",
    "fat_and_muscle",
    "mucosa",
    "bone",
    "marrow",
    "csf",
    "white_matter",
    "grey_matter",
    "deep_grey",
    "brain_stem",
    "choroid_plexus",
    "artery",
    "vein",
    "eyes",
    "optic_nerve",
    "optic_chiasm",
)
#: All tissues. The code of a tissue is its place in this tuple.
TISSUES = (*MAP_TISSUES, "lid", "sclera", "vitreous", "lens", "sheath", "implant")
CODE = {name: code for code, name in enumerate(TISSUES)}
AIR = CODE["air"]
