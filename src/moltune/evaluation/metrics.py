"""Metrics of a task, each with a bootstrap interval, and the paired comparison of two models.

Intervals are percentile intervals of a bootstrap that resamples molecules (Efron & Tibshirani, An Introduction to
the Bootstrap, 1993, chapter 13). They say how much a metric would move with other test molecules of the same kind;
they know nothing of another seed, another split or another kind of molecule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moltune.errors import ConfigError, DataError, NumericsError
from moltune.evaluation.classification import CLASSIFICATION_METRICS, calibration_error

Metric = Callable[[np.ndarray, np.ndarray], Any]

# About 4 MB per float64 array of one chunk of resamples.
_CHUNK_ELEMENTS = 500_000
# An interval that had to leave out more of its resamples than this describes some other quantity.
_MOST_UNDEFINED = 0.05


def mse(true: np.ndarray, predicted: np.ndarray) -> Any:
    """Mean squared error over the last axis: shape (..., n) in, (...) out, in squared target units."""
    return np.mean((predicted - true) ** 2, axis=-1)


def rmse(true: np.ndarray, predicted: np.ndarray) -> Any:
    """Root of the mean squared error over the last axis: shape (..., n) in, (...) out, in target units."""
    return np.sqrt(mse(true, predicted))


def mae(true: np.ndarray, predicted: np.ndarray) -> Any:
    """Mean absolute error over the last axis: shape (..., n) in, (...) out, in target units."""
    return np.mean(np.abs(predicted - true), axis=-1)


def median_absolute_error(true: np.ndarray, predicted: np.ndarray) -> Any:
    """Median absolute error over the last axis: shape (..., n) in, (...) out, in target units."""
    return np.median(np.abs(predicted - true), axis=-1)


def r2(true: np.ndarray, predicted: np.ndarray) -> Any:
    """Coefficient of determination over the last axis: shape (..., n) in, (...) out, no unit.

    1 - sum of squared errors / sum of squared deviations from the mean of ``true``; NaN where ``true`` is constant.
    """
    total = np.mean((true - np.mean(true, axis=-1, keepdims=True)) ** 2, axis=-1)
    return _divide(total - mse(true, predicted), np.where(np.ptp(true, axis=-1) > 0, total, 0.0))


def spearman(true: np.ndarray, predicted: np.ndarray) -> Any:
    """Spearman's rank correlation over the last axis: shape (..., n) in, (...) out, no unit.

    Ties take their average rank; NaN where ``true`` or ``predicted`` is constant.
    """
    # scipy.stats takes half a second to import, which a prediction need not wait for.
    from scipy.stats import rankdata

    return _pearson(rankdata(true, axis=-1), rankdata(predicted, axis=-1))


METRICS: dict[str, Metric] = {
    "mse": mse,
    "rmse": rmse,
    "mae": mae,
    "r2": r2,
    "median_absolute_error": median_absolute_error,
    "spearman": spearman,
}


@dataclass(frozen=True)
class Task:
    """What is measured of predictions of one kind.

    Attributes:
        name: ``regression`` (numbers) or ``classification`` (probabilities of the positive of two classes).
        metrics: by name.
        primary: the one that models are compared by.
        higher: metrics of which a higher value is better.
        further: metrics that resampling of molecules would move, so that only repeated runs give them an interval.
    """

    name: str
    metrics: dict[str, Metric]
    primary: str
    higher: frozenset[str]
    further: dict[str, Metric] = field(default_factory=dict)

    @property
    def sign(self) -> int:
        """1 where a lower primary metric is better, -1 where a higher one is."""
        return self.sign_of(self.primary)

    @property
    def all_metrics(self) -> dict[str, Metric]:
        """Those of single runs, and the further ones."""
        return {**self.metrics, **self.further}

    def sign_of(self, metric: str) -> int:
        """1 where a lower value of this metric is better, -1 where a higher one is."""
        return -1 if metric in self.higher else 1


REGRESSION = Task("regression", METRICS, "rmse", frozenset({"r2", "spearman"}))
CLASSIFICATION = Task(
    "classification",
    CLASSIFICATION_METRICS,
    "roc_auc",
    frozenset({"roc_auc", "pr_auc", "mcc", "balanced_accuracy"}),
    {"calibration_error": calibration_error},
)
TASKS = (REGRESSION, CLASSIFICATION)


def task_of(classes: tuple[str, str] | None) -> Task:
    """Of a target with these classes; None: it holds numbers."""
    return REGRESSION if classes is None else CLASSIFICATION


@np.errstate(over="ignore", invalid="ignore")
def evaluate(
    true: np.ndarray,
    predicted: np.ndarray,
    *,
    task: Task = REGRESSION,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Compute every metric of a task with its bootstrap interval.

    Args:
        true: measured values, shape (n,), in target units; 0 and 1 for classes.
        predicted: predictions of the same molecules, shape (n,), in target units, or probabilities.
        task: which metrics.
        bootstrap: number of resamples of the n molecules; 0 leaves the intervals out.
        confidence: share of the bootstrap distribution inside the interval, between 0 and 1.
        seed: seed of the resamples; the same seed and n draw the same molecules for every model.

    Returns:
        ``{"n": int, "rmse": {"value", "lower", "upper"}, ...}``. A value that is not defined (R² or Spearman of one
        molecule or of constant values) is None, and so are the ends of an interval when there is one molecule, no
        resample, or when over 5 % of the resamples leave the metric undefined. JSON-ready.

    Raises:
        DataError: the arrays are empty, not one-dimensional, or differ in length.
        NumericsError: a value is not finite (names the array and the position), or a metric overflows.
        ConfigError: ``bootstrap`` or ``confidence`` is out of range.

    Percentile intervals are somewhat too narrow for few molecules: see ``tests/evaluation/test_metrics.py``, which
    measures their coverage.
    """
    true, predicted = check_pair(true, predicted)
    _check_bootstrap(bootstrap, confidence)
    values = {name: float(metric(true, predicted)) for name, metric in task.metrics.items()}
    if not math.isfinite(values.get("mse", 0.0)) or any(map(math.isinf, values.values())):
        raise NumericsError("a metric overflows: targets or predictions are too large to square; rescale the target")
    codes = [np.unique(array, return_inverse=True)[1] for array in (true, predicted)]
    samples: dict[str, list[np.ndarray]] = {name: [] for name in task.metrics}
    for rows in _resamples(len(true), bootstrap, seed):
        true_rows, predicted_rows = true[rows], predicted[rows]
        for name, metric in task.metrics.items():
            if name != "spearman":
                samples[name].append(metric(true_rows, predicted_rows))
        if "spearman" in samples:
            samples["spearman"].append(_pearson(*(_ranks_of_codes(code[rows]) for code in codes)))
    result: dict[str, Any] = {"n": len(true)}
    for name, value in values.items():
        lower, upper = _interval(samples[name], confidence)
        result[name] = {"value": None if math.isnan(value) else value, "lower": lower, "upper": upper}
    return result


def compare_paired(
    true: np.ndarray,
    predicted: np.ndarray,
    baseline_predicted: np.ndarray,
    *,
    task: Task = REGRESSION,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare the primary metric of a model with that of a baseline on the same molecules.

    The difference is model - baseline: the model is better below zero of RMSE, and above zero of ROC AUC. Its interval
    comes from a paired bootstrap: each resample takes both predictions of a molecule together, so that what makes a
    molecule hard for both cancels. The verdict is "better" or "worse" where the interval leaves out zero, else "cannot
    tell".

    This compares two sets of predictions, not two methods: one split and one seed say nothing about run-to-run noise
    (another seed or another split may reverse a small difference). Use the study engine to compare methods.

    Args:
        true: measured values, shape (n,), in target units.
        predicted: the model's predictions, shape (n,), in target units.
        baseline_predicted: the baseline's predictions, shape (n,), in target units.
        task: which metric.
        bootstrap: number of resamples; 0 leaves the interval out, and the verdict is "cannot tell".
        confidence: share of the bootstrap distribution inside the interval, between 0 and 1.
        seed: seed of the resamples.

    Returns:
        ``{"difference": {"value", "lower", "upper"}, "verdict": "better" | "worse" | "cannot tell", "n": int,
        "confidence": float}``. JSON-ready.

    Raises:
        DataError, NumericsError, ConfigError: as :func:`evaluate`.
    """
    _check_bootstrap(bootstrap, confidence)
    true, predicted = check_pair(true, predicted)
    true, baseline = check_pair(true, baseline_predicted, second="baseline_predicted")
    metric = task.metrics[task.primary]
    difference = float(metric(true, predicted) - metric(true, baseline))
    if task is REGRESSION and not math.isfinite(difference):
        raise NumericsError("the RMSE overflows: targets or predictions are too large to square; rescale the target")
    samples = [
        metric(true[rows], predicted[rows]) - metric(true[rows], baseline[rows])
        for rows in _resamples(len(true), bootstrap, seed)
    ]
    lower, upper = _interval(samples, confidence)
    if lower is None or upper is None or lower <= 0 <= upper:
        verdict = "cannot tell"
    else:
        verdict = "better" if task.sign * upper < 0 else "worse"
    return {
        "difference": {"value": None if math.isnan(difference) else difference, "lower": lower, "upper": upper},
        "verdict": verdict,
        "n": len(true),
        "confidence": confidence,
    }


def check_pair(
    true: np.ndarray, predicted: np.ndarray, *, first: str = "true", second: str = "predicted"
) -> tuple[np.ndarray, np.ndarray]:
    """Return both arrays as float64 of one shape (n,), n > 0, all finite.

    Raises:
        DataError: empty, not numeric, not one-dimensional, or of different lengths.
        NumericsError: a value is not finite; the message names the array and the 0-based position.
    """
    pair = check_values(true, first), check_values(predicted, second)
    if len(pair[0]) != len(pair[1]):
        raise DataError(f"{first} has {len(pair[0])} values but {second} has {len(pair[1])}; they must match")
    return pair


def check_values(values: np.ndarray, name: str) -> np.ndarray:
    """Return an array as float64 of shape (n,), n > 0, all finite; errors are those of :func:`check_pair`."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name} must hold numbers only") from None
    if array.ndim != 1:
        raise DataError(f"{name} must be one-dimensional, one number per molecule; got shape {array.shape}")
    if not len(array):
        raise DataError(f"{name} is empty: there are no molecules to evaluate")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise NumericsError(f"{name}[{bad[0]}] is {array[bad[0]]}{more}; every value must be a finite number")
    return array


def check_share(name: str, value: float) -> None:
    """Raise a ConfigError unless ``value`` lies between 0 and 1."""
    if not 0 < value < 1:
        raise ConfigError(f"{name} lies between 0 and 1; got {value}")


def _check_bootstrap(bootstrap: int, confidence: float) -> None:
    check_share("confidence", confidence)
    if bootstrap < 0:
        raise ConfigError(f"bootstrap is the number of resamples, 0 or more; got {bootstrap}")


def _resamples(n: int, bootstrap: int, seed: int) -> Iterator[np.ndarray]:
    """Yield positions drawn with replacement, shape (m, n), until ``bootstrap`` rows are out; none for one molecule."""
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK_ELEMENTS // n)
    for start in range(0, bootstrap if n > 1 else 0, step):
        yield generator.integers(0, n, size=(min(step, bootstrap - start), n))


def _ranks_of_codes(codes: np.ndarray) -> np.ndarray:
    """Average ranks along the last axis of small non-negative integers, shape (m, n).

    Counting is some five times faster than sorting each resample anew.
    """
    m, width = len(codes), int(codes.max()) + 1
    counts = np.bincount((codes + width * np.arange(m)[:, None]).ravel(), minlength=m * width).reshape(m, width)
    ranks = np.cumsum(counts, axis=1) - (counts - 1) / 2
    return np.take_along_axis(ranks, codes, axis=1)


def _pearson(x: np.ndarray, y: np.ndarray) -> Any:
    x = x - np.mean(x, axis=-1, keepdims=True)
    y = y - np.mean(y, axis=-1, keepdims=True)
    scale = np.sqrt(np.sum(x * x, axis=-1) * np.sum(y * y, axis=-1))
    return np.clip(_divide(np.sum(x * y, axis=-1), scale), -1.0, 1.0)


def _divide(numerator: Any, denominator: Any) -> Any:
    """Divide; NaN (and no warning) where the denominator is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator > 0, np.divide(numerator, denominator), np.nan)


def _interval(parts: list[np.ndarray], confidence: float) -> tuple[float | None, float | None]:
    """Percentile interval of resampled values, some of which may be undefined; (None, None) where there is none."""
    samples = np.concatenate([np.empty(0), *parts])
    defined = samples[~np.isnan(samples)]
    if len(defined) < max(1, (1 - _MOST_UNDEFINED) * len(samples)):
        return None, None
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(defined, [tail, 1 - tail])
    return float(lower), float(upper)
