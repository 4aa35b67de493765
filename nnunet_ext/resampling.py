"""Where lookup modules of version 0.1.0, copied into nnU-Net, look for resampling functions. Goes with the next version."""

from nnunet_ext.cascade.resampling import resample_image, resample_label_map

__all__ = ["resample_image", "resample_label_map"]
