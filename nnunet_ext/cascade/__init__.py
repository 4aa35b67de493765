"""What nnU-Net plugs in besides plans and trainers: network, preprocessor, resampling, region of interest."""
