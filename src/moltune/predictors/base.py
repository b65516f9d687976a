"""What every tuned model is to those who use it, and what its tuning left beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from moltune.models.checkpoints import max_length, save_regression
from moltune.models.coverage import Issue, check_smiles
from moltune.models.methods.base import ParameterCount
from moltune.models.regression import RegressionModel
from moltune.predictors.spellings import Averaged, predict_spellings
from moltune.tuning.cost import Cost
from moltune.tuning.head_refit import Refit

Progress = Callable[[int], None]


class TunedModel(ABC):
    """Predicts one property of molecules from their SMILES, in the property's unit.

    A run saves one, and prediction, the estimator and studies use it, whatever it is inside.
    """

    @property
    @abstractmethod
    def target_name(self) -> str:
        """Name of the predicted property."""

    @abstractmethod
    def issues(self, smiles: Sequence[str]) -> dict[int, Issue]:
        """Positions of the SMILES that cannot be read, or not wholly, with the reason."""

    @abstractmethod
    def predict_spellings(
        self, smiles: Sequence[str], k: int = 1, batch_size: int = 32, progress: Progress | None = None
    ) -> Averaged:
        """Predict n molecules, each averaged over k of its SMILES, its own included.

        Raises:
            ConfigError: the model cannot average over so many.
            NumericsError: a prediction is not finite; the molecule is named.
        """

    def predict(self, smiles: Sequence[str], batch_size: int = 32, progress: Progress | None = None) -> np.ndarray:
        """Predict n molecules under their own SMILES; float64, shape (n,)."""
        return self.predict_spellings(smiles, 1, batch_size, progress).mean

    def check_spellings(self, k: int) -> None:  # noqa: B027 - most models average over any number
        """See whether :meth:`predict_spellings` takes this k.

        Raises:
            ConfigError: it does not.
        """

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Write everything that :func:`moltune.tuning.fit.load_tuned` needs."""


@dataclass(frozen=True)
class LanguageModel(TunedModel):
    """A tuned network with its tokenizer.

    Attributes:
        network: in evaluation mode.
        tokenizer: that belongs to it.
        truncate: cut SMILES that are longer than the network reads, instead of failing.
    """

    network: RegressionModel
    tokenizer: PreTrainedTokenizerBase
    truncate: bool = False

    @property
    def target_name(self) -> str:
        """As the network's configuration stores it."""
        return str(self.network.config.target_name)

    def issues(self, smiles: Sequence[str]) -> dict[int, Issue]:
        """Characters and tokens that the vocabulary lacks, and SMILES that are too long."""
        return check_smiles(self.tokenizer, smiles, max_length(self.network.encoder, self.tokenizer))

    def predict_spellings(
        self, smiles: Sequence[str], k: int = 1, batch_size: int = 32, progress: Progress | None = None
    ) -> Averaged:
        """See :func:`moltune.predictors.spellings.predict_spellings`."""
        network, tokenizer, cut = self.network, self.tokenizer, self.truncate
        return predict_spellings(network, tokenizer, smiles, k, batch_size=batch_size, truncate=cut, progress=progress)

    def save(self, folder: str | Path) -> None:
        """Write network and tokenizer; see :func:`moltune.models.checkpoints.save_regression`."""
        save_regression(self.network, self.tokenizer, folder)


@dataclass(frozen=True)
class Tuned:
    """A tuned model in memory, and how it came about.

    Attributes:
        model: ready to predict.
        history: losses per epoch; empty where nothing is trained by epochs.
        best_epoch: epoch whose weights the model has; 0 without epochs.
        parameters: what was trained.
        seconds: wall-clock time in this process.
        cost: time, memory and throughput.
        refit: what became of the head after training; None: it was left as trained.
    """

    model: TunedModel
    history: pd.DataFrame
    best_epoch: int
    parameters: ParameterCount
    seconds: float
    cost: Cost
    refit: Refit | None = None
