"""Regression heads: from the last hidden states of an encoder to one standardised number per molecule."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from moltune.errors import ConfigError
from moltune.models.pooling import mean_pool


class Head(nn.Module, ABC):
    """A regression head on an encoder of width ``hidden_size``.

    ``pool`` turns hidden states (batch, length, width) into one vector per molecule (batch, width); ``predict``
    turns that vector into one standardised value per molecule (batch,). Calling the head does both.
    """

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.dropout = nn.Dropout(dropout)

    @abstractmethod
    def pool(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Map (batch, length, width) to (batch, width), float32."""

    @abstractmethod
    def predict(self, pooled: Tensor) -> Tensor:
        """Map (batch, width) to (batch,)."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Map hidden states to standardised predictions (batch,), in float32 also under autocast."""
        with torch.autocast(device_type=hidden_states.device.type, enabled=False):
            return self.predict(self.pool(hidden_states, attention_mask).to(self.dtype))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the head's weights."""
        return next(self.parameters()).dtype


class MeanHead(Head):
    """Mean over real tokens, dropout, linear (default)."""

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__(hidden_size, dropout)
        self.out_proj = nn.Linear(hidden_size, 1)

    def pool(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Average over real tokens."""
        return mean_pool(hidden_states, attention_mask)

    def predict(self, pooled: Tensor) -> Tensor:
        """Dropout and linear."""
        return self.out_proj(self.dropout(pooled)).squeeze(-1)


class ClsHead(MeanHead):
    """First token, dropout, linear (founding study B)."""

    def pool(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Take the first token."""
        return hidden_states[:, 0].float()


class MolformerHead(Head):
    """Mean over real tokens and the published two-layer head with skip connections.

    h = gelu(drop(W₁p)) + p; h' = gelu(drop(W₂h)) + h; out = W₃h'.
    """

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__(hidden_size, dropout)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dense2 = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, 1)

    def pool(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Average over real tokens."""
        return mean_pool(hidden_states, attention_mask)

    def predict(self, pooled: Tensor) -> Tensor:
        """Two skip layers and linear."""
        hidden = gelu(self.dropout(self.dense(pooled))) + pooled
        hidden = gelu(self.dropout(self.dense2(hidden))) + hidden
        return self.out_proj(hidden).squeeze(-1)


HEADS: dict[str, type[Head]] = {"mean": MeanHead, "cls": ClsHead, "molformer": MolformerHead}


def make_head(name: str, hidden_size: int, dropout: float) -> Head:
    """Build the head called ``name``.

    Raises:
        ConfigError: there is no such head.
    """
    if name not in HEADS:
        raise ConfigError(f"there is no head {name!r}; choose one of: {', '.join(HEADS)}")
    return HEADS[name](hidden_size, dropout)
