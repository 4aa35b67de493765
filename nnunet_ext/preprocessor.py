"""Where lookup modules of version 0.1.0, copied into nnU-Net, look for the preprocessor. Goes with the next version."""

from nnunet_ext.cascade.preprocessor import CascadeOARPreprocessor

__all__ = ["CascadeOARPreprocessor"]
