"""Refit the head of a tuned model as a kernel machine on the embeddings that training left behind."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from moltune.errors import NumericsError
from moltune.models.inference import embed_smiles, predict_smiles
from moltune.models.kernel import KernelHead
from moltune.models.regression import RegressionModel
from moltune.predictors.probe_heads import Scaler, SvrHead

logger = logging.getLogger(__name__)

PRICES = (0.5, 1.0, 2.0, 5.0)
USUAL_PRICE = 1.0
_LEAST_VALIDATION = 20


@dataclass(frozen=True)
class Refit:
    """What became of the head.

    Attributes:
        head: "linear" where the trained head was kept, or "svr".
        C: price of an error in the kernel head; None where the trained head was kept.
        points: support vectors.
        bytes: what the kernel head adds to a saved model.
        validation: root mean squared error on the validation part in the target's unit, of the "trained" head and of
            each kernel head by its C; empty without one.
    """

    head: str
    C: float | None
    points: int
    bytes: int
    validation: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def refit_head(
    model: RegressionModel,
    tokenizer: PreTrainedTokenizerBase,
    train: tuple[Sequence[str], np.ndarray],
    validation: tuple[Sequence[str], np.ndarray] | None,
    *,
    max_length: int | None = None,
    batch_size: int = 32,
) -> Refit:
    """Fit support vector regression (RBF) on the tuned embeddings of the training part; put it on the model, in place.

    The tuned encoder is a learned kernel: a machine that looks at neighbours in its space uses more of it than one
    direction does. The price C, and whether the kernel head is taken at all, is what the validation part
    says; where that is missing or below 20 molecules, C is 1.

    Args:
        model: in evaluation mode, trained.
        tokenizer: that belongs to it.
        train: SMILES and targets in their own unit.
        validation: the same; None or empty: none.
        max_length: cut inputs to this many tokens.
        batch_size: molecules embedded at a time.

    Raises:
        NumericsError: an embedding is not finite.
    """
    mean, std = model.config.target_mean, model.config.target_std

    def embed(smiles: Sequence[str]) -> np.ndarray:
        return embed_smiles(model, tokenizer, smiles, batch_size=batch_size, max_length=max_length)

    embedded = embed(train[0])
    if not np.isfinite(embedded).all():
        raise NumericsError("training left embeddings that are not finite; lower training.learning_rate")
    scaler = Scaler().fit(embedded)
    points, target = scaler.transform(embedded), (np.asarray(train[1], dtype=np.float64) - mean) / std
    if validation is None or len(validation[0]) < _LEAST_VALIDATION:
        head = SvrHead(C=USUAL_PRICE).fit(points, target)
        model.set_kernel(_to_module(scaler, head))
        return Refit("svr", USUAL_PRICE, len(head.dual), _size(model), {})
    known = np.asarray(validation[1], dtype=np.float64)
    tried = scaler.transform(embed(validation[0]))
    heads = {C: SvrHead(C=C).fit(points, target) for C in PRICES}
    errors = {C: _rmse(head.predict(tried) * std + mean, known) for C, head in heads.items()}
    kept = _rmse(predict_smiles(model, tokenizer, validation[0], batch_size=batch_size, max_length=max_length), known)
    best = min(errors, key=lambda C: errors[C])
    listed = {"trained": kept} | {f"C={C:g}": error for C, error in errors.items()}
    if kept <= errors[best]:
        return Refit("linear", None, 0, 0, listed)
    model.set_kernel(_to_module(scaler, heads[best]))
    return Refit("svr", best, len(heads[best].dual), _size(model), listed)


def _size(model: RegressionModel) -> int:
    assert model.kernel is not None
    return sum(tensor.nbytes for tensor in model.kernel.state_dict().values())


def _to_module(scaler: Scaler, head: SvrHead) -> KernelHead:
    arrays = {"mean": scaler.mean, "scale": scaler.std, "points": head.points, "dual": head.dual}
    tensors = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in arrays.items()}
    numbers = {"gamma": head.gamma, "intercept": head.intercept}
    return KernelHead.from_tensors(tensors | {name: torch.tensor([value]) for name, value in numbers.items()})


def _rmse(predicted: np.ndarray, true: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predicted - true) ** 2)))
