"""Predictions and embeddings of many molecules with a model in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

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
    options: dict[str, Any] = {"batch_size": batch_size, "max_length": max_length, "progress": progress}
    values = run_batches(model, tokenizer, smiles, lambda **batch: model(**batch).logits, **options).reshape(-1)
    check_finite(smiles, values)
    return values


def check_finite(smiles: Sequence[str], values: np.ndarray) -> None:
    """Raise NumericsError, which names the molecule, where a prediction is not finite; ``values`` are (n,)."""
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise NumericsError(f"the prediction for {smiles[bad[0]]} is {values[bad[0]]}")


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
    options: dict[str, Any] = {"batch_size": batch_size, "max_length": max_length, "training": noisy}
    return run_batches(model, tokenizer, smiles, lambda **batch: model.head.dropout(model.embed(**batch)), **options)


@torch.inference_mode()
def run_batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    smiles: Sequence[str],
    function: Callable[..., Tensor],
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    training: bool = False,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Apply a function of ``input_ids`` and ``attention_mask`` to batches of molecules of similar length.

    Args:
        model: that the function uses; it is left in the mode that it was in.
        tokenizer: that belongs to it.
        smiles: n SMILES.
        function: returns (batch, k).
        batch_size, max_length: molecules at a time, and tokens of each at most.
        training: whether the model is in training mode meanwhile.
        progress: takes how many molecules more are done.

    Returns:
        float64, shape (n, k), in the order of ``smiles``; (0, 0) for none.
    """
    dataset, collate = SmilesDataset(tokenizer, smiles, max_length=max_length), PadCollator(int(tokenizer.pad_token_id))
    was_training = model.training
    model.train(training)
    result = np.empty((0, 0))
    for positions in sorted_batches(dataset.lengths, batch_size):
        batch = {key: value.to(model.device) for key, value in collate([dataset[i] for i in positions]).items()}
        values = function(**batch).double().cpu().numpy()
        if not len(result):
            result = np.empty((len(smiles), values.shape[1]))
        result[positions] = values
        if progress is not None:
            progress(len(positions))
    model.train(was_training)
    return result
