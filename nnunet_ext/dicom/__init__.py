"""DICOM series and RTSTRUCT, in and out."""
