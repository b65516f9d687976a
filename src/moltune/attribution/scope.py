"""Which parameters an influence is computed over, and their flat layout."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moltune.config import SCOPE_PATTERN
from moltune.errors import ConfigError, NumericsError
from moltune.models.regression import RegressionModel


@dataclass(frozen=True)
class Scope:
    """Parameters of a model as one flat vector.

    Attributes:
        name: "head", "last-k", "adapter" or "all".
        parameters: name in the model → value, detached, float32.
    """

    name: str
    parameters: dict[str, Tensor]

    @property
    def size(self) -> int:
        """Number of values."""
        return sum(value.numel() for value in self.parameters.values())

    def flatten(self, values: Mapping[str, Tensor]) -> Tensor:
        """One vector, shape (size,)."""
        return torch.cat([values[name].reshape(-1) for name in self.parameters])

    def fill_rows(self, into: Tensor, rows: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Write tensors with a leading dimension len(rows) into those rows of ``into``, shape (n, size)."""
        into[list(rows)] = torch.cat([values[name].flatten(1) for name in self.parameters], dim=1)

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of a vector with each parameter's shape."""
        pieces = vector.to(torch.float32).split([value.numel() for value in self.parameters.values()])
        return {
            name: piece.view_as(value) for (name, value), piece in zip(self.parameters.items(), pieces, strict=True)
        }

    def decay(self, weight_decay: float) -> Tensor:
        """Weight decay of each number, shape (size,): on matrices only, as in training."""
        pieces = {
            name: torch.full_like(value, weight_decay if value.ndim > 1 else 0.0)
            for name, value in self.parameters.items()
        }
        return self.flatten(pieces).double()

    def check_finite(self, vector: Tensor, what: str) -> None:
        """Raise NumericsError, naming the tensor, where a value of a flat vector is not finite."""
        if torch.isfinite(vector).all():
            return
        bad = [name for name, value in self.unflatten(vector).items() if not torch.isfinite(value).all()]
        raise NumericsError(f"{what} is not finite in the tensor {', '.join(bad[:3])}")


def choose_scope(model: RegressionModel, name: str) -> Scope:
    """Pick parameters of a model.

    - ``head``: those of the regression head.
    - ``last-k``: the last k blocks of the encoder and everything behind them (final norm, head).
    - ``adapter``: those that the tuning method left trainable.
    - ``all``: every one.

    Raises:
        ConfigError: there is no such scope, fewer than k blocks, or no adapter.
    """
    if not re.fullmatch(SCOPE_PATTERN, name):
        raise ConfigError(f"there is no scope {name!r}; choose head, last-1, last-2 ..., adapter or all")
    named = dict(model.named_parameters())
    if name == "all":
        chosen = list(named)
    elif name == "head":
        chosen = [key for key in named if key.startswith("head.")]
    elif name == "adapter":
        chosen = [key for key, value in named.items() if value.requires_grad]
        if len(chosen) == len(named):
            raise ConfigError("every parameter of this model was trained, so it has no adapter; take last-1 or all")
    else:
        place, blocks = blocks_of(model)
        first = len(blocks) - int(name.removeprefix("last-"))
        if first < 0:
            raise ConfigError(f"the encoder has {len(blocks)} blocks, so there is no scope {name}; take all")
        before = tuple(f"{place}.{number}." for number in range(first))
        names = list(named)
        start = next(number for number, key in enumerate(names) if key.startswith(f"{place}.{first}."))
        # What comes behind the blocks in the model, the final norm and the head, also comes behind them in this list.
        chosen = [key for key in names[start:] if not key.startswith(before)]
    if not chosen:
        raise ConfigError(f"this model has no parameters in the scope {name!r}")
    return Scope(name, {key: named[key].detach().float() for key in chosen})


def blocks_of(model: RegressionModel) -> tuple[str, nn.ModuleList]:
    """Name and list of the encoder's blocks.

    Raises:
        ConfigError: the encoder has no list of blocks.
    """
    lists = [(name, module) for name, module in model.encoder.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ConfigError("this encoder has no list of blocks; choose the scope head or all")
    # Adapters and gates keep short lists inside the blocks, which come later.
    name, found = max(lists, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))
    return f"encoder.{name}", found
