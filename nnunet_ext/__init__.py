"""nnunet_ext: a localizer -> ROI crop -> segmenter cascade for small head organs at risk, on top of nnU-Net v2."""

__version__ = "0.1.0"
