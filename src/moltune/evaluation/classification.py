"""Metrics of two classes, from the probability of the positive one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

_SMALLEST = 1e-7
BINS = 10


def roc_auc(true: np.ndarray, predicted: np.ndarray) -> Any:
    """Area under the ROC curve over the last axis: (..., n) in, (...) out; NaN where there is one class alone.

    The share of pairs of a positive and a negative molecule of which the positive one has the higher probability; a tie
    is half of a pair (Mann-Whitney).
    """
    from scipy.stats import rankdata

    positive = np.sum(true, axis=-1)
    negative = true.shape[-1] - positive
    ranks = np.sum(rankdata(predicted, axis=-1) * true, axis=-1)
    return _divide(ranks - positive * (positive + 1) / 2, positive * negative)


def pr_auc(true: np.ndarray, predicted: np.ndarray) -> Any:
    """Average precision over the last axis: (..., n) in, (...) out; NaN without a positive molecule.

    The mean, over the positive molecules, of the precision among those that are at least as probable. Guessing has the
    prevalence.
    """
    order = np.argsort(-predicted, axis=-1, kind="stable")
    labels, ranked = np.take_along_axis(true, order, axis=-1), np.take_along_axis(predicted, order, axis=-1)
    n = true.shape[-1]
    # Molecules of one probability come in together: the precision of each is that of the last of them.
    ends = np.append(ranked[..., 1:] != ranked[..., :-1], np.ones((*ranked.shape[:-1], 1), dtype=bool), axis=-1)
    last = np.where(ends, np.arange(n), n)
    last = np.flip(np.minimum.accumulate(np.flip(last, axis=-1), axis=-1), axis=-1)
    precision = np.take_along_axis(np.cumsum(labels, axis=-1) / np.arange(1, n + 1), last, axis=-1)
    return _divide(np.sum(labels * precision, axis=-1), np.sum(labels, axis=-1))


def balanced_accuracy(true: np.ndarray, predicted: np.ndarray) -> Any:
    """Mean of the shares of both classes that are on their side of a probability of one half; NaN for one class."""
    tp, fp, fn, tn = _counts(true, predicted)
    return (_divide(tp, tp + fn) + _divide(tn, tn + fp)) / 2


def mcc(true: np.ndarray, predicted: np.ndarray) -> Any:
    """Matthews' correlation of classes and predictions, cut at one half; 0 where all are predicted to be of one class.

    NaN where there is one class alone.
    """
    tp, fp, fn, tn = _counts(true, predicted)
    one_class = (tp + fn == 0) | (tn + fp == 0)
    size = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    found = np.where(size > 0, (tp * tn - fp * fn) / np.where(size > 0, size, 1), 0.0)
    return np.where(one_class, np.nan, found)


def brier(true: np.ndarray, predicted: np.ndarray) -> Any:
    """Mean squared difference of class and probability."""
    return np.mean((predicted - true) ** 2, axis=-1)


def log_loss(true: np.ndarray, predicted: np.ndarray) -> Any:
    """Mean of -log of the probability of the true class; probabilities are cut at 1e-7 and 1 - 1e-7."""
    clipped = np.clip(predicted, _SMALLEST, 1 - _SMALLEST)
    return -np.mean(np.where(true > 0.5, np.log(clipped), np.log1p(-clipped)), axis=-1)


def prevalence(true: np.ndarray, predicted: np.ndarray) -> Any:
    """Share of the positive class among the molecules; what a precision has to be compared with."""
    return np.mean(true, axis=-1)


CLASSIFICATION_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "roc_auc": roc_auc,
    "pr_auc": pr_auc,
    "mcc": mcc,
    "balanced_accuracy": balanced_accuracy,
    "brier": brier,
    "log_loss": log_loss,
    "prevalence": prevalence,
}


def reliability(true: np.ndarray, predicted: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """Probabilities beside what happened, in bins of equal numbers of molecules.

    Molecules of one probability count with the share of positives among them, whichever bin they fall into, so that
    nothing depends on the order of the molecules.

    Returns:
        ``predicted`` (mean probability of each bin), ``measured`` (share of positives in it), ``molecules`` in it, and
        ``error``: the expected calibration error, the mean distance of the two, weighted by the molecules.
    """
    _, place, counts = np.unique(predicted, return_inverse=True, return_counts=True)
    true = (np.bincount(place, weights=true) / counts)[place]
    groups = [group for group in np.array_split(np.argsort(predicted, kind="stable"), bins) if len(group)]
    mean = np.array([predicted[group].mean() for group in groups])
    share = np.array([true[group].mean() for group in groups])
    sizes = np.array([len(group) for group in groups])
    error = float(np.average(np.abs(mean - share), weights=sizes))
    return {"predicted": mean.tolist(), "measured": share.tolist(), "molecules": sizes.tolist(), "error": error}


def calibration_error(true: np.ndarray, predicted: np.ndarray) -> float:
    """Expected calibration error of :func:`reliability`: probabilities of shape (n,), one number."""
    return float(reliability(true, predicted)["error"])


def confusion(true: np.ndarray, predicted: np.ndarray) -> list[list[int]]:
    """Molecules by true class (rows: negative, positive) and by the class predicted at one half (columns)."""
    tp, fp, fn, tn = (int(count) for count in _counts(true, predicted))
    return [[tn, fp], [fn, tp]]


def _counts(true: np.ndarray, predicted: np.ndarray) -> tuple[Any, Any, Any, Any]:
    """True positives, false positives, false negatives, true negatives as floats."""
    said = predicted >= 0.5
    positive = true > 0.5
    pairs = (positive & said, ~positive & said, positive & ~said, ~positive & ~said)
    tp, fp, fn, tn = (np.sum(pair, axis=-1).astype(np.float64) for pair in pairs)
    return tp, fp, fn, tn


def _divide(numerator: Any, denominator: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, np.divide(numerator, denominator), np.nan)
