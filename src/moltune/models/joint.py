"""Several properties trained together: one encoder under one head for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from moltune.models.regression import RegressionModel


class JointModel(nn.Module):
    """Regression models of several properties whose encoder is one and the same, as one model to train.

    The loss is Σₖ wₖ Σᵢ eᵢₖ / n over the n molecules of a batch and the properties k that were measured of each; e is
    what a model of that property alone minimises (squared error of standardised values, or cross-entropy), so that
    units do not matter. A gap adds nothing to it, and nothing to a gradient.

    Args:
        members: one model of each property; they share ``encoder``, and each can be used by itself after training.
        weights: w of each property.
    """

    # Trainer asks for it where a checkpoint holds a part of the tensors.
    _keys_to_ignore_on_save = None

    def __init__(self, members: Sequence[RegressionModel], weights: Sequence[float]) -> None:
        super().__init__()
        # In a tuple, for they are no parts of their own: encoder and heads are, and would be counted twice.
        self.members = tuple(members)
        self.weights = tuple(weights)
        self.encoder = members[0].encoder
        self.head = nn.ModuleList(one.head for one in members)

    @property
    def adapter(self) -> Any:
        """What a tuning method added to the encoder, if anything."""
        return self.members[0].adapter

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> SequenceClassifierOutput:
        """Predict; ``labels`` are (batch, properties) in the unit of each, NaN where there is none.

        Returns:
            ``logits`` (batch, properties) as those of the members; with labels, ``loss``.
        """
        encoded = self.encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
        hidden = encoded.last_hidden_state
        standardised = [one.standardised(hidden, attention_mask) for one in self.members]
        logits = torch.stack([one.in_unit(own) for one, own in zip(self.members, standardised, strict=True)], dim=1)
        return SequenceClassifierOutput(
            loss=None if labels is None else self.loss(standardised, labels.float()), logits=logits
        )

    def loss(self, standardised: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The loss of standardised predictions of each property, (batch,), and labels, (batch, properties)."""
        total = standardised[0].new_zeros(())
        for at, (one, predicted) in enumerate(zip(self.members, standardised, strict=True)):
            known = ~labels[:, at].isnan()
            if known.any():
                share = self.weights[at] * known.float().mean()
                total = total + share * one.loss(predicted[known], labels[known, at])
        return total


def equal_weights(labels: np.ndarray) -> list[float]:
    """Weights by which each property counts as much as any other, however many values it has.

    Args:
        labels: (n, properties), NaN where there is none; no property is without any.
    """
    counts = np.sum(~np.isnan(labels), axis=0)
    return (len(labels) / (len(counts) * counts)).tolist()
