"""Uncertainty of the predictions of a tuned model."""
