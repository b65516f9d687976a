"""Comparing methods over blocks: seeds, splits or cross-validation folds on which every method ran once.

All functions are pure and take errors, for which lower is better. An array of one method has shape (n,), one value
per block; a table has shape (n, k), one row per block and one column per method. ``ratio`` is n_test / n_train of
one block and corrects for training sets that overlap (Nadeau & Bengio, Machine Learning 2003, 52, 239): without it,
resampled blocks are taken for independent ones and differences look surer than they are. Leave it at 0 for blocks
that share no data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from moltune.errors import ConfigError, DataError
from moltune.evaluation.metrics import check_pair, check_share, check_values

# A spread smaller than this share of the values is rounding.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class Test:
    """A test statistic, its degrees of freedom (NaN where it has none) and the two-sided p-value."""

    __test__ = False  # pytest must not take the name for a test case

    statistic: float
    df: float
    p: float


@dataclass(frozen=True)
class PairedDifference:
    """Mean of method - baseline over n blocks, in metric units, with interval and standard deviation."""

    value: float
    lower: float
    upper: float
    sd: float
    n: int


@dataclass(frozen=True)
class FriedmanResult:
    """Friedman's test and what follows it.

    Attributes:
        statistic: chi-squared with k - 1 degrees of freedom, corrected for ties.
        p: its p-value.
        average_ranks: shape (k,); rank 1 is the lowest error.
        critical_difference: average ranks further apart than this differ (Nemenyi).
    """

    statistic: float
    p: float
    average_ranks: np.ndarray
    critical_difference: float


@dataclass(frozen=True)
class TukeyPair:
    """Two methods, by column: mean of first - second, its simultaneous interval, p-value and effect size.

    ``effect_size`` is the difference in units of the residual standard deviation, what is left in a block once the
    method and the block are accounted for.
    """

    first: int
    second: int
    difference: float
    lower: float
    upper: float
    p: float
    effect_size: float


def noise_floor(baseline: np.ndarray) -> float:
    """Standard deviation (n - 1) of one method's metric over blocks: what chance alone does to it.

    Raises:
        DataError: fewer than two blocks.
    """
    values = _blocks(baseline, "baseline")
    return float(values.std(ddof=1))


def paired_difference(
    method: np.ndarray, baseline: np.ndarray, *, bootstrap: int = 10_000, confidence: float = 0.95, seed: int = 0
) -> PairedDifference:
    """Mean difference method - baseline over blocks with a percentile bootstrap interval.

    With fewer than some ten blocks the interval is too narrow; prefer :func:`corrected_interval` there.

    Raises:
        DataError: lengths differ, or fewer than two blocks.
        ConfigError: ``bootstrap`` is below one, or ``confidence`` is not between 0 and 1.
    """
    if bootstrap < 1:
        raise ConfigError(f"the bootstrap of a difference needs at least one resample; got {bootstrap}")
    check_share("confidence", confidence)
    differences = _differences(method, baseline)
    n = len(differences)
    means = differences[np.random.default_rng(seed).integers(0, n, size=(bootstrap, n))].mean(axis=1)
    lower, upper = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return PairedDifference(float(differences.mean()), float(lower), float(upper), float(differences.std(ddof=1)), n)


def corrected_t_test(differences: np.ndarray, ratio: float) -> Test:
    """Corrected resampled t-test of differences that average zero (Nadeau & Bengio 2003).

    t = mean / sqrt((1/n + ratio) variance) with n - 1 degrees of freedom; ``ratio`` 0 is the paired t-test.

    Raises:
        DataError: fewer than two blocks.
        ConfigError: ``ratio`` is negative.
    """
    values = _blocks(differences, "differences")
    t = _t_statistic(values, ratio)
    return Test(t, len(values) - 1, float(2 * stats.t.sf(abs(t), len(values) - 1)))


def corrected_interval(values: np.ndarray, ratio: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of one value per block: mean ± t sqrt((1/n + ratio) variance), n - 1 degrees of freedom.

    The counterpart of :func:`corrected_t_test`, for differences as for one method's errors.

    Raises:
        DataError: fewer than two blocks.
        ConfigError: ``ratio`` is negative, or ``confidence`` is not between 0 and 1.
    """
    check_share("confidence", confidence)
    known = _blocks(values, "values")
    mean = float(known.mean())
    reach = float(stats.t.isf((1 - confidence) / 2, len(known) - 1)) * _standard_error(known, ratio)
    return mean - reach, mean + reach


def wilcoxon(differences: np.ndarray) -> Test:
    """Wilcoxon's signed-rank test (scipy; zero differences are ranked but not counted, after Pratt).

    Raises:
        DataError: fewer than two blocks.
    """
    values = _blocks(differences, "differences")
    if not values.any():
        return Test(0.0, math.nan, 1.0)
    result = stats.wilcoxon(values, zero_method="pratt")
    return Test(float(result.statistic), math.nan, float(result.pvalue))


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's (1979) step-down adjustment of p-values, shape (m,), in the order given.

    Raises:
        DataError: a value is not between 0 and 1.
    """
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise DataError("p-values form a list of numbers between 0 and 1")
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def friedman(table: np.ndarray, *, alpha: float = 0.05) -> FriedmanResult:
    """Friedman's test of k methods on n blocks, with average ranks and Nemenyi's critical difference.

    Raises:
        DataError: fewer than three methods or two blocks.
    """
    values = _table(table, least_methods=3)
    n, k = values.shape
    ranks = stats.rankdata(values, axis=1)
    if (ranks == ranks[:, :1]).all():
        statistic, p = 0.0, 1.0
    else:
        statistic, p = map(float, stats.friedmanchisquare(*values.T))
    return FriedmanResult(statistic, p, ranks.mean(axis=0), critical_difference(k, n, alpha=alpha))


def critical_difference(methods: int, blocks: int, *, alpha: float = 0.05) -> float:
    """Nemenyi's critical difference of average ranks (Demšar, JMLR 2006, 7, 1): q sqrt(k (k + 1) / (6 n)).

    q is the studentised range quantile for k methods and infinite degrees of freedom, over the root of two.
    """
    check_share("alpha", alpha)
    q = stats.studentized_range.ppf(1 - alpha, methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * blocks)))


def tukey_hsd(table: np.ndarray, *, confidence: float = 0.95) -> list[TukeyPair]:
    """Tukey's honestly significant differences after a repeated-measures ANOVA, one entry per pair of methods.

    The protocol of Ash et al. (J. Chem. Inf. Model. 2025, 65, 9398) for the 25 folds of 5 x 5 repeated
    cross-validation: blocks are folds, and the error term is the method-by-block residual with (n - 1)(k - 1)
    degrees of freedom. It does not correct for overlapping training sets.

    Raises:
        DataError: fewer than two methods or two blocks.
    """
    check_share("confidence", confidence)
    values = _table(table, least_methods=2)
    n, k = values.shape
    means = values.mean(axis=0)
    residuals = values - means - values.mean(axis=1, keepdims=True) + values.mean()
    df = (n - 1) * (k - 1)
    residual_sd = math.sqrt(float((residuals**2).sum()) / df)
    error = residual_sd / math.sqrt(n)
    reach = float(stats.studentized_range.ppf(confidence, k, df)) * error
    # Rounding leaves a trace of residual where there is none.
    trace = _ROUNDING * float(np.abs(values).max())
    exact = residual_sd <= trace
    pairs = []
    for first, second in combinations(range(k), 2):
        gap = float(means[first] - means[second])
        if exact:
            p, effect = (1.0, 0.0) if abs(gap) <= trace else (0.0, math.copysign(math.inf, gap))
        else:
            p, effect = float(stats.studentized_range.sf(abs(gap) / error, k, df)), gap / residual_sd
        pairs.append(TukeyPair(first, second, gap, gap - reach, gap + reach, p, effect))
    return pairs


def tost(differences: np.ndarray, margin: float, *, ratio: float = 0.0) -> float:
    """P-value of two one-sided t-tests (Schuirmann 1987): below alpha, the mean difference lies within ± margin.

    Raises:
        DataError: fewer than two blocks.
        ConfigError: ``margin`` is not above zero, or ``ratio`` is negative.
    """
    if not margin > 0:
        raise ConfigError(f"an equivalence margin is above zero; got {margin}")
    values = _blocks(differences, "differences")
    below, above = _t_statistic(values + margin, ratio), _t_statistic(values - margin, ratio)
    df = len(values) - 1
    return float(max(stats.t.sf(below, df), stats.t.cdf(above, df)))


def _t_statistic(values: np.ndarray, ratio: float) -> float:
    mean, error = float(values.mean()), _standard_error(values, ratio)
    if float(values.std(ddof=1)) <= _ROUNDING * float(np.abs(values).max()):
        return 0.0 if mean == 0 else math.copysign(math.inf, mean)
    return mean / error


def _standard_error(values: np.ndarray, ratio: float) -> float:
    if ratio < 0:
        raise ConfigError(f"ratio is n_test / n_train, 0 or more; got {ratio}")
    return float(values.std(ddof=1)) * math.sqrt(1 / len(values) + ratio)


def _blocks(values: np.ndarray, name: str) -> np.ndarray:
    array = check_values(values, name)
    if len(array) < 2:
        raise DataError(f"{name} has one block; at least two are needed to know the spread")
    return array


def _differences(method: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    method, baseline = check_pair(method, baseline, first="method", second="baseline")
    return _blocks(method - baseline, "method - baseline")


def _table(table: np.ndarray, least_methods: int) -> np.ndarray:
    values = np.asarray(table, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < least_methods:
        raise DataError(
            f"the table needs two or more blocks (rows) and {least_methods} or more methods (columns); "
            f"got shape {values.shape}"
        )
    return check_values(values.ravel(), "table").reshape(values.shape)
