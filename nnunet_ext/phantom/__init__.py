"""Synthetic heads.

From a seed to files, the modules are used in this order:

- `head_parameters` draws the numbers of a head.
- `shapes` and `waves` are its building blocks, `tissues` its values in CT and MR.
- `skin`, `skull_and_brain` and `eyes_and_chiasm` make its layers, `anatomy` puts them together.
- `pose` and `grids` place it in the CT and in the MR.
- `sampling`, `painting` and `organ_labels` make images and labels of it, `ct` and `mr` add noise and artefacts.
- `one_case` makes one phantom in memory, `making` many as files.

`torso` makes a case of another body site, from its shapes to its images.
"""
