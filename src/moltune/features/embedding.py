"""Pooled embeddings of a frozen language model: the feature ``embedding``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from moltune.config import ModelSettings
from moltune.models.coverage import Issue, check_smiles
from moltune.models.names import resolve
from moltune.models.onnx_network import FIRST, MEAN, OnnxNetwork, has_graph

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
        from moltune.models.checkpoints import make_regression

        own = self.settings
        network = make_regression(own.name, head=own.head, revision=own.revision, weights=own.weights)
        return network.eval().requires_grad_(False)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer."""
        from moltune.models.checkpoints import load_tokenizer

        return load_tokenizer(self.settings.name, self.settings.revision)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What a saved probe notes of its encoder, to find it again and to know it."""
        return {
            "model": self.settings.name,
            "revision": self.settings.revision,
            "pooling": self.settings.head,
            "truncate": self.truncate,
            "digest": self.digest,
        }

    @property
    def truncate(self) -> bool:
        """Whether SMILES that are longer than the network reads are cut."""
        return self.settings.too_long == "truncate"

    @cached_property
    def digest(self) -> str | None:
        """Of the encoder's tensors; see :mod:`moltune.models.digest`."""
        from moltune.models.digest import tensor_digest

        return tensor_digest(self.network.encoder)

    @property
    def _limit(self) -> int | None:
        from moltune.models.checkpoints import max_length

        return max_length(self.network.encoder, self.tokenizer)

    def issues(self, smiles: Sequence[str]) -> dict[int, Issue]:
        """Positions of the SMILES that the tokenizer cannot read, or not wholly, with the reason."""
        return check_smiles(self.tokenizer, smiles, self._limit)

    def __call__(self, smiles: Sequence[str]) -> np.ndarray:
        """Embeddings, float32, shape (n, hidden_size)."""
        from moltune.models.inference import embed_smiles

        limit = self._limit if self.truncate else None
        values = embed_smiles(self.network, self.tokenizer, smiles, batch_size=self.batch_size, max_length=limit)
        return values.astype(np.float32)


class OnnxEncoder(Encoder):
    """The same from the graph beside a checkpoint, without torch and transformers."""

    # Larger batches do not stay in the processor's cache: 8 % slower at 32.
    def __init__(self, settings: ModelSettings, batch_size: int = 16) -> None:
        super().__init__(settings, batch_size)

    @classmethod
    def find(cls, settings: ModelSettings, digest: str | None = None) -> Self | None:
        """The encoder of a checkpoint that has a graph, of the network with this digest; None: there is none."""
        if settings.weights != "pretrained" or not has_graph(resolve(settings.name)):
            return None
        found = cls(settings)
        return found if digest in (None, found.digest) else None

    @cached_property
    def graph(self) -> OnnxNetwork:
        """Graph and tokenizer."""
        return OnnxNetwork(resolve(self.settings.name))

    @property
    def digest(self) -> str:
        """As it stands in the graph."""
        return self.graph.facts.digest

    def issues(self, smiles: Sequence[str]) -> dict[int, Issue]:
        """Positions of the SMILES that the tokenizer cannot read, or not wholly, with the reason."""
        return self.graph.issues(smiles)

    def __call__(self, smiles: Sequence[str]) -> np.ndarray:
        """Embeddings, float32, shape (n, hidden_size)."""
        output = FIRST if self.settings.head == "cls" else MEAN
        values = self.graph.run(output, smiles, batch_size=self.batch_size, truncate=self.truncate)
        return values.astype(np.float32)
