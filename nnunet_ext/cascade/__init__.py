"""Network, preprocessor, resampling and region of interest, which nnU-Net plugs in besides plans and trainers."""
