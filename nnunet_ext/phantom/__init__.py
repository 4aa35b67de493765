"""Synthetic heads."""
