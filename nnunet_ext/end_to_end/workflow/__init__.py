"""Chains of commands as data: their steps, what is done of them, and running what is missing."""
