"""Do two samples come from the same distribution: one number at a time, and in many dimensions at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from moltune.errors import DataError, NumericsError


@dataclass(frozen=True)
class NumberShift:
    """Two samples of one number.

    Attributes:
        statistic: Kolmogorov-Smirnov: the largest gap between the two cumulative distributions, 0 to 1.
        p: of its two-sided test.
        means: of the first and the second sample.
        sds: their standard deviations (n - 1).
        standardised: difference of the means (first minus second) in units of the second sample's sd; None where that
            is zero.
    """

    statistic: float
    p: float
    means: tuple[float, float]
    sds: tuple[float, float]
    standardised: float | None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class EmbeddingShift:
    """Two samples of vectors, compared by maximum mean discrepancy (MMD).

    Attributes:
        mmd2: unbiased estimate of the squared MMD; about zero for equal distributions, and may be below.
        p: share of permutations of the labels (the observed one among them) with an MMD as large.
        bandwidth: of the Gaussian kernel, in standard deviations: the median distance of the pooled sample.
        n: molecules of the two samples that were compared.
        permutations: how many.
    """

    mmd2: float
    p: float
    bandwidth: float
    n: tuple[int, int]
    permutations: int

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def number_shift(first: np.ndarray, second: np.ndarray) -> NumberShift:
    """Compare two samples of one number by the Kolmogorov-Smirnov test.

    Raises:
        DataError: a sample has fewer than two finite values.
    """
    one, other = (np.asarray(sample, dtype=np.float64) for sample in (first, second))
    one, other = one[np.isfinite(one)], other[np.isfinite(other)]
    if min(len(one), len(other)) < 2:
        raise DataError("a comparison of distributions needs at least two values in each sample")
    test = stats.ks_2samp(one, other)
    sd = float(other.std(ddof=1))
    return NumberShift(
        statistic=float(test.statistic),
        p=float(test.pvalue),
        means=(float(one.mean()), float(other.mean())),
        sds=(float(one.std(ddof=1)), sd),
        standardised=float(one.mean() - other.mean()) / sd if sd > 0 else None,
    )


def share_shift(first: np.ndarray, second: np.ndarray) -> NumberShift:
    """Compare two samples of zeros and ones: :func:`number_shift` with the p-value of Fisher's exact test.

    The statistic of Kolmogorov and Smirnov is the difference of the shares there, but its p-value is far too large.

    Raises:
        DataError: a sample has fewer than two finite values.
    """
    found = number_shift(first, second)
    samples = [sample[np.isfinite(sample)] > 0.5 for sample in (first, second)]
    counts = [[int(sample.sum()), int((~sample).sum())] for sample in samples]
    return replace(found, p=float(stats.fisher_exact(counts).pvalue))


def embedding_shift(
    first: np.ndarray, second: np.ndarray, *, permutations: int = 500, most: int = 1000, seed: int = 0
) -> EmbeddingShift:
    """Compare two samples of vectors by MMD with a permutation test (Gretton et al. 2012, JMLR 13, 723).

    Columns are standardised over the pooled sample, and the kernel is Gaussian with the median distance as bandwidth.

    Args:
        first: shape (n, d).
        second: shape (m, d).
        permutations: of the labels; the smallest p-value is 1 / (permutations + 1).
        most: larger samples are thinned out to this many at random.
        seed: of thinning and permutations.

    Raises:
        DataError: a sample has fewer than two vectors.
        NumericsError: a value is not finite.
    """
    rng = np.random.default_rng(seed)
    samples = []
    for sample in (first, second):
        if len(sample) < 2:
            raise DataError("a comparison of embeddings needs at least two molecules in each sample")
        chosen = rng.choice(len(sample), most, replace=False) if len(sample) > most else np.arange(len(sample))
        samples.append(np.asarray(sample, dtype=np.float64)[chosen])
    pooled = np.concatenate(samples)
    if not np.isfinite(pooled).all():
        raise NumericsError("an embedding is not finite")
    spread = pooled.std(axis=0)
    pooled = (pooled - pooled.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    squares = (pooled**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares - 2 * pooled @ pooled.T, 0.0)
    median = float(np.median(distances[np.triu_indices(len(pooled), 1)]))
    kernel = np.exp(-distances / (2 * median)) if median > 0 else np.ones_like(distances)
    np.fill_diagonal(kernel, 0.0)
    n, m = len(samples[0]), len(samples[1])
    labels = np.zeros((n + m, permutations + 1))
    labels[:n, 0] = 1.0
    for column in range(1, permutations + 1):
        labels[rng.permutation(n + m)[:n], column] = 1.0
    # Unbiased squared MMD for each column of labels; the kernel has a zero diagonal.
    sums = kernel @ labels
    within_first = (labels * sums).sum(axis=0)
    between = ((1 - labels) * sums).sum(axis=0)
    within_second = kernel.sum() - within_first - 2 * between
    values = within_first / (n * (n - 1)) + within_second / (m * (m - 1)) - 2 * between / (n * m)
    # Rounding must not make a permutation that only swaps equal molecules look smaller than the observed labels.
    p = float(np.mean(values >= values[0] - 1e-12))
    return EmbeddingShift(float(values[0]), p, float(np.sqrt(median)), (n, m), permutations)
