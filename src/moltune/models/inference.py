"""Predictions and embeddings of many molecules with a model in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from moltune.errors import NumericsError
from moltune.models.batches import PadCollator, SmilesDataset, sorted_batches
from moltune.models.regression import RegressionModel


def predict_smiles(
    model: RegressionModel,
    tokenizer: PreTrainedTokenizerBase,
    smiles: Sequence[str],
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Predict in the target's unit; float64, shape (n,), in the order of ``smiles``.

    Raises:
        NumericsError: a prediction is not finite; the molecule is named.
    """
    values = _run(model, tokenizer, smiles, _predict, batch_size, max_length, progress).reshape(-1)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise NumericsError(f"the prediction for {smiles[bad[0]]} is {values[bad[0]]}")
    return values


def embed_smiles(
    model: RegressionModel,
    tokenizer: PreTrainedTokenizerBase,
    smiles: Sequence[str],
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    noisy: bool = False,
) -> np.ndarray:
    """Pooled embeddings before the head; float64, shape (n, hidden_size).

    With ``noisy`` they are what the head sees in training: dropout on, features redrawn where the model does so.
    """
    function = _embed_noisy if noisy else _embed
    return _run(model, tokenizer, smiles, function, batch_size, max_length, None).reshape(len(smiles), -1)


def _predict(model: RegressionModel, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch).logits


def _embed(model: RegressionModel, batch: dict[str, Tensor]) -> Tensor:
    return model.embed(**batch)


def _embed_noisy(model: RegressionModel, batch: dict[str, Tensor]) -> Tensor:
    model.train()
    return model.head.dropout(model.embed(**batch))


@torch.inference_mode()
def _run(
    model: RegressionModel,
    tokenizer: PreTrainedTokenizerBase,
    smiles: Sequence[str],
    function: Callable[[RegressionModel, dict[str, Tensor]], Tensor],
    batch_size: int,
    max_length: int | None,
    progress: Callable[[int], None] | None,
) -> np.ndarray:
    if not len(smiles):
        return np.empty(0, dtype=np.float64)
    dataset = SmilesDataset(tokenizer, smiles, max_length=max_length)
    collate = PadCollator(int(tokenizer.pad_token_id))
    was_training = model.training
    model.eval()
    result: np.ndarray | None = None
    for positions in sorted_batches(dataset.lengths, batch_size):
        batch = {key: value.to(model.device) for key, value in collate([dataset[i] for i in positions]).items()}
        values = function(model, batch).double().cpu().numpy()
        if result is None:
            result = np.empty((len(smiles), values.shape[1]), dtype=np.float64)
        result[positions] = values
        if progress is not None:
            progress(len(positions))
    model.train(was_training)
    assert result is not None
    return result
