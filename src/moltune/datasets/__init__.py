"""Benchmark tables that come with moltune and load without a network."""

from moltune.datasets.bundled import DatasetInfo, info, load, names

__all__ = ["DatasetInfo", "info", "load", "names"]
