"""Influence functions: the effect of an additional training molecule on the loss of another part."""
