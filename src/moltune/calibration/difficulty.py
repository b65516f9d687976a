"""How large an error is to be expected for a molecule, learned from out-of-fold errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from moltune.errors import DataError, NumericsError

Inputs = Mapping[str, np.ndarray]
"""What difficulty is judged by: name -> values of n molecules, shape (n,)."""

# The prior's weight: that of one molecule. It matters to tiny sets only.
_RIDGE = 1.0
_STEPS = 100


@dataclass(frozen=True)
class Difficulty:
    """Mean absolute error as exp(b + Σ wⱼ xⱼ) of standardised inputs; without inputs the same for all molecules.

    The weights maximise the likelihood of exponentially distributed absolute errors (a generalised linear model with
    a logarithmic link), with a small ridge penalty; the problem is convex, and an error of zero is nothing special.
    Inputs beyond those of the fit count as the most extreme of the fit.

    Attributes:
        names: of the inputs.
        bounds: least and largest value of each input in the fit, shape (m, 2).
        center: mean of each input, shape (m,).
        scale: standard deviation of each input, shape (m,); infinite for a constant one, which then counts nothing.
        weights: of the standardised inputs, shape (m,).
        intercept: logarithm of the error where all inputs are at their mean.
    """

    names: tuple[str, ...]
    bounds: np.ndarray
    center: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: float

    @classmethod
    def fit(cls, inputs: Inputs, errors: np.ndarray) -> Self:
        """Learn from n molecules and their errors, of either sign, which must not be those of the training.

        Raises:
            DataError: no molecules, shapes that differ, or errors that are all zero.
            NumericsError: a value is not finite.
        """
        size = np.abs(finite(errors, "error"))
        values = stacked(inputs, tuple(inputs), len(size))
        if not len(size):
            raise DataError("there are no errors to learn difficulty from")
        if not size.max() > 0:
            raise DataError("every error is zero; out-of-fold predictions cannot repeat the measurements")
        bounds = np.stack([values.min(axis=0), values.max(axis=0)], axis=1)
        center, scale = values.mean(axis=0), values.std(axis=0)
        constant = (bounds[:, 0] == bounds[:, 1]) | ~(scale > 1e-12 * np.maximum(np.abs(center), 1e-300))
        scale = np.where(constant, np.inf, scale)
        unit = float(size.mean())
        weights, intercept = _exponential_regression((values - center) / scale, size / unit)
        return cls(tuple(inputs), bounds, center, scale, weights, intercept + float(np.log(unit)))

    def __call__(self, inputs: Inputs, n: int) -> np.ndarray:
        """Expected absolute error of n molecules, in the target's unit, float64, shape (n,).

        Raises:
            DataError: an input is missing or of another length.
            NumericsError: an input is not finite.
        """
        values = np.clip(stacked(inputs, self.names, n), self.bounds[:, 0], self.bounds[:, 1])
        return np.exp((values - self.center) / self.scale @ self.weights + self.intercept)


def _exponential_regression(x: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and intercept that minimise Σ (s exp(−z) + z) + ½ λ |w|², z = b + x·w; Newton steps, halved if needed."""
    design = np.column_stack([x, np.ones(len(x))])
    penalty = np.full(design.shape[1], _RIDGE)
    penalty[-1] = 0.0

    def loss(solution: np.ndarray) -> float:
        z = design @ solution
        with np.errstate(over="ignore"):
            return float((size * np.exp(-z) + z).sum() + 0.5 * (penalty * solution**2).sum())

    solution = np.zeros(design.shape[1])
    solution[-1] = np.log(size.mean())
    reached = loss(solution)
    for _ in range(_STEPS):
        ratio = size * np.exp(-(design @ solution))
        gradient = design.T @ (1 - ratio) + penalty * solution
        curvature = (design * ratio[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        factor = 1.0
        while factor > 1e-8 and not loss(solution - factor * step) <= reached:
            factor /= 2
        if factor <= 1e-8:
            break
        solution = solution - factor * step
        before, reached = reached, loss(solution)
        if before - reached <= 1e-13 * len(size):
            break
    return solution[:-1], float(solution[-1])


def finite(values: np.ndarray, what: str) -> np.ndarray:
    """As float64, shape (n,).

    Raises:
        DataError: it is no column of numbers.
        NumericsError: a value is not finite; its position is named.
    """
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"the {what} of a molecule is not a number") from None
    if column.ndim != 1:
        raise DataError(f"there must be one {what} per molecule, shape (n,); the shape is {column.shape}")
    if not np.isfinite(column).all():
        raise NumericsError(f"the {what} of molecule {int(np.flatnonzero(~np.isfinite(column))[0])} is not finite")
    return column


def stacked(inputs: Inputs, names: tuple[str, ...], n: int) -> np.ndarray:
    """The named inputs of n molecules side by side, float64, shape (n, m).

    Raises:
        DataError: an input is missing or of another length.
        NumericsError: a value is not finite.
    """
    columns = []
    for name in names:
        if name not in inputs:
            raise DataError(f"difficulty is judged by {', '.join(names)}; {name} is missing")
        column = finite(inputs[name], name)
        if len(column) != n:
            raise DataError(f"there are {len(column)} values of {name} for {n} molecules")
        columns.append(column)
    return np.column_stack(columns) if columns else np.empty((n, 0))
