"""Lookup modules that make nnU-Net find our classes; installed into nnU-Net's package."""
