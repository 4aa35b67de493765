"""nnU-Net trainers of the cascade."""
