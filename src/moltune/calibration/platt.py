"""Probabilities of two classes from scores or from regressions of 0 and 1: temperature and Platt's scaling."""

from __future__ import annotations

import numpy as np

Scale = tuple[float, float]
"""(a, b): the probability of the positive class is the logistic function of a·score + b."""
AnswerScale = tuple[float, float, float]
"""(a, c, b): that of a·log-odds of the answer + c·answer + b, for regressions of 0 and 1."""
_LEAST, _LIMITS, _EDGE = 20, (1e-3, 1e3), 0.02


def tells(labels: np.ndarray) -> bool:
    """Whether a scale can be fitted: there are 20 or more molecules, and both classes."""
    return len(labels) >= _LEAST and np.ptp(labels) > 0


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
    (a,), b = _fit(np.asarray(scores, dtype=np.float64)[:, None], labels, [_LIMITS], shift)
    return a, b


def fit_answer_scale(answers: np.ndarray, labels: np.ndarray) -> AnswerScale:
    """Find what makes probabilities of a regression of 0 and 1, on molecules that it was not fitted on.

    Its answer is nearly a probability where there are many molecules and nearly a score where there are few. So the
    logistic function sees the log-odds of the answer and the answer itself; both slopes are at least 0, which keeps
    the order of the molecules.

    Args:
        answers: shape (n,); some may be below 0 or above 1.
        labels: 0 or 1, shape (n,).

    Returns:
        (1, 0, 0) where there are not both classes.
    """
    (a, c), b = _fit(_seen(answers), labels, [_LIMITS, (0.0, _LIMITS[1])], True)
    return a, c, b


def _fit(
    columns: np.ndarray, labels: np.ndarray, bounds: list[tuple[float, float]], shift: bool
) -> tuple[list[float], float]:
    from scipy.optimize import minimize

    labels = np.asarray(labels, dtype=np.float64)
    start = np.eye(1, columns.shape[1] + 1)[0]
    positive, negative = labels.sum(), (1 - labels).sum()
    if not positive or not negative:
        return start[:-1].tolist(), 0.0
    wanted = np.where(labels > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(parameters: np.ndarray) -> float:
        logits = columns @ parameters[:-1] + parameters[-1]
        # -t log p - (1 - t) log(1 - p), p the logistic function
        return float(np.mean(np.logaddexp(0, logits) - wanted * logits))

    free = (None, None) if shift else (0.0, 0.0)
    found = minimize(loss, start, method="L-BFGS-B", bounds=[*bounds, free]).x.tolist()
    return found[:-1], found[-1]


def probability(scores: np.ndarray, scale: Scale) -> np.ndarray:
    """Of the positive class, shape (n,)."""
    return _logistic(scale[0] * scores + scale[1])


def answer_probability(answers: np.ndarray, scale: AnswerScale) -> np.ndarray:
    """Of the positive class, shape (n,)."""
    return _logistic(_seen(answers) @ np.array(scale[:2]) + scale[2])


def _seen(answers: np.ndarray) -> np.ndarray:
    # Beyond the edges the log-odds go on as a straight line, with the slope 4 that they have at one half: an answer of
    # -0.2 is lower than one of -0.1, but neither is sure.
    inside = np.clip(answers, _EDGE, 1 - _EDGE)
    return np.stack([np.log(inside / (1 - inside)) + 4 * (answers - inside), answers], axis=1)


def _logistic(logits: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(-np.logaddexp(0, -logits)), dtype=np.float64)


def score_of(probabilities: np.ndarray, scale: Scale) -> np.ndarray:
    """The inverse of :func:`probability`; those that are 0 or 1 become large."""
    clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return np.asarray((np.log(clipped / (1 - clipped)) - scale[1]) / scale[0], dtype=np.float64)
