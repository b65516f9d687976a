"""Conformal prediction sets of two classes: what can be excluded, with a promise for each class by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

# A held-out molecule that is predicted again, by another engine or in another batch, must not miss its own rank.
_SAME = 1e-5


@dataclass(frozen=True)
class PredictionSets:
    """Label-conditional split-conformal sets (Vovk 2013, doi:10.1007/s10994-013-5355-6; Sadinle et al. 2019).

    A class belongs to a molecule's set unless its probability is lower than that of all but a share of the held-out
    molecules of that class. At level 0.9 the set then holds the true class of 90 % of the molecules of each class, if
    they are drawn as the held-out ones. A set may hold both classes (it is open) or none (neither was like this).

    Attributes:
        negative: probabilities of the negative class of the held-out molecules in it, sorted.
        positive: likewise of the positive class.
    """

    negative: np.ndarray
    positive: np.ndarray

    @classmethod
    def fit(cls, true: np.ndarray, predicted: np.ndarray) -> Self:
        """Learn from held-out molecules: classes 0 and 1, and probabilities of the positive one, shape (n,) each."""
        return cls(np.sort(1 - predicted[true < 0.5]), np.sort(predicted[true > 0.5]))

    def predict(self, predicted: np.ndarray, level: float) -> np.ndarray:
        """Whether the set of each molecule holds the negative and the positive class: bool, shape (n, 2)."""
        columns = []
        for known, own in ((self.negative, 1 - predicted), (self.positive, predicted)):
            # The share of molecules of this class, the new one among them, that are at most as probable.
            share = (np.searchsorted(known, own + _SAME, side="right") + 1) / (len(known) + 1)
            columns.append(share > 1 - level)
        return np.stack(columns, axis=1)

    def judge(self, true: np.ndarray, predicted: np.ndarray, level: float) -> dict[str, Any]:
        """What the sets of other molecules are worth; JSON-ready.

        Returns:
            ``level``, ``molecules``, ``coverage`` (share of sets that hold the true class), ``by_class`` (the same of
            the negative and the positive class; None where there is none), and the shares of sets with ``one`` class,
            with ``both`` and with ``none``.
        """
        held = self.predict(predicted, level)
        right = held[np.arange(len(true)), true.astype(np.int64)]
        size = held.sum(axis=1)
        return {
            "level": level,
            "molecules": len(true),
            "coverage": float(right.mean()),
            "by_class": [float(right[true == label].mean()) if (true == label).any() else None for label in (0, 1)],
            **{name: float((size == count).mean()) for name, count in (("none", 0), ("one", 1), ("both", 2))},
        }


def in_words(held: np.ndarray, classes: tuple[str, str]) -> np.ndarray:
    """Sets as text, such as "active", "active or inactive" and "none"; object, shape (n,)."""
    words = {(True, True): f"{classes[1]} or {classes[0]}", (False, False): "none"}
    words |= {(True, False): classes[0], (False, True): classes[1]}
    return np.array([words[bool(one[0]), bool(one[1])] for one in held], dtype=object)
