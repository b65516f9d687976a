"""A tuned language model as a predictor: in torch, or as an exported graph."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from moltune.errors import NumericsError
from moltune.models.coverage import Issue, check_smiles
from moltune.models.onnx_network import FIRST, MEAN, PREDICTION, OnnxNetwork
from moltune.predictors.base import Progress, TunedModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from moltune.models.regression import RegressionModel


class LanguageModel(TunedModel):
    """A tuned network with its tokenizer.

    Args:
        network: in evaluation mode.
        tokenizer: that belongs to it.
        truncate: cut SMILES that are longer than the network reads, instead of failing.
    """

    network: RegressionModel
    tokenizer: PreTrainedTokenizerBase

    def __init__(self, network: RegressionModel, tokenizer: PreTrainedTokenizerBase, truncate: bool = False) -> None:
        self.network, self.tokenizer, self.truncate = network, tokenizer, truncate

    @property
    def target_name(self) -> str:
        """As the network's configuration stores it."""
        return str(self.network.config.target_name)

    @property
    def class_names(self) -> tuple[str, str] | None:
        """As the network's configuration stores them."""
        found = self.network.config.classes
        return None if found is None else (str(found[0]), str(found[1]))

    def issues(self, smiles: Sequence[str]) -> dict[int, Issue]:
        """Characters and tokens that the vocabulary lacks, and SMILES that are too long."""
        return check_smiles(self.tokenizer, smiles, self._limit)

    def predict(self, smiles: Sequence[str], batch_size: int = 32, progress: Progress | None = None) -> np.ndarray:
        """Predict n molecules; equal SMILES are predicted once, so that they get one number.

        In a batch the last bits of a prediction depend on where the molecule stands.
        """
        place = {text: at for at, text in enumerate(dict.fromkeys(smiles))}
        values = self._predict(list(place), batch_size, progress)
        if progress is not None and len(place) < len(smiles):
            progress(len(smiles) - len(place))
        return values[[place[text] for text in smiles]]

    def embed(self, smiles: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """The tuned embeddings that the head sees, float64, shape (n, hidden_size)."""
        from moltune.models.inference import embed_smiles

        cut = self._limit if self.truncate else None
        return embed_smiles(self.network, self.tokenizer, smiles, batch_size=batch_size, max_length=cut)

    def save(self, folder: str | Path) -> None:
        """Write network and tokenizer; see :func:`moltune.models.checkpoints.save_regression`."""
        from moltune.models.checkpoints import save_regression

        save_regression(self.network, self.tokenizer, folder)

    @property
    def _limit(self) -> int | None:
        from moltune.models.checkpoints import max_length

        return max_length(self.network.encoder, self.tokenizer)

    def _predict(self, smiles: Sequence[str], batch_size: int, progress: Progress | None) -> np.ndarray:
        from moltune.models.inference import predict_smiles

        cut = self._limit if self.truncate else None
        return predict_smiles(
            self.network, self.tokenizer, smiles, batch_size=batch_size, max_length=cut, progress=progress
        )


class OnnxModel(LanguageModel):
    """The same from the graph in an exported folder, without torch; what needs the network in torch loads it there.

    Args:
        graph: of a tuned model.
        truncate: cut SMILES that are longer than the network reads, instead of failing.
    """

    def __init__(self, graph: OnnxNetwork, truncate: bool = False) -> None:
        self.graph, self.truncate = graph, truncate

    @cached_property
    def network(self) -> RegressionModel:  # type: ignore[override]
        """Loaded from the folder of the graph."""
        from moltune.models.checkpoints import load_regression

        return load_regression(self.graph.folder)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:  # type: ignore[override]
        """Loaded from the folder of the graph."""
        from moltune.models.checkpoints import load_tokenizer

        return load_tokenizer(self.graph.folder)

    @property
    def target_name(self) -> str:
        """As it stands in the graph."""
        return str(self.graph.facts.target)

    @property
    def class_names(self) -> tuple[str, str] | None:
        """As they stand in the graph."""
        found = self.graph.facts.classes
        return None if found is None else (found[0], found[1])

    def issues(self, smiles: Sequence[str]) -> dict[int, Issue]:
        """Characters and tokens that the vocabulary lacks, and SMILES that are too long."""
        return self.graph.issues(smiles)

    def embed(self, smiles: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """The tuned embeddings that the head sees, float64, shape (n, hidden_size)."""
        output = FIRST if self.graph.facts.head == "cls" else MEAN
        return self.graph.run(output, smiles, batch_size=batch_size, truncate=self.truncate)

    def save(self, folder: str | Path) -> None:
        """Copy the folder of the graph."""
        shutil.copytree(self.graph.folder, folder, dirs_exist_ok=True)

    def _predict(self, smiles: Sequence[str], batch_size: int, progress: Progress | None) -> np.ndarray:
        values = self.graph.run(PREDICTION, smiles, batch_size=batch_size, truncate=self.truncate, progress=progress)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise NumericsError(f"the prediction for {smiles[bad[0]]} is {values[bad[0]]}")
        return values
