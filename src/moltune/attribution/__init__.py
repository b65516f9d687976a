"""Influence functions: what adding a molecule to the training part does to the loss on another part."""
