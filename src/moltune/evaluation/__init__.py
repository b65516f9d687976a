"""Judging a model: metrics with intervals, baselines, figures, statistics and the report of a run."""
