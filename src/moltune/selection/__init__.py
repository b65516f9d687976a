"""Audit of external data, and selection of molecules to add to the training part."""
