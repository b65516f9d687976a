"""Out-of-fold predictions: each molecule is predicted by a model that saw neither it nor a relative of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from moltune.errors import DataError

FOLDS = 5


def fold_labels(groups: Sequence[object], folds: int = FOLDS, seed: int = 0) -> np.ndarray:
    """Fold of each of n molecules, int64, shape (n,); about equally many in each.

    Args:
        groups: of each molecule what must not be torn apart, such as the first block of the InChIKey: a stereoisomer
            in training would make the error of the other one too small.
        folds: at least 2.
        seed: of the order of the groups.

    Raises:
        DataError: fewer groups than folds.
    """
    if folds < 2:
        raise DataError(f"out-of-fold predictions need at least two folds, not {folds}")
    names: dict[object, int] = {}
    numbers = np.array([names.setdefault(group, len(names)) for group in groups], dtype=np.int64)
    if len(names) < folds:
        raise DataError(f"{folds} folds need at least as many different molecules; there are {len(names)}")
    counts = np.bincount(numbers)
    shuffled = np.random.default_rng(seed).permutation(len(counts))
    fold_of, filled = np.empty(len(counts), dtype=np.int64), np.zeros(folds, dtype=np.int64)
    # The largest groups first, each into the emptiest fold.
    for group in shuffled[np.argsort(-counts[shuffled], kind="stable")].tolist():
        fold_of[group] = int(filled.argmin())
        filled[fold_of[group]] += counts[group]
    return fold_of[numbers]


def out_of_fold(labels: np.ndarray, predict: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Predict each fold by what learned from the others.

    Args:
        labels: fold of each molecule, shape (n,).
        predict: positions to learn from, positions to predict -> one row for each of the latter.

    Returns:
        The rows in the order of the molecules, shape (n, ...).
    """
    parts = [np.flatnonzero(labels == fold) for fold in np.unique(labels)]
    rows = [np.asarray(predict(np.flatnonzero(labels != labels[part[0]]), part)) for part in parts]
    joined = np.concatenate(rows)
    result = np.empty_like(joined)
    result[np.concatenate(parts)] = joined
    return result
