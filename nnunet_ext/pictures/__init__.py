"""Slices with contours, and surfaces.

The view is radiological. The patient's right is on the picture's left, anterior (or superior) is up. Images are turned to
LPS before a slice is taken, so rows and columns of an axial slice are (posterior, left) and need no flip.
"""
