"""Applicability domain: how far a new molecule is from those that a model was trained on, and in what."""
