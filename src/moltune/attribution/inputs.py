"""What the parameters in scope see of each molecule: what lies in front of them is computed once, when needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedTokenizerBase

from moltune.attribution.scope import Scope, blocks_of
from moltune.models.batches import PadCollator, SmilesDataset, sorted_batches
from moltune.models.molformer import MolformerModel
from moltune.models.regression import RegressionModel

_MOST_CACHED = 2**30


class Tail(nn.Module):
    """The last blocks of a MoLFormer, its final norm and the head, from the stream before these blocks."""

    def __init__(self, model: RegressionModel, blocks: int) -> None:
        super().__init__()
        encoder = model.encoder
        assert isinstance(encoder, MolformerModel)
        layers = encoder.encoder.layer
        self.layers = nn.ModuleList([layers[number] for number in range(len(layers) - blocks, len(layers))])
        self.norm = encoder.LayerNorm
        self.head = model.head
        self.rotary = encoder.rotary

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Map (batch, length, width) to standardised predictions (batch,)."""
        rotary = self.rotary(states.shape[1])
        mask = attention_mask[:, None, :, None].float()
        for layer in self.layers:
            states = layer(states, rotary, mask, None)
        return self.head(self.norm(states), attention_mask)


class Inputs:
    """Molecules as the parameters in scope see them.

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
        self._cached: list[Tensor | None] | None = None
        self._encode: Callable[[dict[str, Tensor]], Tensor] = _nothing
        self._module: nn.Module = model
        encoder = model.encoder
        tokens, width = sum(self.lengths), int(model.config.encoder.hidden_size)
        if scope.name == "head":
            self._module = model.head
            self._cached = [None] * len(self.smiles)
            self._encode = lambda batch: model.embed(**batch)[:, None, :]
        elif (
            scope.name.startswith("last-")
            and type(encoder) is MolformerModel
            and all(key.startswith("encoder.") for key, _ in model.named_parameters() if not key.startswith("head."))
            and 4 * tokens * width <= _MOST_CACHED
        ):
            k = int(scope.name.removeprefix("last-"))
            self._module = Tail(model, k)
            start = len(blocks_of(model)[1]) - k
            self._cached = [None] * len(self.smiles)
            self._encode = lambda batch: encoder(**batch, output_hidden_states=True).hidden_states[start]
        places = {id(value): name for name, value in self._module.named_parameters()}
        named = dict(model.named_parameters())
        self._names = {name: places[id(named[name])] for name in scope.parameters}

    def __len__(self) -> int:
        return len(self.smiles)

    def chunks(self, positions: Sequence[int] | None = None, tokens: int = 8192) -> list[list[int]]:
        """Cut positions into batches of similar length with at most ``tokens`` padded tokens each."""
        chosen = list(range(len(self))) if positions is None else list(positions)
        if self._module is self.model.head:
            return [chosen[i : i + tokens] for i in range(0, len(chosen), tokens)]
        lengths = [self.lengths[position] for position in chosen]
        result: list[list[int]] = []
        for place in (p for batch in sorted_batches(lengths, max(1, len(chosen))) for p in batch):
            # Longest first, so the first of a chunk sets the width of all.
            if not result or (len(result[-1]) + 1) * self.lengths[result[-1][0]] > tokens:
                result.append([])
            result[-1].append(chosen[place])
        return result

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """First argument (tokens, states or pooled) and mask of some molecules, padded to the longest of them."""
        device = self.model.device
        if self._cached is None:
            made = self._collate([self.dataset[position] for position in positions])
            return made["input_ids"].to(device), made["attention_mask"].to(device)
        self.prepare(positions)
        rows = [row for row in (self._cached[position] for position in positions) if row is not None]
        states = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        counts = torch.tensor([len(row) for row in rows], device=device)
        return states, (torch.arange(states.shape[1], device=device) < counts[:, None]).long()

    def predict(self, parameters: dict[str, Tensor], first: Tensor, mask: Tensor) -> Tensor:
        """Standardised predictions (batch,) with ``parameters`` in place of the model's own."""
        renamed = {self._names[name]: value for name, value in parameters.items()}
        if self._cached is not None:
            values: Tensor = functional_call(self._module, renamed, (first, mask))
            return values.float()
        logits = functional_call(self._module, renamed, kwargs={"input_ids": first, "attention_mask": mask}).logits
        config = self.model.config
        return (logits.squeeze(-1) - config.target_mean) / config.target_std

    @torch.no_grad()
    def prepare(self, positions: Sequence[int]) -> None:
        """Compute what lies in front of the parameters in scope for molecules where that is not done yet.

        A caller that will ask for many batches prepares all of them at once, in batches that suit the encoder.
        """
        if self._cached is None:
            return
        missing = [position for position in positions if self._cached[position] is None]
        for places in sorted_batches([self.lengths[position] for position in missing], 64):
            chosen = [missing[place] for place in places]
            made = self._collate([self.dataset[position] for position in chosen])
            found = self._encode({key: value.to(self.model.device) for key, value in made.items()})
            for row, position in enumerate(chosen):
                count = 1 if found.shape[1] == 1 else self.lengths[position]
                self._cached[position] = found[row, :count].clone()


def _nothing(batch: dict[str, Tensor]) -> Tensor:
    raise AssertionError("nothing is cached for this scope")
