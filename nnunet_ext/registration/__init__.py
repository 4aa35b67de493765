"""MR brought onto the CT."""
