"""Probabilities of two classes from scores: temperature and Platt's scaling."""

from __future__ import annotations

import numpy as np

Scale = tuple[float, float]
"""(a, b): the probability of the positive class is the logistic function of a·score + b."""
_LIMITS = (1e-3, 1e3)


def fit_scale(scores: np.ndarray, labels: np.ndarray, *, shift: bool = True) -> Scale:
    """Find the scale with the smallest log loss on molecules that the scores were not fitted on.

    Platt's scaling (Platt 1999, Advances in Large Margin Classifiers, 61-74) with his targets (n₁+1)/(n₁+2) and
    1/(n₀+2), which keep a few molecules that are all right from making every probability 0 or 1. Without ``shift``, b
    is 0 and 1/a the temperature (Guo et al. 2017, arXiv:1706.04599).

    Args:
        scores: of the positive class, shape (n,).
        labels: 0 or 1, shape (n,).
        shift: whether b may differ from 0.

    Returns:
        (1, 0) where there are not both classes.
    """
    from scipy.optimize import minimize

    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    positive, negative = labels.sum(), (1 - labels).sum()
    if not positive or not negative:
        return 1.0, 0.0
    wanted = np.where(labels > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(parameters: np.ndarray) -> float:
        logits = parameters[0] * scores + (parameters[1] if shift else 0.0)
        # -t log p - (1 - t) log(1 - p), p the logistic function
        return float(np.mean(np.logaddexp(0, logits) - wanted * logits))

    start = np.array([1.0, 0.0] if shift else [1.0])
    bounds = [_LIMITS, (None, None)] if shift else [_LIMITS]
    found = minimize(loss, start, method="L-BFGS-B", bounds=bounds).x
    return float(found[0]), float(found[1]) if shift else 0.0


def probability(scores: np.ndarray, scale: Scale) -> np.ndarray:
    """Of the positive class, shape (n,)."""
    return np.asarray(np.exp(-np.logaddexp(0, -(scale[0] * scores + scale[1]))), dtype=np.float64)


def score_of(probabilities: np.ndarray, scale: Scale) -> np.ndarray:
    """The inverse of :func:`probability`; those that are 0 or 1 become large."""
    clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return np.asarray((np.log(clipped / (1 - clipped)) - scale[1]) / scale[0], dtype=np.float64)
