"""nnU-Net planners of the cascade."""
