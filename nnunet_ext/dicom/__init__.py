"""DICOM series and RTSTRUCT, in and out.

- Series are found by `series` and `series_members`, from `files`, `headers`, `text` and `personal`. `contrast` names their
  channel, `traits` and `parts` tell their volumes apart, and `model` holds them.
- `stack`, `pixels` and `reading` read one as an image. `series_writer` writes an image as one.
- `structure_set` and `rtstruct_reader` read the regions of an RTSTRUCT, `contour_planes` and `rasterising` make them masks.
- `tracing`, `rtstruct_headers` and `rtstruct_writer` write masks as RTSTRUCT.
"""
