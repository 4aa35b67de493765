"""The command `nnunet_ext`."""
