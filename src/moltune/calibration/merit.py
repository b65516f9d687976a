"""Figures of merit of intervals: whether they hold what they promise, and at what width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from moltune.calibration import LEVEL
from moltune.calibration.conformal import Calibration, Intervals
from moltune.calibration.difficulty import Inputs
from moltune.evaluation.metrics import spearman

CURVE_LEVELS = tuple(round(0.05 * step, 2) for step in range(1, 20))


def coverage(true: np.ndarray, intervals: Intervals) -> float:
    """Share of the measurements within their interval, ends included."""
    return float(np.mean((intervals.low <= true) & (true <= intervals.high)))


def mean_width(intervals: Intervals) -> float:
    """In the target's unit."""
    return float(np.mean(intervals.high - intervals.low))


def interval_score(true: np.ndarray, intervals: Intervals, level: float) -> float:
    """Mean interval score, or Winkler score, in the target's unit; lower is better.

    Width, and 2/(1 − level) times the distance of a measurement that is outside (Gneiting and Raftery 2007, eq. 43,
    doi:10.1198/016214506000001437). The true quantiles have the smallest: neither wide nor false intervals win.
    """
    outside = np.maximum(intervals.low - true, 0) + np.maximum(true - intervals.high, 0)
    return float(np.mean(intervals.high - intervals.low + 2 / (1 - level) * outside))


def assess(
    calibration: Calibration,
    true: np.ndarray,
    predicted: np.ndarray,
    inputs: Inputs | None = None,
    classes: np.ndarray | None = None,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Judge intervals of n molecules that neither model nor calibration has seen; see :func:`judge`.

    Raises:
        DataError, ConfigError, NumericsError: as :meth:`Calibration.predict`.
    """

    def at(one: float) -> Intervals:
        return calibration.predict(predicted, inputs, classes, one)

    return judge(at, true, predicted, classes, level, calibration.largest_level)


def judge(
    at: Callable[[float], Intervals],
    true: np.ndarray,
    predicted: np.ndarray,
    classes: np.ndarray | None = None,
    level: float = LEVEL,
    largest: float = 1.0,
) -> dict[str, Any]:
    """Judge intervals of n molecules.

    Args:
        at: level → intervals.
        true: measurements, shape (n,).
        predicted: shape (n,).
        classes: of the molecules; unset: one class.
        level: of the intervals that are looked at closely.
        largest: level that intervals can have.

    Returns:
        ``molecules``, ``level``, ``coverage``, ``mean_width``, ``interval_score``, ``spearman`` of the standard
        deviation with the absolute error (None where one is constant), ``curve`` (pairs of level and coverage; levels
        above the largest are left out), and ``by_class`` (class -> molecules, coverage, mean_width, rmse). Ready for
        JSON.
    """
    true = np.asarray(true, dtype=np.float64)
    intervals = at(level)
    error = np.abs(true - predicted)
    correlation = float(spearman(intervals.sd, error))
    by_class = {}
    for value in [] if classes is None else np.unique(classes).tolist():
        own = np.asarray(classes) == value
        part = Intervals(intervals.low[own], intervals.high[own], intervals.sd[own])
        by_class[str(value)] = {
            "molecules": int(own.sum()),
            "coverage": coverage(true[own], part),
            "mean_width": mean_width(part),
            "rmse": float(np.sqrt(np.mean(error[own] ** 2))),
        }
    return {
        "molecules": len(true),
        "level": level,
        "coverage": coverage(true, intervals),
        "mean_width": mean_width(intervals),
        "interval_score": interval_score(true, intervals, level),
        "spearman": correlation if np.isfinite(correlation) else None,
        "curve": [[one, coverage(true, at(one))] for one in CURVE_LEVELS if one <= largest],
        "by_class": by_class,
    }
