"""What an encoder is taught without labels: masked tokens (MLM), descriptors (MTR), a teacher's fingerprint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """What every objective of one step sees.

    Attributes:
        hidden: last hidden states, (batch, length, width).
        pooled: mean over real tokens, (batch, width).
        labels: the original token where one was masked, else ``IGNORED``, (batch, length).
        intact: molecules whose input was not masked, bool (batch,).
        targets: values to regress by objective name, (batch, n); NaN where unknown.
    """

    hidden: Tensor
    pooled: Tensor
    labels: Tensor
    intact: Tensor
    targets: dict[str, Tensor]


class Objective(nn.Module, ABC):
    """One training signal, with the head that it needs; heads of objectives are not part of the encoder."""

    @abstractmethod
    def forward(self, encoded: Encoded) -> Tensor:
        """Return the loss, a scalar; zero (attached to the graph) when the batch holds nothing to learn from."""

    @abstractmethod
    def size(self, labels: Tensor, intact: Tensor, targets: dict[str, Tensor]) -> int:
        """How many terms the loss of such a batch averages over; fields as in :class:`Encoded`."""


class MaskedLanguageModel(Objective):
    """Cross-entropy in nats over masked tokens (Devlin et al. 2019, arXiv:1810.04805).

    ``lm_head`` maps hidden states (n, width) to logits (n, vocabulary).
    """

    def __init__(self, lm_head: nn.Module) -> None:
        super().__init__()
        self.lm_head = lm_head

    def forward(self, encoded: Encoded) -> Tensor:
        """Decode only the positions that were masked: the decoder is the widest layer of a small model."""
        chosen = encoded.labels != IGNORED
        logits = self.lm_head(encoded.hidden[chosen]).float()
        return nn.functional.cross_entropy(logits, encoded.labels[chosen], reduction="sum") / chosen.sum().clamp(min=1)

    def size(self, labels: Tensor, intact: Tensor, targets: dict[str, Tensor]) -> int:
        """Masked tokens."""
        return int((labels != IGNORED).sum())


class Regression(Objective):
    """Mean squared error of standardised values from the pooled embedding of intact molecules.

    Serves multi-task regression of descriptors (arXiv:2503.03360) and distillation of a teacher's fingerprint
    alike. The head is linear, so that what is learnt lies ready in the embedding itself.
    """

    def __init__(self, name: str, hidden_size: int, size: int) -> None:
        super().__init__()
        self.name = name
        self.out_proj = nn.Linear(hidden_size, size)

    def forward(self, encoded: Encoded) -> Tensor:
        """Average over known values of intact molecules."""
        expected = encoded.targets[self.name]
        known = torch.isfinite(expected) & encoded.intact.unsqueeze(1)
        error = self.out_proj(encoded.pooled) - torch.nan_to_num(expected)
        return (error.square() * known).sum() / known.sum().clamp(min=1)

    def size(self, labels: Tensor, intact: Tensor, targets: dict[str, Tensor]) -> int:
        """Known values of intact molecules."""
        return int((torch.isfinite(targets[self.name]) & intact.unsqueeze(1)).sum())


def mask_tokens(
    input_ids: Tensor,
    maskable: Tensor,
    *,
    vocabulary: tuple[int, int] | Tensor,
    mask_id: int,
    share: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose tokens and corrupt them: 80 % become the mask, 10 % a random token, 10 % stay.

    Args:
        input_ids: (batch, length).
        maskable: positions that may be chosen, bool, same shape.
        vocabulary: range of ids, first and one past the last, from which random tokens are drawn; or those ids.
        mask_id: id of the mask token.
        share: probability of each maskable position.
        generator: source of randomness.

    Returns:
        The corrupted ids, and labels that hold the original id where a token was chosen and ``IGNORED`` elsewhere.
    """
    draw = torch.rand(input_ids.shape, generator=generator)
    chosen = (draw < share) & maskable
    labels = torch.where(chosen, input_ids, torch.full_like(input_ids, IGNORED))
    kind = torch.rand(input_ids.shape, generator=generator)
    if isinstance(vocabulary, Tensor):
        random_ids = vocabulary[torch.randint(len(vocabulary), input_ids.shape, generator=generator)]
    else:
        random_ids = torch.randint(*vocabulary, input_ids.shape, generator=generator)
    corrupted = torch.where(chosen & (kind < 0.8), torch.full_like(input_ids, mask_id), input_ids)
    return torch.where(chosen & (kind >= 0.9), random_ids, corrupted), labels
