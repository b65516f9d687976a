"""The published forward pass of MoLFormer, written out plainly: what moltune's own is tested and timed against.

One matrix decomposition per layer and forward pass, in evaluation too unless ``deterministic_eval`` is set; cosines
and sines from tables made once, gathered by position in every layer; attention by plain matrix products in whatever
precision arrives. Tensor names are the published ones, so that one state dictionary fits both. Nothing here imports
moltune, so that an error there cannot hide here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """The part of a MoLFormer configuration that shapes the forward pass; defaults are MoLFormer-XL's."""

    vocab_size: int = 2362
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 768
    num_random_features: int = 32
    max_position_embeddings: int = 202
    hidden_dropout_prob: float = 0.1
    embedding_dropout_prob: float = 0.2
    layer_norm_eps: float = 1e-12
    linear_attention_eps: float = 1e-6
    deterministic_eval: bool = False


def rotary_tables(width: int, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, width), one number at a time."""
    angles = [[t * 10000.0 ** (-2.0 * (j % (width // 2)) / width) for j in range(width)] for t in range(length)]
    cos = [[math.cos(angle) for angle in row] for row in angles]
    sin = [[math.sin(angle) for angle in row] for row in angles]
    return torch.tensor(cos), torch.tensor(sin)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (batch, heads, length, width) by tables (1, 1, length, width)."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


class FeatureMap(nn.Module):
    """Random features of queries and keys, drawn anew at each call unless evaluation is deterministic."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.width = sizes.hidden_size // sizes.num_attention_heads
        self.count = sizes.num_random_features
        self.deterministic = sizes.deterministic_eval
        self.register_buffer("weight", self.draw())

    def draw(self) -> Tensor:
        """Draw (width, count): orthogonal blocks whose columns carry the row norms of Gaussian matrices."""
        blocks = []
        while sum(block.shape[1] for block in blocks) < self.count:
            gaussian = torch.randn(self.width, self.width)
            q, _ = torch.linalg.qr(gaussian)
            blocks.append(q * gaussian.norm(dim=1)[None, :])
        return torch.cat(blocks, dim=1)[:, : self.count]

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Map both to (…, count)."""
        if self.training or not self.deterministic:
            self.weight = self.draw()
        weight = self.weight.to(query.dtype)
        return torch.relu(query @ weight), torch.relu(key @ weight)


class SelfAttention(nn.Module):
    """Linear attention of one layer."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.num_attention_heads
        self.eps = sizes.linear_attention_eps
        self.query = nn.Linear(sizes.hidden_size, sizes.hidden_size)
        self.key = nn.Linear(sizes.hidden_size, sizes.hidden_size)
        self.value = nn.Linear(sizes.hidden_size, sizes.hidden_size)
        self.feature_map = FeatureMap(sizes)

    def split(self, x: Tensor) -> Tensor:
        """Divide (batch, length, hidden) into (batch, heads, length, width)."""
        return x.view(x.shape[0], x.shape[1], self.heads, -1).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, mask: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """Map the stream (batch, length, hidden) and its mask (batch, length)."""
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        positions = torch.arange(x.shape[1])[None]
        cos, sin = (table.to(x.dtype)[positions].unsqueeze(1) for table in tables)
        query, key = self.feature_map(turned(query, cos, sin), turned(key, cos, sin))
        key = key * mask[:, None, :, None].to(key.dtype)
        summary = key.transpose(-1, -2) @ value
        normaliser = (query @ key.sum(dim=-2).unsqueeze(-1)).clamp(min=self.eps)
        context = (query @ summary) / normaliser
        return context.permute(0, 2, 1, 3).contiguous().view(x.shape)


class Projection(nn.Module):
    """Dense, dropout, sum with the residual stream, layer norm."""

    def __init__(self, sizes: Sizes, width_in: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, sizes.hidden_size)
        self.LayerNorm = nn.LayerNorm(sizes.hidden_size, eps=sizes.layer_norm_eps)
        self.dropout = nn.Dropout(sizes.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Map (batch, length, width_in) to the next stream."""
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class Layer(nn.Module):
    """One block."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(sizes), "output": Projection(sizes, sizes.hidden_size)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(sizes.hidden_size, sizes.intermediate_size)})
        self.output = Projection(sizes, sizes.intermediate_size)

    def forward(self, x: Tensor, mask: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """Map the stream (batch, length, hidden) and its mask (batch, length)."""
        x = self.attention["output"](self.attention["self"](x, mask, tables), x)
        return self.output(nn.functional.gelu(self.intermediate["dense"](x)), x)


class ReferenceMolformer(nn.Module):
    """The encoder: token ids and mask (batch, length) in; stream before and after each block, then the last norm."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({"word_embeddings": nn.Embedding(sizes.vocab_size, sizes.hidden_size)})
        self.embedding_dropout = nn.Dropout(sizes.embedding_dropout_prob)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(sizes) for _ in range(sizes.num_hidden_layers))})
        self.LayerNorm = nn.LayerNorm(sizes.hidden_size, eps=sizes.layer_norm_eps)
        self.tables = rotary_tables(sizes.hidden_size // sizes.num_attention_heads, sizes.max_position_embeddings)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """Return the stream before the first block, after each one, and after the last norm."""
        states = [self.embedding_dropout(self.embeddings["word_embeddings"](input_ids))]
        for layer in self.encoder["layer"]:
            states.append(layer(states[-1], attention_mask, self.tables))
        return [*states, self.LayerNorm(states[-1])]


def average(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens, (batch, hidden)."""
    weights = mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)


def lm_logits(state: dict[str, Tensor], hidden: Tensor, eps: float = 1e-12) -> Tensor:
    """Masked-LM head from its published tensors."""
    x = hidden @ state["lm_head.transform.dense.weight"].T + state["lm_head.transform.dense.bias"]
    x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    centred = x - x.mean(dim=-1, keepdim=True)
    x = centred / (centred.pow(2).mean(dim=-1, keepdim=True) + eps).sqrt()
    x = x * state["lm_head.transform.LayerNorm.weight"] + state["lm_head.transform.LayerNorm.bias"]
    return x @ state["lm_head.decoder.weight"].T


def classifier_logits(state: dict[str, Tensor], pooled: Tensor, skip: bool = True) -> Tensor:
    """Classification head, without dropout, from its published tensors."""

    def dense(name: str, x: Tensor) -> Tensor:
        return x @ state[f"classifier.{name}.weight"].T + state[f"classifier.{name}.bias"]

    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))

    hidden = gelu(dense("dense", pooled))
    if skip:
        hidden = hidden + pooled
    residual = hidden
    hidden = gelu(dense("dense2", hidden))
    if skip:
        hidden = hidden + residual
    return dense("out_proj", hidden)
