"""The encoder with its objectives as one function of static shapes, and Muon in a few batched products."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MethodType
from typing import Any

import torch
from packed import UNKNOWN
from torch import Tensor, nn

from moltune.models.molformer import MolformerConfig, MolformerForMaskedLM

IGNORED = -100
# Sequences up to this length attend through their (length x length) scores: the same sums in another order, with far
# less memory traffic than the (head size x features) state of each head of each molecule.
SHORT = 40


def attend(
    self: Any,
    hidden_states: Tensor,
    rotary: tuple[Tensor, Tensor],
    mask: Tensor | None = None,
    feature_weight: Tensor | None = None,
) -> Tensor:
    """``MolformerSelfAttention.forward`` for short sequences: (φ(Q) φ(K)ᵀ) V instead of φ(Q) (φ(K)ᵀ V).

    As there, everything but the projections runs in fp32 (TF32 products on a GPU that allows them).
    """
    batch, length, width = hidden_states.shape
    if length > SHORT or mask is None:
        return type(self).forward(self, hidden_states, rotary, mask, feature_weight)
    shape = (batch, length, self.num_heads, self.head_size)
    query, key = self.query(hidden_states).view(shape), self.key(hidden_states).view(shape)
    value = self.value(hidden_states).view(shape).transpose(1, 2)
    with torch.autocast(device_type=hidden_states.device.type, enabled=False):
        query_features = self.feature_map(turn(query.float(), *rotary), feature_weight).transpose(1, 2)
        key_features = self.feature_map(turn(key.float(), *rotary), feature_weight).transpose(1, 2) * mask
        scores = query_features @ key_features.transpose(-1, -2)
        scores = scores / scores.sum(dim=-1, keepdim=True).clamp(min=self.eps)
        context = scores @ value.float()
    return context.transpose(1, 2).reshape(batch, length, width).to(value.dtype)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions of (batch, length, heads, head size), in plain arithmetic that a compiler fuses."""
    half = x.shape[-1] // 2
    cos, sin = cos[:, None, :half], sin[:, None, :half]
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Network(nn.Module):
    """A MoLFormer, its masked-LM head, and one linear head on the mean embedding for each block of targets.

    Args:
        config: of the encoder.
        sizes: numbers to regress by objective.
        weights: of the objectives in the loss; those of weight 0 are left out.
        steps: size of a quantum of each block.
        ordinary: ids from which random tokens are drawn.
        ids: special ids (bos, eos, pad, mask).
        deep: objectives whose head has a hidden layer as wide as the encoder.
        masked: share of molecules that are masked, for the masked-LM objective alone.
        mask_share: share of the tokens of such a molecule that are to be predicted.
        bf16: projections in bf16, under autocast.
    """

    ordinary: Tensor

    def __init__(
        self,
        config: MolformerConfig,
        sizes: Mapping[str, int],
        weights: Mapping[str, float],
        steps: Mapping[str, float],
        ordinary: list[int],
        ids: tuple[int, int, int, int],
        *,
        deep: Sequence[str] = (),
        masked: float = 0.25,
        mask_share: float = 0.15,
        bf16: bool = True,
    ) -> None:
        super().__init__()
        self.model = MolformerForMaskedLM(config)
        regressions = [name for name in sizes if weights.get(name, 0) > 0]
        width = config.hidden_size
        self.heads = nn.ModuleDict()
        for name in regressions:
            last = nn.Linear(width, sizes[name])
            self.heads[name] = nn.Sequential(nn.Linear(width, width), nn.GELU(), last) if name in deep else last
            nn.init.normal_(last.weight, std=config.initializer_range)
            nn.init.zeros_(last.bias)
        self.weights = {name: float(weights[name]) for name in ["mlm", *regressions] if weights.get(name, 0) > 0}
        self.steps = {name: float(steps[name]) for name in regressions}
        self.bos, self.eos, self.pad, self.mask = ids
        self.masked = masked if "mlm" in self.weights else 0.0
        self.mask_share = mask_share
        self.bf16 = bf16
        self.register_buffer("ordinary", torch.tensor(ordinary), persistent=False)
        for layer in self.model.molformer.encoder.layer:
            attention = layer.attention.self
            attention.forward = MethodType(attend, attention)

    def encode(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Last hidden states (batch, length, width) and their mean over real tokens (batch, width), both fp32."""
        real = (ids != self.pad).float()
        encoder = self.model.molformer
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.bf16 and self.training):
            hidden = encoder(input_ids=ids, attention_mask=real).last_hidden_state.float()
        weights = real.unsqueeze(-1)
        return hidden, (hidden * weights).sum(1) / weights.sum(1).clamp(min=1.0)

    def corrupt(self, ids: Tensor, first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, Tensor]:
        """Mask tokens: 80 % become the mask, 10 % a random token, 10 % stay; uniform numbers decide.

        Returns corrupted ids and labels, which hold ``IGNORED`` where nothing is to be predicted.
        """
        maskable = (ids != self.bos) & (ids != self.eos) & (ids != self.pad)
        chosen = maskable & (first < self.mask_share)
        count = len(self.ordinary)
        random_ids = self.ordinary[(third * count).long().clamp_max(count - 1)]
        corrupted = torch.where(second < 0.8, self.mask, torch.where(second < 0.9, random_ids, ids))
        return torch.where(chosen, corrupted, ids), torch.where(chosen, ids, IGNORED)

    def losses(
        self, ids: Tensor, targets: Mapping[str, Tensor], rows: int, uniform: tuple[Tensor, Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """Loss of each objective; the first ``rows`` molecules are masked, the others regressed."""
        result: dict[str, Tensor] = {}
        if rows:
            corrupted, labels = self.corrupt(ids[:rows], *uniform)
            hidden, pooled = self.encode(torch.cat([corrupted, ids[rows:]]))
            with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.bf16 and self.training):
                logits = self.model.lm_head(hidden[:rows])
            # A fixed shape: every position is decoded, and those without a label count for nothing.
            total = nn.functional.cross_entropy(
                logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
            )
            result["mlm"] = total / (labels != IGNORED).sum().clamp(min=1)
        else:
            _, pooled = self.encode(ids)
        if rows < len(ids):
            for name, head in self.heads.items():
                quanta = targets[name][rows:]
                known = quanta != UNKNOWN
                error = head(pooled[rows:]) - quanta.float() * self.steps[name]
                result[name] = torch.where(known, error, 0.0).square().sum() / known.sum().clamp(min=1)
        return result

    def forward(self, ids: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The weighted loss, and each objective's own (detached, in the order of ``weights``)."""
        rows = round(self.masked * len(ids))
        uniform = tuple(torch.rand(rows, ids.shape[1], device=ids.device) for _ in range(3))
        losses = self.losses(ids, targets, rows, uniform)  # type: ignore[arg-type]
        values = torch.stack([losses[name] if name in losses else ids.new_zeros(()).float() for name in self.weights])
        scale = torch.stack([values.new_full((), weight) for weight in self.weights.values()])
        return (values * scale).sum(), values.detach()

    @torch.no_grad()
    def held_out(self, batches: Iterable[tuple[Tensor, dict[str, Tensor]]], seed: int = 0) -> dict[str, float]:
        """Losses on given molecules, each one masked once and intact once, with the same masks at every call."""
        sums = dict.fromkeys(self.weights, 0.0)
        sizes = dict.fromkeys(self.weights, 1e-9)
        self.eval()
        generator = torch.Generator().manual_seed(seed)
        for ids, targets in batches:
            uniform = tuple(torch.rand(ids.shape, generator=generator).to(ids.device) for _ in range(3))
            found = self.losses(ids, targets, 0, uniform)  # type: ignore[arg-type]
            if "mlm" in self.weights:
                found |= self.losses(ids, targets, len(ids), uniform)  # type: ignore[arg-type]
            for name in self.weights:
                known = len(ids) if name == "mlm" else int((targets[name] != UNKNOWN).sum())
                if known:
                    sums[name] += float(found[name]) * known
                    sizes[name] += known
        self.train()
        return {name: sums[name] / sizes[name] for name in self.weights}

    def matrices(self) -> list[nn.Parameter]:
        """The matrices of the layers, which Muon trains."""
        return [p for p in self.model.molformer.encoder.parameters() if p.ndim == 2]


class BatchedMuon:
    """Muon (see ``moltune``'s own, of which this is the same rule) for stacks of matrices of one shape.

    The learning rate is a tensor, so that a step can be captured in a CUDA graph; Newton-Schulz runs in ``dtype``.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], rate: Tensor, weight_decay: float, dtype: torch.dtype
    ) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            by_shape.setdefault(parameter.shape, []).append(parameter)
        self.groups = list(by_shape.values())
        self.momenta = [torch.zeros(len(g), *g[0].shape, device=g[0].device) for g in self.groups]
        self.rate, self.weight_decay, self.dtype = rate, weight_decay, dtype

    @torch.no_grad()
    def step(self, momentum: float = 0.95) -> None:
        """One step of every matrix."""
        for parameters, momenta in zip(self.groups, self.momenta, strict=True):
            gradients = torch.stack([p.grad for p in parameters])  # type: ignore[misc]
            momenta.lerp_(gradients, 1 - momentum)
            update = orthogonalise(gradients.lerp_(momenta, momentum), self.dtype).float()
            update = update * (self.rate * (0.2 * max(parameters[0].shape) ** 0.5))
            torch._foreach_mul_(list(parameters), 1 - self.rate * self.weight_decay)
            torch._foreach_sub_(list(parameters), list(update.unbind(0)))

    def reset(self) -> None:
        """Forget the momenta."""
        for momenta in self.momenta:
            momenta.zero_()


def orthogonalise(stack: Tensor, dtype: torch.dtype, steps: int = 5) -> Tensor:
    """Approximate U Vᵀ of each matrix of a stack by Newton-Schulz steps (Jordan et al. 2024)."""
    tall = stack.shape[1] > stack.shape[2]
    x = stack.mT if tall else stack
    norm = x.square().sum(dim=(1, 2), keepdim=True).sqrt().clamp_min(1e-7)
    x = (x / norm).to(dtype).contiguous()
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def make_adamw(network: Network, rate: Tensor, weight_decay: float) -> torch.optim.AdamW:
    """AdamW for whatever Muon does not train; its rate is the tensor ``rate``."""
    layers = {id(p) for p in network.matrices()}
    rest = [p for p in network.parameters() if id(p) not in layers]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True, capturable=rate.is_cuda)
