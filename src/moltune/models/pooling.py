"""From one vector per token to one per molecule."""

from __future__ import annotations

from torch import Tensor


def mean_pool(hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Average (batch, length, width) over real tokens, special tokens included; returns (batch, width), float32."""
    hidden_states = hidden_states.float()
    if attention_mask is None:
        return hidden_states.mean(dim=1)
    weights = attention_mask.to(hidden_states.dtype).unsqueeze(-1)
    return (hidden_states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
