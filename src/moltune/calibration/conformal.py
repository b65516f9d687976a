"""Conformal prediction intervals: from errors that were made to those that are to be expected.

Cross-conformal (Vovk 2015, doi:10.1007/s10472-013-9368-4): each training molecule is predicted by a model that did not
see it, and the errors of all folds together are those to be expected of the model that was trained on everything.
Normalised by difficulty (Papadopoulos et al. 2011, doi:10.1613/jair.3198) and, by class of molecules, Mondrian (Vovk et
al., Algorithmic Learning in a Random World, 2005). The intervals are those of the ``crepes`` library, which the tests
compare with; here a prediction needs NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from moltune.calibration import LEVEL
from moltune.calibration.difficulty import Difficulty, Inputs, finite, stacked
from moltune.errors import CheckpointError, ConfigError, DataError

FEWEST_PER_CLASS = 10
"""A class with fewer calibration molecules is counted with the one before it.

It is about the fewest that have a 90 % quantile of their own. That quantile is uncertain, but the one of unlike
molecules is too small: with 30, strange molecules of a validation part of 420 were covered by 79 % (near) and 70 %
(out), with 10 by 93 % and 83 %, at 3 % more width overall (``benchmarks/calibration.py``).
"""

_FOLDS = 5
_VERSION = 1


def check_level(level: float) -> None:
    """See whether an interval can have this level.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ConfigError(f"the level of an interval must be between 0 and 1, such as 0.9; it is {level}")


@dataclass(frozen=True)
class Intervals:
    """Of n molecules, float64, shape (n,) each, in the target's unit.

    Attributes:
        low: lower end.
        high: upper end.
        sd: standard deviation of the error to be expected.
    """

    low: np.ndarray
    high: np.ndarray
    sd: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """Errors that a model made on molecules it had not seen, ready to say how wrong it will be on others.

    Make one with :meth:`fit` or :meth:`from_arrays`.

    Attributes:
        difficulty: expected absolute error of a molecule.
        scores: absolute errors divided by their difficulty, one sorted stretch per group, float64, shape (n,).
        group_of: group of each class, int64, shape (classes,); a class with few molecules shares that of another.
        sizes: calibration molecules of each group, int64, shape (groups,).
    """

    difficulty: Difficulty
    scores: np.ndarray
    group_of: np.ndarray
    sizes: np.ndarray

    @classmethod
    def fit(
        cls,
        true: np.ndarray,
        predicted: np.ndarray,
        inputs: Inputs | None = None,
        classes: np.ndarray | None = None,
        n_classes: int = 1,
    ) -> Self:
        """Learn from out-of-fold predictions of n molecules; their order does not matter.

        The score of a molecule is its absolute error divided by the difficulty that the others teach (in five parts),
        so that even with few molecules no error makes its own difficulty.

        Args:
            true: measurements, shape (n,).
            predicted: by models that did not see the molecule, shape (n,).
            inputs: what difficulty is judged by; unset: it is the same for all, and so is the width. Those of a
                molecule must be computed without it, as they will be for new molecules.
            classes: class of each molecule, 0 to ``n_classes`` − 1, from the most to the least usual; a class with
                fewer than 10 molecules is counted with the one before it. Unset: all in class 0.
            n_classes: how many classes there may be.

        Raises:
            DataError: fewer than two molecules, shapes that differ, unknown classes, or errors that are all zero.
            NumericsError: a value is not finite.
        """
        errors = np.abs(finite(true, "measurement") - _as_long(finite(predicted, "prediction"), len(true)))
        inputs, n = inputs or {}, len(errors)
        if n < 2:
            raise DataError(f"calibration needs at least two molecules; there are {n}")
        classes = _checked_classes(classes, n, n_classes)
        difficulty = Difficulty.fit(inputs, errors)
        scores = errors / _others_teach(difficulty, inputs, errors)
        group_of = _merge_small(np.bincount(classes, minlength=n_classes))
        groups = group_of[classes]
        order = np.lexsort([scores, groups])
        sizes = np.bincount(groups, minlength=int(group_of.max()) + 1)
        return cls(difficulty, scores[order], group_of, sizes)

    def predict(
        self,
        predicted: np.ndarray,
        inputs: Inputs | None = None,
        classes: np.ndarray | None = None,
        level: float = LEVEL,
    ) -> Intervals:
        """Intervals around n predictions that hold the share ``level`` of measurements, if molecules are exchangeable.

        Where a class has too few molecules for the level, its largest score or the quantile over all classes counts,
        whichever is larger. A higher level never gives a narrower interval.

        Args:
            predicted: by the model that is trained on everything, shape (n,).
            inputs: those of the fit.
            classes: as in the fit, shape (n,); may be left out only where all molecules are one group.
            level: between 0 and 1.

        Raises:
            ConfigError: the level is not between 0 and 1.
            DataError: too few molecules for such a level (the largest is named), an input or the classes are missing,
                or a class is unknown.
            NumericsError: a value is not finite.
        """
        predicted = finite(predicted, "prediction")
        if classes is None and len(self.sizes) > 1:
            raise DataError("this calibration tells classes of molecules apart and needs those of new molecules")
        groups = self.group_of[_checked_classes(classes, len(predicted), len(self.group_of))]
        difficulty = self.difficulty(inputs or {}, len(predicted))
        half = self._quantiles(level)[groups] * difficulty
        sd = np.array([np.sqrt(np.mean(one**2)) for one in self._stretches()])[groups] * difficulty
        return Intervals(predicted - half, predicted + half, sd)

    @property
    def largest_level(self) -> float:
        """Intervals of a higher level would have to be infinite."""
        return len(self.scores) / (len(self.scores) + 1)

    def _stretches(self) -> list[np.ndarray]:
        return np.split(self.scores, np.cumsum(self.sizes)[:-1])

    def _quantiles(self, level: float) -> np.ndarray:
        """Score that the share ``level`` does not exceed, by group."""
        check_level(level)
        everywhere = _quantile(np.sort(self.scores), level)
        if everywhere is None:
            raise DataError(
                f"{len(self.scores)} calibration molecules allow intervals of at most {self.largest_level:.1%}, "
                f"not of {level:.4g}; choose a lower level"
            )
        found = []
        for stretch in self._stretches():
            own = _quantile(stretch, level)
            found.append(max(everywhere, stretch[-1]) if own is None else own)
        return np.array(found)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything as plain arrays of numbers, for .npz or safetensors; names as UTF-8 bytes, one per line."""
        own = self.difficulty
        return {
            "version": np.array([_VERSION]),
            "scores": self.scores,
            "group_of": self.group_of,
            "sizes": self.sizes,
            "inputs": np.frombuffer("\n".join(own.names).encode(), dtype=np.uint8),
            "bounds": own.bounds,
            "center": own.center,
            "scale": own.scale,
            "weights": own.weights,
            "intercept": np.array([own.intercept]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """What :meth:`to_arrays` wrote; it gives exactly the same intervals.

        Raises:
            CheckpointError: an array is missing or does not fit the others, or the format is of a later version.
        """
        needed = ("version", "scores", "group_of", "sizes", "inputs", "bounds", "center", "scale", "weights")
        if missing := {*needed, "intercept"} - set(arrays):
            raise CheckpointError(f"the calibration lacks {', '.join(sorted(missing))}")
        if int(arrays["version"][0]) > _VERSION:
            raise CheckpointError("the calibration was written by a later version of moltune; update moltune")
        text = np.asarray(arrays["inputs"], dtype=np.uint8).tobytes().decode()
        names = tuple(text.split("\n")) if text else ()
        bounds, center, scale, weights = (np.asarray(arrays[name], dtype=np.float64) for name in needed[5:])
        scores, group_of, sizes = (np.asarray(arrays[name]) for name in needed[1:4])
        widths = {len(names), len(bounds), len(center), len(scale), len(weights)}
        if len(widths) > 1 or sizes.sum() != len(scores) or group_of.max(initial=-1) >= len(sizes):
            raise CheckpointError("the arrays of the calibration do not fit together")
        difficulty = Difficulty(names, bounds, center, scale, weights, float(arrays["intercept"][0]))
        return cls(difficulty, scores, group_of, sizes)


def _quantile(falling_in: np.ndarray, level: float) -> float | None:
    """The ⌈(n + 1) level⌉-th smallest of sorted scores; None where there are too few."""
    # (n + 1) level may miss a whole number by the last bits.
    rank = max(1, math.ceil((len(falling_in) + 1) * level - 1e-9))
    return float(falling_in[rank - 1]) if rank <= len(falling_in) else None


def _others_teach(everybody: Difficulty, inputs: Inputs, errors: np.ndarray) -> np.ndarray:
    """Difficulty of each molecule, learned from the others in five parts; the order of the molecules is no matter."""
    values, result = stacked(inputs, everybody.names, len(errors)), everybody(inputs, len(errors))
    parts = min(_FOLDS, len(errors) // 2)
    # Dealt out by rank of the error, so that each part has its share of large ones whatever the order.
    part = np.empty(len(errors), dtype=np.int64)
    part[np.lexsort([*values.T, errors])] = np.arange(len(errors)) % parts
    for one in range(parts):
        own = part == one
        if errors[~own].any():
            teaching, asked = (
                {name: values[rows, i] for i, name in enumerate(everybody.names)} for rows in (~own, own)
            )
            result[own] = Difficulty.fit(teaching, errors[~own])(asked, int(own.sum()))
    return result


def _merge_small(counts: np.ndarray) -> np.ndarray:
    """Group of each class: from the last class on, one with too few molecules joins the class before it."""
    bounds, gathered = [], 0
    for start in range(len(counts) - 1, -1, -1):
        gathered += int(counts[start])
        if gathered >= FEWEST_PER_CLASS:
            bounds.append(start)
            gathered = 0
    # What is left over at the front has too few: it joins the group behind it.
    firsts = np.array(sorted(bounds)[1:], dtype=np.int64)
    return np.searchsorted(firsts, np.arange(len(counts)), side="right").astype(np.int64)


def _checked_classes(classes: np.ndarray | None, n: int, n_classes: int) -> np.ndarray:
    if classes is None:
        return np.zeros(n, dtype=np.int64)
    found = np.asarray(classes)
    if found.shape != (n,) or not np.issubdtype(found.dtype, np.integer):
        raise DataError(f"classes must be whole numbers, one per molecule, shape ({n},); the shape is {found.shape}")
    if len(found) and (found.min() < 0 or found.max() >= n_classes):
        raise DataError(f"classes must be 0 to {n_classes - 1}; there is {found.min()} or {found.max()}")
    return found.astype(np.int64)


def _as_long(values: np.ndarray, n: int) -> np.ndarray:
    if len(values) != n:
        raise DataError(f"there are {len(values)} predictions for {n} measurements")
    return values
