"""An encoder with the heads of its objectives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from moltune.errors import ConfigError
from moltune.models.molformer import MolformerConfig, MolformerForMaskedLM, MolformerModel
from moltune.models.molformer.modeling import MolformerLMHead
from moltune.models.pooling import mean_pool
from moltune.models.strict import quiet_transformers
from moltune.pretraining.objectives import Encoded, MaskedLanguageModel, Objective, Regression


@dataclass(frozen=True)
class Vocabulary:
    """What masking has to know of a tokenizer.

    Attributes:
        pad: id of the padding token.
        mask: id of the mask token; None: nothing can be masked.
        special: ids that are never masked.
        ordinary: ids from which random tokens are drawn.
    """

    pad: int
    mask: int | None
    special: Tensor
    ordinary: Tensor

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        """A fast tokenizer's."""
        special = {int(token) for token in tokenizer.all_special_ids}
        ordinary = set(tokenizer.get_vocab().values()) - special
        mask = getattr(tokenizer, "mask_token_id", None)
        return cls(int(tokenizer.pad_token_id), mask, torch.tensor(sorted(special)), torch.tensor(sorted(ordinary)))


class PretrainingModel(nn.Module):
    """An encoder and its objectives.

    Args:
        encoder: gives ``last_hidden_state`` for ``input_ids`` and ``attention_mask``.
        heads: objective by name.
        vocabulary: of the tokenizer.
        whole: the model around the encoder that is to be saved; None: the encoder alone.

    Raises:
        ConfigError: tokens are to be masked, and the tokenizer has no mask token.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        heads: Mapping[str, Objective],
        vocabulary: Vocabulary,
        whole: PreTrainedModel | None = None,
    ) -> None:
        super().__init__()
        if "mlm" in heads and vocabulary.mask is None:
            raise ConfigError("the model's tokenizer has no mask token, so it cannot learn masked tokens; choose mtr")
        self.vocabulary = vocabulary
        self.encoder = encoder
        self.heads = nn.ModuleDict(heads)
        # In a tuple, torch does not take it for a second copy of the encoder.
        self._whole = (encoder if whole is None else whole,)

    @classmethod
    def fresh(
        cls, config: MolformerConfig, sizes: Mapping[str, int], objectives: Iterable[str], vocabulary: Vocabulary
    ) -> PretrainingModel:
        """A MoLFormer with random weights under fresh heads, which is saved in the published masked-LM layout.

        Args:
            config: of the encoder.
            sizes: number of target values of each regression, by name.
            objectives: ``mlm``, and names of regressions.
            vocabulary: of the tokenizer.
        """
        encoder = MolformerModel(config, add_pooling_layer=False)
        heads: dict[str, Objective] = {
            name: MaskedLanguageModel(MolformerLMHead(config))
            if name == "mlm"
            else Regression(name, config.hidden_size, sizes[name])
            for name in objectives
        }
        for head in heads.values():
            head.apply(encoder._init_weights)
        mlm = heads.get("mlm")
        with torch.device("meta" if mlm else "cpu"):
            whole = MolformerForMaskedLM(config)
        whole.molformer = encoder
        if isinstance(mlm, MaskedLanguageModel):
            whole.lm_head = mlm.lm_head
        return cls(encoder, heads, vocabulary, whole)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, intact: Tensor, targets: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the loss of each objective, unweighted; arguments as in :class:`Encoded`."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        encoded = Encoded(hidden, mean_pool(hidden, attention_mask), labels, intact, targets)
        return {name: head(encoded) for name, head in self.heads.items()}

    def save_checkpoint(self, folder: Path) -> None:
        """Write the encoder, with its language-model head where it has one, in ``save_pretrained`` layout."""
        with quiet_transformers():
            self._whole[0].save_pretrained(folder)
