"""An encoder with the heads of its objectives, and how one batch of it is divided among processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moltune.errors import ConfigError
from moltune.models.molformer import MolformerConfig
from moltune.models.pooling import mean_pool
from moltune.pretraining.objectives import Encoded, Objective

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Vocabulary:
    """What masking has to know of a tokenizer.

    Attributes:
        pad: id of the padding token.
        mask: id of the mask token; None: nothing can be masked.
        special: ids that are never masked.
        ordinary: range of ids (first and one past the last), or the ids, from which random tokens are drawn.
    """

    pad: int
    mask: int | None
    special: tuple[int, ...]
    ordinary: tuple[int, int] | Tensor

    @classmethod
    def of_molformer(cls, config: MolformerConfig) -> Vocabulary:
        """MoLFormer's: special tokens in front, the unknown token last."""
        special = tuple(int(i or 0) for i in (config.bos_token_id, config.eos_token_id, config.pad_token_id))
        return cls(int(config.pad_token_id or 0), 3, special, (4, config.vocab_size - 1))

    @classmethod
    def of_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        """Any fast tokenizer's."""
        special = tuple(sorted(int(i) for i in tokenizer.all_special_ids))
        ordinary = torch.tensor(sorted(set(tokenizer.get_vocab().values()) - set(special)))
        mask = getattr(tokenizer, "mask_token_id", None)
        return cls(int(tokenizer.pad_token_id), None if mask is None else int(mask), special, ordinary)

    def mask_id(self) -> int:
        """The mask token.

        Raises:
            ConfigError: the tokenizer has none.
        """
        if self.mask is None:
            raise ConfigError("the model's tokenizer has no mask token, so it cannot learn masked tokens; choose mtr")
        return self.mask


class Learner(nn.Module, ABC):
    """An encoder and its objectives.

    Args:
        encoder: gives ``last_hidden_state`` for ``input_ids`` and ``attention_mask``.
        heads: objective by name.
        weights: of each objective in the total loss.
        vocabulary: of the tokenizer.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        heads: Mapping[str, Objective],
        weights: dict[str, float],
        vocabulary: Vocabulary,
    ) -> None:
        super().__init__()
        self.weights = weights
        self.vocabulary = vocabulary
        self.encoder = encoder
        self.heads = nn.ModuleDict(heads)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, intact: Tensor, targets: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the loss of each objective, unweighted."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        encoded = Encoded(hidden, mean_pool(hidden, attention_mask), labels, intact, targets)
        return {name: head(encoded) for name, head in self.heads.items()}

    @abstractmethod
    def save_checkpoint(self, folder: Path) -> None:
        """Write the encoder in ``save_pretrained`` layout."""


@dataclass(frozen=True)
class Shard:
    """This process's part of a batch that several processes share.

    The loss of a shard is weighted by its share of what the whole batch holds (masked tokens, known values), so that
    the average over processes is the loss, and its gradient the gradient, of one process with the whole batch.

    Attributes:
        rank: of this process.
        count: of processes.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def of(cls, accelerator: Accelerator | None) -> Shard:
        """The shard of this process; without accelerate, everything."""
        return cls() if accelerator is None else cls(accelerator.process_index, accelerator.num_processes)

    def cut(self, batch: dict[str, Any], heads: nn.ModuleDict) -> tuple[dict[str, Any], dict[str, float]]:
        """Rows of this process, and the factor of each of its losses.

        Where a batch has fewer rows than there are processes, whoever has none takes the first one, with factor 0.
        """
        if self.count == 1:
            return batch, dict.fromkeys(heads, 1.0)
        rows = torch.arange(len(batch["input_ids"]))[self.rank :: self.count]
        empty = len(rows) == 0
        if empty:
            rows = torch.zeros(1, dtype=torch.long)
        part = {name: _rows(value, rows) for name, value in batch.items()}
        factors = {}
        for name, head in heads.items():
            assert isinstance(head, Objective)
            whole, own = (head.size(b["labels"], b["intact"], b["targets"]) for b in (batch, part))
            factors[name] = 0.0 if empty or not whole else self.count * own / whole
        return part, factors


def _rows(value: Any, rows: Tensor) -> Any:
    return {name: item[rows] for name, item in value.items()} if isinstance(value, dict) else value[rows]
