"""Inputs of the parameters in scope: the layers in front of them run once for each molecule, when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedTokenizerBase

from moltune.attribution.scope import Scope, blocks_of
from moltune.models.batches import PadCollator, SmilesDataset, sorted_batches
from moltune.models.molformer import MolformerModel
from moltune.models.regression import RegressionModel

_MOST_KEPT = 2**30


class Tail(nn.Module):
    """The last blocks of a MoLFormer, its final norm and the head; takes the hidden states before these blocks."""

    def __init__(self, model: RegressionModel, blocks: int) -> None:
        super().__init__()
        encoder = model.encoder
        assert isinstance(encoder, MolformerModel)
        self.layers = nn.ModuleList(list(encoder.encoder.layer)[-blocks:])
        self.norm = encoder.LayerNorm
        self.head = model.head
        self.rotary = encoder.rotary

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Map (batch, length, width) to raw predictions (batch,)."""
        rotary = self.rotary(states.shape[1])
        mask = attention_mask[:, None, :, None].float()
        for layer in self.layers:
            states = layer(states, rotary, mask, None)
        return self.head(self.norm(states), attention_mask)


class Whole(nn.Module):
    """The whole model up to its raw predictions: standardised, or logits; takes token ids."""

    def __init__(self, model: RegressionModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map (batch, length) to raw predictions (batch,)."""
        found = self.model.encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
        return self.model.standardised(found.last_hidden_state, attention_mask)


class Inputs:
    """Molecules as the parameters in scope see them.

    For the scopes head and last-k, the output of the layers in front of the scope is computed once and kept: pooled
    embeddings for the head, hidden states for blocks of a MoLFormer (where they take at most 1 GiB).

    Args:
        model: in evaluation mode, float32.
        scope: parameters that will vary.
        tokenizer: that belongs to the model.
        smiles: n molecules.
        max_length: cut inputs to this many tokens; None: never.
    """

    def __init__(
        self,
        model: RegressionModel,
        scope: Scope,
        tokenizer: PreTrainedTokenizerBase,
        smiles: Sequence[str],
        max_length: int | None = None,
    ) -> None:
        self.model, self.smiles = model, list(smiles)
        self.tokenizer, self.max_length = tokenizer, max_length
        self.dataset = SmilesDataset(tokenizer, self.smiles, max_length=max_length)
        self.lengths = self.dataset.lengths
        self._collate = PadCollator(int(tokenizer.pad_token_id))
        self._module: nn.Module = Whole(model)
        # The layers in front of the scope, and their outputs of the molecules seen so far.
        self._encode: Callable[[dict[str, Tensor]], Tensor] | None = None
        self._kept: dict[int, Tensor] = {}
        encoder = model.encoder
        if scope.name == "head":
            self._module = model.head
            self._encode = lambda batch: model.embed(**batch)[:, None, :]
        elif (
            scope.name.startswith("last-")
            and type(encoder) is MolformerModel
            and all(name.startswith(("encoder.", "head.")) for name, _ in model.named_parameters())
            and 4 * sum(self.lengths) * int(model.config.encoder.hidden_size) <= _MOST_KEPT
        ):
            k = int(scope.name.removeprefix("last-"))
            start = len(blocks_of(model)[1]) - k
            self._module = Tail(model, k)
            self._encode = lambda batch: encoder(**batch, output_hidden_states=True).hidden_states[start]
        places = {id(value): name for name, value in self._module.named_parameters()}
        named = dict(model.named_parameters())
        self._names = {name: places[id(named[name])] for name in scope.parameters}

    def __len__(self) -> int:
        return len(self.smiles)

    def chunks(self, positions: Sequence[int], tokens: int) -> list[list[int]]:
        """Cut positions into batches of similar length with at most ``tokens`` padded tokens each."""
        chosen = list(positions)
        if self._module is self.model.head:
            return [chosen[i : i + tokens] for i in range(0, len(chosen), tokens)]
        result: list[list[int]] = []
        for position in sorted(chosen, key=lambda position: -self.lengths[position]):
            # Longest first, so the first of a chunk sets the width of all.
            if not result or (len(result[-1]) + 1) * self.lengths[result[-1][0]] > tokens:
                result.append([])
            result[-1].append(position)
        return result

    def batches(self, positions: Sequence[int], tokens: int) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Positions, first argument (tokens, hidden states or embeddings) and mask of each batch of some molecules."""
        self.prepare(positions)
        device = self.model.device
        for chunk in self.chunks(positions, tokens):
            if self._encode is None:
                made = self._collate([self.dataset[position] for position in chunk])
                yield chunk, made["input_ids"].to(device), made["attention_mask"].to(device)
            else:
                rows = [self._kept[position] for position in chunk]
                states = nn.utils.rnn.pad_sequence(rows, batch_first=True)
                counts = torch.tensor([len(row) for row in rows], device=device)
                yield chunk, states, (torch.arange(states.shape[1], device=device) < counts[:, None]).long()

    def predict(self, parameters: dict[str, Tensor], first: Tensor, mask: Tensor) -> Tensor:
        """Raw predictions (batch,) with ``parameters`` in place of the model's own."""
        renamed = {self._names[name]: value for name, value in parameters.items()}
        values: Tensor = functional_call(self._module, renamed, (first, mask))
        return values.float()

    @torch.no_grad()
    def prepare(self, positions: Sequence[int]) -> None:
        """Compute what lies in front of the scope for those molecules where that is not done yet."""
        if self._encode is None:
            return
        missing = [position for position in positions if position not in self._kept]
        for places in sorted_batches([self.lengths[position] for position in missing], 64):
            chosen = [missing[place] for place in places]
            made = self._collate([self.dataset[position] for position in chosen])
            found = self._encode({key: value.to(self.model.device) for key, value in made.items()})
            for row, position in zip(found, chosen, strict=True):
                self._kept[position] = row[: self.lengths[position]].clone()
