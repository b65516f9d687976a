"""Tuning methods: which parameters are trained, and how many they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any

from moltune.config import MethodSettings
from moltune.errors import ConfigError
from moltune.models.regression import RegressionModel


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a model under one method.

    Attributes:
        method: name of the method.
        adapter: trainable parameters outside the head.
        head: trainable parameters of the head.
        trainable: the two together.
        total: all parameters, trainable or not.
    """

    method: str
    adapter: int
    head: int
    trainable: int
    total: int

    @property
    def share(self) -> float:
        """Trainable part of the whole."""
        return self.trainable / self.total

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, ``share`` included."""
        return {**asdict(self), "share": self.share}


class Method(ABC):
    """A way to tune a regression model.

    A method is switched on once, on a model fresh from :func:`moltune.models.checkpoints.make_regression`; what it
    leaves with ``requires_grad`` is what the optimiser gets. The model that comes back has the same forward pass
    and, unless the method says otherwise, the same predictions as before.
    """

    name: str
    description: str

    def __init__(self, settings: MethodSettings) -> None:
        self.settings = settings

    @abstractmethod
    def switch_on(self, model: RegressionModel) -> RegressionModel:
        """Mark (or add) the parameters to train; return the model to train."""

    def count(self, model: RegressionModel) -> ParameterCount:
        """Count the parameters of a model on which this method is switched on."""
        head = {id(parameter) for parameter in model.head.parameters()}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        in_head = sum(parameter.numel() for parameter in trained if id(parameter) in head)
        trainable = sum(parameter.numel() for parameter in trained)
        total = sum(parameter.numel() for parameter in model.parameters())
        return ParameterCount(self.name, trainable - in_head, in_head, trainable, total)


class FullFineTuning(Method):
    """Train every parameter of encoder and head."""

    name = "full"
    description = "every parameter of encoder and head"

    def switch_on(self, model: RegressionModel) -> RegressionModel:
        """Leave everything trainable."""
        return model.requires_grad_(True)


class HeadOnly(Method):
    """Train the head on a frozen encoder (its dropout stays on)."""

    name = "head"
    description = "the head alone, on a frozen encoder"

    def switch_on(self, model: RegressionModel) -> RegressionModel:
        """Freeze the encoder."""
        model.requires_grad_(False)
        model.head.requires_grad_(True)
        return model


METHODS: dict[str, type[Method]] = {method.name: method for method in (FullFineTuning, HeadOnly)}


def make_method(settings: MethodSettings) -> Method:
    """Build the method that the settings name.

    Raises:
        ConfigError: there is no such method.
    """
    if settings.name not in METHODS:
        raise ConfigError(f"there is no method {settings.name!r}; choose one of: {', '.join(METHODS)}")
    return METHODS[settings.name](settings)
