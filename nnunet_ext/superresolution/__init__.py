"""Thin slices of thick ones, by a small network that learns from the slices' own plane."""
