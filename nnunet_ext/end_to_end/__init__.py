"""Whole chains of commands: the demo and the benchmarks."""
