"""Judging models: metrics with intervals, tests over several runs, power, and comparisons of samples."""
