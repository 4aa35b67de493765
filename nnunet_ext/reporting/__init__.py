"""Experiments side by side: tables, figures and the page."""
