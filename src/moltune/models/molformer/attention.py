"""Rotary positions and the linear attention of MoLFormer.

Linear attention (Katharopoulos et al. 2020, arXiv:2006.16236) with random features of the softmax kernel
(Choromanski et al. 2021, arXiv:2009.14794) on rotated queries and keys (Su et al. 2021, arXiv:2104.09864)::

    out_t = φ(q_t)·(Σ_s φ(k_s) v_sᵀ) / max(φ(q_t)·Σ_s φ(k_s), eps),    φ(u) = relu(u W)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from moltune.models.molformer.configuration import MolformerConfig


def draw_feature_maps(count: int, head_size: int, num_features: int, device: torch.device | None = None) -> Tensor:
    """Draw ``count`` orthogonal random feature matrices with a single batched QR decomposition.

    Each block of ``head_size`` columns is the orthogonal factor of a Gaussian matrix whose columns are rescaled
    by that matrix's row norms, so that a column is distributed like a Gaussian vector while the columns of one
    block stay orthogonal.

    Returns:
        Tensor of shape (count, head_size, num_features), float32.
    """
    blocks = -(-num_features // head_size)
    gaussian = torch.randn(count * blocks, head_size, head_size, device=device)
    orthogonal = torch.linalg.qr(gaussian).Q
    scaled = orthogonal * torch.linalg.vector_norm(gaussian, dim=2).unsqueeze(1)
    side_by_side = scaled.view(count, blocks, head_size, head_size).transpose(1, 2)
    return side_by_side.reshape(count, head_size, blocks * head_size)[..., :num_features].contiguous()


def rotary_tables(head_size: int, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, each of shape (length, head_size), float32."""
    frequencies = 10000.0 ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to ``x`` (batch, length, heads, head_size) with tables (length, head_size)."""
    half = x.shape[-1] // 2
    # Both halves of a table are equal; one is enough, and two fused sums spare three passes over ``x``.
    cos, sin = cos[:, None, :half], sin[:, None, :half]
    first, second = x.chunk(2, dim=-1)
    turned = torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)
    return torch.cat(turned, dim=-1)


class MolformerRotaryEmbedding(nn.Module):
    """Rotary tables for every position that the model takes, computed once and shared by all layers."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.max_length = config.max_position_embeddings
        cos, sin = rotary_tables(self.head_size, self.max_length)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """Return the tables of the first ``length`` positions."""
        if length > self.max_length:
            raise ValueError(
                f"the input has {length} tokens, but this model takes {self.max_length} (max_position_embeddings)"
            )
        return self.cos[:length], self.sin[:length]


class MolformerFeatureMap(nn.Module):
    """φ(u) = kernel(u W). ``weight`` (head_size, num_random_features) is a buffer that travels in checkpoints."""

    weight: Tensor

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(config.head_size, config.num_random_features))
        self.kernel = ACT2FN[config.feature_map_kernel]

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Map (…, head_size) to (…, num_random_features), with ``weight`` in place of the stored one if given."""
        return self.kernel(x @ (self.weight if weight is None else weight).to(x.dtype))


class MolformerSelfAttention(nn.Module):
    """Multi-head linear attention over the whole sequence, in time and memory linear in its length."""

    def __init__(self, config: MolformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_size = config.head_size
        self.eps = config.linear_attention_eps
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.feature_map = MolformerFeatureMap(config)

    def forward(
        self,
        hidden_states: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        feature_weight: Tensor | None = None,
    ) -> Tensor:
        """Map (batch, length, hidden_size) to the same shape.

        Args:
            hidden_states: (batch, length, hidden_size).
            rotary: tables (length, head_size) each.
            mask: (batch, 1, length, 1), float32, one for real tokens and zero for padding; ``None``: no padding.
            feature_weight: (head_size, num_random_features), used in place of the stored feature map.
        """
        batch, length, width = hidden_states.shape
        shape = (batch, length, self.num_heads, self.head_size)
        # Adapters replace these three layers, so each is called for itself rather than fused into one product.
        query = self.query(hidden_states).view(shape)
        key = self.key(hidden_states).view(shape)
        value = self.value(hidden_states).view(shape).transpose(1, 2)
        # Sums of unbounded features over a sequence overflow half precision, and bf16's eight bits of mantissa
        # shift the ratio below; this part costs little, so it always runs in fp32.
        with torch.autocast(device_type=hidden_states.device.type, enabled=False):
            query_features = self.feature_map(rotate(query.float(), *rotary), feature_weight)
            key_features = self.feature_map(rotate(key.float(), *rotary), feature_weight).transpose(1, 2)
            if mask is not None:
                key_features = key_features * mask
            key_value = key_features.transpose(-1, -2) @ value.float()
            normaliser = (query_features * key_features.sum(dim=-2).unsqueeze(1)).sum(dim=-1, keepdim=True)
            # Dividing the features, rather than the wider context, is the same quotient for less work.
            context = (query_features / normaliser.clamp(min=self.eps)).transpose(1, 2) @ key_value
        return context.transpose(1, 2).reshape(batch, length, width).to(value.dtype)
