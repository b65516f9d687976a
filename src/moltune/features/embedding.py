"""Pooled embeddings of a frozen language model: the feature ``embedding``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from moltune.config import ModelSettings
from moltune.models.checkpoints import load_tokenizer, make_regression, max_length
from moltune.models.coverage import Issue, check_smiles
from moltune.models.digest import tensor_digest
from moltune.models.inference import embed_smiles
from moltune.models.regression import RegressionModel


class Encoder:
    """SMILES -> pooled embeddings; the checkpoint is loaded when the first one is asked for.

    Args:
        settings: the checkpoint, its pooling (``head``), and whether over-long SMILES are cut.
        batch_size: molecules embedded at a time.
    """

    def __init__(self, settings: ModelSettings, batch_size: int = 32) -> None:
        self.settings, self.batch_size = settings, batch_size

    @cached_property
    def network(self) -> RegressionModel:
        """The checkpoint under an unused head, in evaluation mode."""
        own = self.settings
        network = make_regression(own.name, head=own.head, revision=own.revision, weights=own.weights)
        return network.eval().requires_grad_(False)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer."""
        return load_tokenizer(self.settings.name, self.settings.revision)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a saved probe notes of its encoder, to find it again and to know it."""
        return {
            "model": self.settings.name,
            "revision": self.settings.revision,
            "pooling": self.settings.head,
            "truncate": self.settings.too_long == "truncate",
            "digest": tensor_digest(self.network.encoder),
        }

    def issues(self, smiles: Sequence[str]) -> dict[int, Issue]:
        """Positions of the SMILES that the tokenizer cannot read, or not wholly, with the reason."""
        return check_smiles(self.tokenizer, smiles, max_length(self.network.encoder, self.tokenizer))

    def __call__(self, smiles: Sequence[str]) -> np.ndarray:
        """Embeddings, float32, shape (n, hidden_size)."""
        network, tokenizer = self.network, self.tokenizer
        limit = max_length(network.encoder, tokenizer) if self.settings.too_long == "truncate" else None
        values = embed_smiles(network, tokenizer, smiles, batch_size=self.batch_size, max_length=limit)
        return values.astype(np.float32)
