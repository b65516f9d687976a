"""A tuned language model as a predictor, alone or with a kernel machine that reads further features beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from transformers import PreTrainedTokenizerBase

from moltune.models.checkpoints import load_regression, load_tokenizer, max_length, save_regression
from moltune.models.coverage import Issue, check_smiles
from moltune.models.inference import embed_smiles, predict_smiles
from moltune.models.names import resolve
from moltune.models.regression import RegressionModel
from moltune.predictors.base import Progress, TunedModel
from moltune.predictors.probe import Probe

HEAD = "head"


@dataclass(frozen=True)
class LanguageModel(TunedModel):
    """A tuned network with its tokenizer.

    Attributes:
        network: in evaluation mode.
        tokenizer: that belongs to it.
        truncate: cut SMILES that are longer than the network reads, instead of failing.
        head: fitted on the tuned embedding and further features; it predicts in place of the network's own head.
    """

    network: RegressionModel
    tokenizer: PreTrainedTokenizerBase
    truncate: bool = False
    head: Probe | None = None

    @property
    def target_name(self) -> str:
        """As the network's configuration stores it."""
        return str(self.network.config.target_name)

    @property
    def longest(self) -> int | None:
        """Tokens to which SMILES are cut; None: they are not."""
        return max_length(self.network.encoder, self.tokenizer) if self.truncate else None

    def embed(self, smiles: Sequence[str]) -> np.ndarray:
        """The tuned embedding, float32, shape (n, hidden_size): what a head calls ``embedding``."""
        return embed_smiles(self.network, self.tokenizer, smiles, max_length=self.longest).astype(np.float32)

    def issues(self, smiles: Sequence[str]) -> dict[int, Issue]:
        """Characters and tokens that the vocabulary lacks, and SMILES that are too long."""
        return check_smiles(self.tokenizer, smiles, max_length(self.network.encoder, self.tokenizer))

    def predict(self, smiles: Sequence[str], batch_size: int = 32, progress: Progress | None = None) -> np.ndarray:
        """Predict n molecules; equal SMILES are predicted once, so that they get one number.

        In a batch the last bits of a prediction depend on where the molecule stands.
        """
        place = {text: at for at, text in enumerate(dict.fromkeys(smiles))}
        if self.head is not None:
            values = self.head.predict(list(place), batch_size, progress)
        else:
            options = {"batch_size": batch_size, "max_length": self.longest, "progress": progress}
            values = predict_smiles(self.network, self.tokenizer, list(place), **options)  # type: ignore[arg-type]
        if progress is not None and len(place) < len(smiles):
            progress(len(smiles) - len(place))
        return values[[place[text] for text in smiles]]

    def save(self, folder: str | Path) -> None:
        """Write network and tokenizer (see :func:`moltune.models.checkpoints.save_regression`), and the head."""
        save_regression(self.network, self.tokenizer, folder)
        if self.head is not None:
            self.head.save(Path(folder) / HEAD)

    @classmethod
    def load(cls, folder: str | Path, base: str | Path | None = None, *, truncate: bool = False) -> Self:
        """Load what :meth:`save` wrote; arguments as in :func:`moltune.predictors.load.load_model`.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        model = cls(load_regression(folder, base), load_tokenizer(folder), truncate)
        place = Path(resolve(folder)) / HEAD
        return replace(model, head=Probe.load(place, embed=model.embed)) if place.is_dir() else model
