"""Trainers on a data set of four tiny cases."""

from tiny_trainings import folders, make

__all__ = ["folders", "make"]
