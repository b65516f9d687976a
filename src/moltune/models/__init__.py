"""Encoders, heads, tokenizers and checkpoints."""

MOST_DEVIATIONS = 5.0
"""What standardised features of kernel heads are clipped to."""
