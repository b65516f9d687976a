"""How many blocks it takes to see an effect: power of the (corrected) paired t-test over blocks.

``ratio`` is n_test / n_train of one block where training sets overlap (see :mod:`moltune.evaluation.statistics`).
"""

from __future__ import annotations

import math
from bisect import bisect_left

import numpy as np
from scipy import optimize, special, stats

from moltune.errors import ConfigError, DataError
from moltune.evaluation.metrics import check_share

MOST_BLOCKS = 100_000
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)


def power(effect: float, sd: float, blocks: int, *, alpha: float = 0.05, ratio: float = 0.0) -> float:
    """Chance that the two-sided (corrected) t-test finds a true mean difference of ``effect``; ``sd`` above zero.

    The noncentral t distribution as an integral over the estimated standard deviation (a chi variable), by
    Gauss-Legendre: scipy's own noncentral t gives NaN in its far tail.
    """
    df = blocks - 1
    shift = abs(effect) / (sd * math.sqrt(1 / blocks + ratio))
    low, high = stats.chi.ppf([1e-13, 1 - 1e-13], df)
    at = low + (high - low) * (_NODES + 1) / 2
    limit = stats.t.isf(alpha / 2, df) * at / math.sqrt(df)
    found = special.ndtr(shift - limit) + special.ndtr(-shift - limit)
    return float(np.clip((high - low) / 2 * np.sum(_WEIGHTS * stats.chi.pdf(at, df) * found), 0.0, 1.0))


def minimum_detectable_effect(
    sd: float, blocks: int, *, alpha: float = 0.05, wanted_power: float = 0.8, ratio: float = 0.0
) -> float:
    """True mean difference found with probability ``wanted_power`` on so many blocks; ``sd`` is that of differences.

    Raises:
        DataError: fewer than two blocks.
        ConfigError: a setting is out of range.
    """
    _check_settings(sd, alpha, wanted_power, ratio)
    if blocks < 2:
        raise DataError(f"at least two blocks are needed; got {blocks}")
    if sd == 0:
        return 0.0
    error = sd * math.sqrt(1 / blocks + ratio)
    high = error
    while power(high, sd, blocks, alpha=alpha, ratio=ratio) < wanted_power:
        high *= 2
    found = optimize.brentq(
        lambda effect: power(effect, sd, blocks, alpha=alpha, ratio=ratio) - wanted_power, 0.0, high, xtol=1e-9 * error
    )
    return float(found)


def blocks_needed(
    effect: float, sd: float, *, alpha: float = 0.05, wanted_power: float = 0.8, ratio: float = 0.0
) -> int | None:
    """Least number of blocks that finds a true mean difference of ``effect`` with probability ``wanted_power``.

    Returns:
        At least 2; None where no number up to ``MOST_BLOCKS`` does.

    Raises:
        ConfigError: ``effect`` is zero, or a setting is out of range.
    """
    _check_settings(sd, alpha, wanted_power, ratio)
    if not abs(effect) > 0:
        raise ConfigError("no number of blocks finds an effect of zero")
    if sd == 0:
        return 2

    def enough(blocks: int) -> bool:
        return power(effect, sd, blocks, alpha=alpha, ratio=ratio) >= wanted_power

    found = 2 + bisect_left(range(2, MOST_BLOCKS + 1), True, key=enough)
    return found if found <= MOST_BLOCKS else None


def _check_settings(sd: float, alpha: float, wanted_power: float, ratio: float) -> None:
    """Raise a ConfigError where a setting of a power calculation is out of range."""
    check_share("alpha", alpha)
    check_share("power", wanted_power)
    if wanted_power <= alpha:
        raise ConfigError(f"power must lie above alpha; got {wanted_power} and {alpha}")
    if not (math.isfinite(sd) and sd >= 0):
        raise ConfigError(f"a standard deviation is finite and not negative; got {sd}")
    if ratio < 0:
        raise ConfigError(f"ratio is n_test / n_train, 0 or more; got {ratio}")
