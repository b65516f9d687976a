"""A tuned language model as a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from moltune.models.checkpoints import max_length, save_regression
from moltune.models.coverage import Issue, check_smiles
from moltune.models.inference import predict_smiles
from moltune.models.regression import RegressionModel
from moltune.predictors.base import Progress, TunedModel


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

    def predict(self, smiles: Sequence[str], batch_size: int = 32, progress: Progress | None = None) -> np.ndarray:
        """Predict n molecules; equal SMILES are predicted once, so that they get one number.

        In a batch the last bits of a prediction depend on where the molecule stands.
        """
        cut = max_length(self.network.encoder, self.tokenizer) if self.truncate else None
        place = {text: at for at, text in enumerate(dict.fromkeys(smiles))}
        values = predict_smiles(
            self.network, self.tokenizer, list(place), batch_size=batch_size, max_length=cut, progress=progress
        )
        if progress is not None and len(place) < len(smiles):
            progress(len(smiles) - len(place))
        return values[[place[text] for text in smiles]]

    def save(self, folder: str | Path) -> None:
        """Write network and tokenizer; see :func:`moltune.models.checkpoints.save_regression`."""
        save_regression(self.network, self.tokenizer, folder)
