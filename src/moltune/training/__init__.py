"""Pretraining, fine-tuning and their objectives."""
