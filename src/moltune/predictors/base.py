"""What everything that predicts one property of molecules has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from moltune.models.coverage import Issue

PROBE_TYPE, ENSEMBLE_TYPE = "moltune-probe", "moltune-ensemble"
"""``model_type`` in the ``config.json`` of a probe and of an ensemble; anything else is a language model."""
MODEL, BLEND = "model", "blend"
"""Sources of predictions: a tuned model by itself, and its average with classical baselines."""
Progress = Callable[[int], None]
"""Takes how many more molecules are done."""


class TunedModel(ABC):
    """Predicts one property of molecules from their SMILES, in the property's unit.

    A run saves one, and prediction, the estimator and studies use it, whatever it is inside.
    """

    @property
    @abstractmethod
    def target_name(self) -> str:
        """Name of the predicted property."""

    @property
    def class_names(self) -> tuple[str, str] | None:
        """Negative and positive class, where the model predicts the probability of the latter; None: it is a number."""
        return None

    @abstractmethod
    def issues(self, smiles: Sequence[str]) -> dict[int, Issue]:
        """Positions of the SMILES that the model cannot read, or not wholly, with the reason."""

    @abstractmethod
    def predict(self, smiles: Sequence[str], batch_size: int = 32, progress: Progress | None = None) -> np.ndarray:
        """Predict n molecules; float64, shape (n,): the property, or the probability of the positive class.

        Raises:
            NumericsError: a prediction is not finite; the molecule is named.
        """

    def predict_with_spread(
        self, smiles: Sequence[str], batch_size: int = 32, progress: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Predictions, and how far the members of an ensemble disagree, shape (n,); None where there is one model."""
        return self.predict(smiles, batch_size, progress), None

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write everything that :func:`moltune.predictors.load.load_model` needs."""
