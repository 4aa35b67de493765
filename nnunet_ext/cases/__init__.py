"""A case: found in folders or DICOM, read, and prepared for nnU-Net."""
