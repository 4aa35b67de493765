"""One module per kind of source: find cases, check them, write nnU-Net raw format."""
