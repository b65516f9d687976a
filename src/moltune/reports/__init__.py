"""Figures, words and HTML pages about a run."""
