"""Which parameters learn how fast, and from when on: layer-wise learning rates and staged unfreezing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerState

from moltune.config import TrainingSettings
from moltune.models.joint import JointModel
from moltune.models.regression import RegressionModel

_LAYER = re.compile(r"\.(\d+)\.")


def parameter_groups(model: RegressionModel | JointModel, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Split trainable parameters into groups with a learning rate and a weight decay each; empty ones are left out.

    The head has its own rate. In the encoder a layer learns at ``layer_decay`` times the rate of the layer above it
    (Howard and Ruder 2018, arXiv:1801.06146), the embeddings as a layer below the first one, and what comes after the
    last layer at the full rate. Weight decay acts on matrices only: not on biases, layer norms or scaling vectors.
    """
    rate = settings.head_learning_rate or settings.learning_rate
    below = layers_below_the_top([name for name, _ in model.encoder.named_parameters()])
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_head = name.startswith("head.")
        distance = 0 if is_head or settings.layer_decay == 1 else below[name.removeprefix("encoder.")]
        groups.setdefault((is_head, distance, parameter.ndim <= 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if is_vector else settings.weight_decay,
            "lr": (rate if is_head else settings.learning_rate) * settings.layer_decay**distance,
        }
        for (is_head, distance, is_vector), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def layers_below_the_top(names: list[str]) -> Mapping[str, int]:
    """How many layers lie above each parameter of an encoder, by its name."""
    layers = {name: _LAYER.search(f".{name}") for name in names}
    numbers = {name: int(found.group(1)) for name, found in layers.items() if found is not None}
    top = max(numbers.values(), default=-1)
    return {
        name: top - numbers[name] if name in numbers else (top + 1 if "embed" in name.lower() else 0) for name in names
    }


class FreezeEncoder(TrainerCallback):
    """Let the head alone learn for the first epochs, then everything that the method trains."""

    def __init__(self, model: RegressionModel | JointModel, epochs: int) -> None:
        self.epochs = epochs
        self.parameters = [parameter for parameter in model.encoder.parameters() if parameter.requires_grad]

    def on_epoch_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Freeze or unfreeze; a resumed run knows its epoch."""
        self._set(round(state.epoch or 0) >= self.epochs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the model as the method left it."""
        self._set(True)

    def _set(self, trainable: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(trainable)
            if not trainable:
                parameter.grad = None
