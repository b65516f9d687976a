"""From out-of-fold predictions to intervals that hold what they promise, and how well they do."""

LEVEL = 0.9
"""Usual level of an interval: the share of measurements that it should hold."""
