"""The Anderson-Darling test of normality."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from moltune.errors import DataError


@dataclass(frozen=True)
class AndersonDarling:
    """Statistic A*² (corrected for the sample size), its p-value, and the skewness of the sample."""

    statistic: float
    p: float
    skewness: float


def anderson_darling(values: np.ndarray) -> AndersonDarling:
    """Test a sample for normality, mean and standard deviation estimated from it.

    Correction and p-value after D'Agostino & Stephens, Goodness-of-Fit Techniques (1986), table 4.9.

    Raises:
        DataError: fewer than eight values, or a constant sample.
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    n = len(x)
    if n < 8 or not np.isfinite(x).all() or x[0] == x[-1]:
        raise DataError("the Anderson-Darling test needs eight finite values that are not all equal")
    z = (x - x.mean()) / x.std(ddof=1)
    weights = 2 * np.arange(1, n + 1) - 1
    # Both logarithms straight from the tails, or an outlier would give log 0.
    raw = -n - float(np.mean(weights * (stats.norm.logcdf(z) + stats.norm.logsf(z)[::-1])))
    a = raw * (1 + 0.75 / n + 2.25 / n**2)
    if a < 0.2:
        p = 1 - np.exp(-13.436 + 101.14 * a - 223.73 * a**2)
    elif a < 0.34:
        p = 1 - np.exp(-8.318 + 42.796 * a - 59.938 * a**2)
    elif a < 0.6:
        p = np.exp(0.9177 - 4.279 * a - 1.38 * a**2)
    else:
        # The fitted parabola turns upwards again beyond its range.
        p = np.exp(1.2937 - 5.709 * min(a, 150.0) + 0.0186 * min(a, 150.0) ** 2)
    return AndersonDarling(a, float(np.clip(p, 0.0, 1.0)), float(stats.skew(x)))
