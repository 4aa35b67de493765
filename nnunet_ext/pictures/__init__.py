"""Slices with contours, and surfaces."""
