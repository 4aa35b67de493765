"""Organs: their names, values, left/right pairs, colours and plausible volumes."""
