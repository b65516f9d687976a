"""How far a ranking would repeat, from the agreement of two halves of what it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.stats import spearmanr

# A ranking that would repeat less than this is worth a warning.
TRUSTED = 0.8


def rank_correlations(scores: Sequence[np.ndarray]) -> list[float]:
    """Spearman correlation of each pair of scores of the same molecules."""
    return [float(spearmanr(one, other).statistic) for one, other in combinations(scores, 2)]


def stepped_up(halves: float) -> float | None:
    """Correlation of two rankings of full length, from that of two halves: 2r / (1 + r).

    Spearman (1910) and Brown (1910), Br. J. Psychol. 3, 271 and 296. None at r = −1, where the formula ends.
    """
    return None if halves <= -1 else max(-1.0, 2 * halves / (1 + halves))


def lengthened(repeats: float, wanted: float = TRUSTED) -> float | None:
    """How many times as much of the same it would take to repeat that well; None where nothing repeats."""
    return None if repeats <= 0 else wanted / (1 - wanted) * (1 - repeats) / repeats
