"""The loss of single molecules as a function of their raw predictions: value, slope and curvature."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


class Loss(ABC):
    """ℓ(f, y) of n molecules; f are what the head gives (standardised predictions, or logits), y are their targets."""

    @abstractmethod
    def value(self, raw: Tensor, target: Tensor) -> Tensor:
        """ℓ, shape (n,)."""

    @abstractmethod
    def slope(self, raw: Tensor, target: Tensor) -> Tensor:
        """dℓ/df, shape (n,)."""

    @abstractmethod
    def curvature(self, raw: Tensor, target: Tensor) -> Tensor:
        """d²ℓ/df², shape (n,); not below zero."""


class SquaredError(Loss):
    """(f − y)², standardised."""

    def value(self, raw: Tensor, target: Tensor) -> Tensor:
        """(f − y)²."""
        return (raw - target) ** 2

    def slope(self, raw: Tensor, target: Tensor) -> Tensor:
        """2(f − y)."""
        return 2 * (raw - target)

    def curvature(self, raw: Tensor, target: Tensor) -> Tensor:
        """2."""
        return torch.full_like(raw, 2.0)


@dataclass(frozen=True)
class LogLoss(Loss):
    """−w log p of the true class, where the logistic function of a·f + b is the probability of the positive class.

    Attributes:
        weights: w of the negative and of the positive class.
        scale: (a, b).
    """

    weights: tuple[float, float] = (1.0, 1.0)
    scale: tuple[float, float] = (1.0, 0.0)

    def value(self, raw: Tensor, target: Tensor) -> Tensor:
        """In nats."""
        scaled = self.scale[0] * raw + self.scale[1]
        return binary_cross_entropy_with_logits(scaled, target, self._weight(target), reduction="none")

    def slope(self, raw: Tensor, target: Tensor) -> Tensor:
        """w a (p − y)."""
        return self._weight(target) * self.scale[0] * (self._probability(raw) - target)

    def curvature(self, raw: Tensor, target: Tensor) -> Tensor:
        """w a² p(1 − p)."""
        p = self._probability(raw)
        return self._weight(target) * self.scale[0] ** 2 * p * (1 - p)

    def _probability(self, raw: Tensor) -> Tensor:
        return torch.sigmoid(self.scale[0] * raw + self.scale[1])

    def _weight(self, target: Tensor) -> Tensor:
        negative, positive = self.weights
        return negative + (positive - negative) * (target > 0.5).to(target.dtype)
