"""`nnunet_ext.roi.OrganExtent`, which cases preprocessed by version 0.1.0 hold. Goes with the next version."""

from nnunet_ext.cascade.roi import OrganExtent

__all__ = ["OrganExtent"]
