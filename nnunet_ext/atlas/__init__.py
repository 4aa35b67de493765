"""Multi-atlas segmentation: contours of new cases from those of the training cases that are most like them."""
