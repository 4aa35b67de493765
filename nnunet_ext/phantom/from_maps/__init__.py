"""Heads of real people: label maps of whole heads become CT, T1w and T2w with exact labels of the seven organs.

- `tissues`: the tissues a head is made of.
- `map_labels`: which number of a label map means which tissue, read from a TOML file.
- `person`: one label map, checked and cleaned, in the frame of its head.
- `nerve_course`: where an optic nerve runs between its globe and the chiasm.
- `warp`: a turn, a stretch and a smooth random bend of a head.
- `draws`: the numbers drawn for one case.
- `organs`: eyes, lenses, nerves and chiasm as smooth shapes.
- `placing`: where these lie in one case.
- `sampling`: the tissue at any point of a case.
- `intensities`: brightness of the tissues in CT, T1w and T2w.
- `ct`, `fixation`: the CT, and what holds the head in it.
- `mr`: the MR with its artefacts.
- `one_case`, `making`: a case in memory, and cases as files.
"""
