"""`nnunet_ext.networks.CascadeUNet`, as plans of version 0.1.0 name the network. Goes with the next version."""

from nnunet_ext.cascade.networks import CascadeUNet

__all__ = ["CascadeUNet"]
