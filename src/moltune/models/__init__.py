"""Encoders, heads, tokenizers and checkpoints."""
