"""A case: found in folders or DICOM, read, and prepared for nnU-Net.

- `case` is the form that conversion and prediction need. `source_layout` tells folders from DICOM.
- Of folders: `folder_case`, with labels by `label_files` and `organ_masks`.
- Of DICOM: `dicom_cases` and `dicom_case`, with `series_rules`, `series_choice`, `structures` and `key_file`.
- `prediction_cases` finds the cases to contour. `preparing` brings the images of a case into the form of the training.
"""
