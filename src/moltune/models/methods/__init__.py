"""Tuning methods: which parameters are trained, what an adapter adds, how it is merged and counted."""
