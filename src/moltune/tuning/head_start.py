"""Start a linear head where ridge regression on the untouched embeddings ends.

Fine-tuning from a random head first pulls the encoder towards noise; from a fitted head it starts with the error of the
linear probe and keeps the pretrained features (Kumar et al. 2022, arXiv:2202.10054).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from transformers import PreTrainedTokenizerBase

from moltune.errors import NumericsError
from moltune.models.heads import MeanHead
from moltune.models.inference import embed_smiles
from moltune.models.regression import RegressionModel

ALPHAS = np.logspace(-3, 4, 29)


def start_head(
    model: RegressionModel,
    tokenizer: PreTrainedTokenizerBase,
    smiles: Sequence[str],
    target: np.ndarray,
    *,
    max_length: int | None = None,
) -> bool:
    """Fit the head's linear layer by ridge regression on pooled training embeddings, in place.

    Embeddings are taken with dropout on: a head fitted on clean ones leans on differences between
    them that are smaller than the noise of training, and its first training loss is many times the variance. The
    penalty is chosen by leave-one-out error.

    Args:
        model: with a fresh head.
        tokenizer: that belongs to it.
        smiles: training molecules.
        target: their targets in their own unit, shape (n,).
        max_length: cut inputs to this many tokens.

    Returns:
        Whether the head was fitted; a head that is not one linear layer stays as it is.

    Raises:
        NumericsError: an embedding is not finite.
    """
    if not isinstance(model.head, MeanHead):
        return False
    embedded = embed_smiles(model, tokenizer, smiles, max_length=max_length, noisy=True)
    if not np.isfinite(embedded).all():
        raise NumericsError("the checkpoint gives embeddings that are not finite; its weights are damaged")
    standardised = (np.asarray(target, dtype=np.float64) - model.config.target_mean) / model.config.target_std
    ridge = RidgeCV(alphas=ALPHAS).fit(embedded, standardised)
    with torch.no_grad():
        layer = model.head.out_proj
        layer.weight.copy_(torch.as_tensor(ridge.coef_).view_as(layer.weight))
        layer.bias.fill_(float(ridge.intercept_))
    return True
