"""The contract of a tuning method: which parameters are trained, and how many they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

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
    takes_peft: ClassVar[bool] = False

    def __init__(self, settings: MethodSettings) -> None:
        if settings.peft and not self.takes_peft:
            raise ConfigError(
                f"{self.name} is no method of peft, so peft.{next(iter(settings.peft))} means nothing to it"
            )
        if settings.ia3_start != 1 and self.name != "ia3":
            raise ConfigError(f"method.ia3_start belongs to ia3, not to {self.name}")
        if settings.layer_norm_biases and self.name != "bitfit":
            raise ConfigError(f"method.layer_norm_biases belongs to bitfit, not to {self.name}")
        self.settings = settings

    @abstractmethod
    def switch_on(self, model: RegressionModel) -> RegressionModel:
        """Mark (or add) the parameters to train; return the model to train."""

    def count(self, model: RegressionModel) -> ParameterCount:
        """Count the parameters of a model on which this method is switched on."""
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        in_head = sum(parameter.numel() for parameter in model.head.parameters() if parameter.requires_grad)
        return ParameterCount(self.name, trainable - in_head, in_head, trainable, model.num_parameters())
