"""What a training loop minimises, for standardised predictions and targets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def censored_squared_error(predicted: Tensor, expected: Tensor, side: Tensor, noise: float) -> Tensor:
    """Mean of squared errors, and of what stands for them where only a bound was measured.

    The term of an exact measurement y is (p - y)², that of a bound -2σ² log Φ(s(p - y)/σ) with s = 1 where the
    measurement is above y and s = -1 where it is below. Times 1/(2σ²) this is the negative log-likelihood of Tobit's
    model with a known σ, but for a constant (Tobin 1958, doi:10.2307/1907382).

    Args:
        predicted, expected: (batch,).
        side: 1, -1, or 0 for an exact measurement, (batch,).
        noise: σ, standard deviation of a measurement around its prediction.
    """
    difference = predicted - expected
    bounded = -2 * noise**2 * torch.special.log_ndtr(side * difference / noise)
    return torch.where(side == 0, difference**2, bounded).mean()


def cross_entropy(logits: Tensor, expected: Tensor, weights: tuple[float, float]) -> Tensor:
    """Mean of -w log p(class), p the logistic function of the logit.

    Args:
        logits: of the positive class, (batch,).
        expected: 0 or 1, (batch,).
        weights: w of the negative and of the positive class.
    """
    weight = torch.where(expected > 0.5, weights[1], weights[0])
    return binary_cross_entropy_with_logits(logits, expected, weight=weight)
