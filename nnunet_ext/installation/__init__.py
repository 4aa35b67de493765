"""Hooks into nnU-Net, the doctor, and models from a zip file."""
