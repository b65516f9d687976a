"""Regression heads: from the last hidden states of an encoder to one standardised number per molecule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from moltune.errors import ConfigError, NumericsError
from moltune.models.pooling import mean_pool


class Head(nn.Module, ABC):
    """A regression head on an encoder of width ``hidden_size``.

    ``pool`` turns hidden states (batch, length, width) into one vector per molecule (batch, width), by default the mean
    over real tokens; ``predict`` turns that vector into one standardised value per molecule (batch,). Calling the head
    does both.
    """

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.dropout = nn.Dropout(dropout)

    def pool(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Map (batch, length, width) to (batch, width), float32."""
        return mean_pool(hidden_states, attention_mask)

    @abstractmethod
    def predict(self, pooled: Tensor) -> Tensor:
        """Map (batch, width) to (batch,)."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Map hidden states to standardised predictions (batch,), in float32 also under autocast."""
        with torch.autocast(device_type=hidden_states.device.type, enabled=False):
            return self.predict(self.pool(hidden_states, attention_mask).to(self.dtype))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the head's weights."""
        return next(self.parameters()).dtype


class MeanHead(Head):
    """Mean over real tokens, dropout, linear (default)."""

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__(hidden_size, dropout)
        self.out_proj = nn.Linear(hidden_size, 1)

    def predict(self, pooled: Tensor) -> Tensor:
        """Dropout and linear."""
        return self.out_proj(self.dropout(pooled)).squeeze(-1)


class ClsHead(MeanHead):
    """First token, dropout, linear (founding study B)."""

    def pool(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Take the first token."""
        return hidden_states[:, 0].float()


class MolformerHead(Head):
    """Mean over real tokens and the published two-layer head with skip connections.

    h = gelu(drop(W₁p)) + p; h' = gelu(drop(W₂h)) + h; out = W₃h'.
    """

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__(hidden_size, dropout)
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.dense2 = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, 1)

    def predict(self, pooled: Tensor) -> Tensor:
        """Two skip layers and linear."""
        hidden = gelu(self.dropout(self.dense(pooled))) + pooled
        hidden = gelu(self.dropout(self.dense2(hidden))) + hidden
        return self.out_proj(hidden).squeeze(-1)


HEADS: dict[str, type[Head]] = {"mean": MeanHead, "cls": ClsHead, "molformer": MolformerHead}


def make_head(name: str, hidden_size: int, dropout: float) -> Head:
    """Build the head called ``name``.

    Raises:
        ConfigError: there is no such head.
    """
    if name not in HEADS:
        raise ConfigError(f"there is no head {name!r}; choose one of: {', '.join(HEADS)}")
    return HEADS[name](hidden_size, dropout)


def fit_by_ridge(layer: nn.Linear, embedded: np.ndarray, target: np.ndarray) -> None:
    """Set a linear layer to the ridge regression of targets on embeddings; leave-one-out error chooses the penalty.

    Training that starts from a random layer first pulls the encoder towards noise; from a fitted one it starts with the
    error of the linear probe and keeps the pretrained features (Kumar et al. 2022, arXiv:2202.10054).

    Args:
        layer: changed in place.
        embedded: (n, width), with dropout on: fitted on clean embeddings, the layer would lean on differences that are
            smaller than the noise of training, and its first loss would be many times the variance.
        target: standardised, (n,) or (n, outputs).

    Raises:
        NumericsError: an embedding is not finite.
    """
    from sklearn.linear_model import RidgeCV

    if not np.isfinite(embedded).all():
        raise NumericsError("the checkpoint gives embeddings that are not finite; its weights are damaged")
    ridge = RidgeCV(alphas=np.logspace(-3, 4, 29)).fit(embedded, target)
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(ridge.coef_).view_as(layer.weight))
        layer.bias.copy_(torch.as_tensor(ridge.intercept_).view_as(layer.bias))


def fit_by_logistic(
    layer: nn.Linear, embedded: np.ndarray, labels: np.ndarray, weights: tuple[float, float] = (1.0, 1.0)
) -> None:
    """The same for two classes, by logistic regression with an L2 penalty; the log loss of five folds chooses it.

    Args:
        layer: changed in place.
        embedded: (n, width), with dropout on.
        labels: 0 or 1, (n,).
        weights: of the negative and of the positive class.

    Raises:
        NumericsError: an embedding is not finite.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    if not np.isfinite(embedded).all():
        raise NumericsError("the checkpoint gives embeddings that are not finite; its weights are damaged")
    mean, std = embedded.mean(axis=0), embedded.std(axis=0)
    scaled, classes = (embedded - mean) / np.where(std > 0, std, 1.0), labels.astype(np.int64)
    options: dict[str, Any] = {"class_weight": {0: weights[0], 1: weights[1]}, "max_iter": 500}
    penalties = np.logspace(-4, 1, 6)
    fewest = int(np.bincount(classes).min())
    if fewest > 1:
        folds = StratifiedKFold(min(5, fewest), shuffle=True, random_state=0)
        errors = [
            log_loss(classes, cross_val_predict(machine, scaled, classes, cv=folds, method="predict_proba"))
            for machine in (LogisticRegression(C=C, **options) for C in penalties)
        ]
        penalties = penalties[[int(np.argmin(errors))]]
    found = LogisticRegression(C=penalties[0], **options).fit(scaled, classes)
    weight = found.coef_[0] / np.where(std > 0, std, 1.0)
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(weight).view_as(layer.weight))
        layer.bias.copy_(torch.as_tensor(found.intercept_[0] - float(weight @ mean)).view_as(layer.bias))
