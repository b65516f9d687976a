"""The head of a model in closed form: where training starts it, and the kernel machine that may take its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from transformers import PreTrainedTokenizerBase

from moltune.calibration.folds import FOLDS
from moltune.data.splitting.bounds import Bounds
from moltune.errors import NumericsError
from moltune.models.heads import MeanHead, fit_by_logistic, fit_by_ridge
from moltune.models.inference import embed_smiles, predict_smiles
from moltune.models.kernel import KernelHead
from moltune.models.regression import RegressionModel
from moltune.predictors.probe_heads import Scaler, SvrHead

Part = tuple[Sequence[str], np.ndarray]
"""SMILES, and targets in their own unit, shape (n,)."""

PRICES = (0.5, 1.0, 2.0, 5.0)
LEAST_VALIDATION = 20
LEAST_NOISE = 0.05


def start_head(
    model: RegressionModel,
    tokenizer: PreTrainedTokenizerBase,
    smiles: Sequence[str],
    target: np.ndarray,
    *,
    max_length: int | None = None,
) -> bool:
    """Fit the head's linear layer by ridge or logistic regression on pooled training embeddings, in place.

    Targets, shape (n,), are in their own unit; inputs are cut to ``max_length`` tokens.

    Returns:
        Whether the head was fitted; a head that is not one linear layer stays as it is.

    Raises:
        NumericsError: an embedding is not finite.
    """
    if not isinstance(model.head, MeanHead):
        return False
    embedded = embed_smiles(model, tokenizer, smiles, max_length=max_length, noisy=True)
    if model.config.classes is not None:
        fit_by_logistic(model.head.out_proj, embedded, target, model.class_weights)
        return True
    standardised = (np.asarray(target, dtype=np.float64) - model.config.target_mean) / model.config.target_std
    fit_by_ridge(model.head.out_proj, embedded, standardised)
    return True


def measure_noise(
    model: RegressionModel,
    tokenizer: PreTrainedTokenizerBase,
    smiles: Sequence[str],
    target: np.ndarray,
    *,
    max_length: int | None = None,
) -> float:
    """Leave-one-out error of ridge regression on frozen embeddings, in standard deviations of the targets, at most 1.

    It stands for the standard deviation of a measurement around its prediction in the loss of censored targets.
    Arguments as of :func:`start_head`.
    """
    embedded = embed_smiles(model, tokenizer, smiles, max_length=max_length)
    standardised = (np.asarray(target, dtype=np.float64) - model.config.target_mean) / model.config.target_std
    found = RidgeCV(alphas=np.logspace(-3, 4, 29)).fit(embedded, standardised)
    return float(np.clip(np.sqrt(-found.best_score_), LEAST_NOISE, 1.0))


@dataclass(frozen=True)
class Refit:
    """Which head predicts, and on what evidence.

    Attributes:
        head: "linear" where the trained head was kept, or "svr".
        C: price of an error in the kernel head; None where the trained head was kept.
        points: support vectors.
        bytes: what the kernel head adds to a saved model.
        validation: root mean squared error on the validation part in the target's unit, of the "trained" head and of
            each kernel head by its C; empty where that part is missing or too small to choose on.
        cross_validation: the same over folds of the training and validation molecules, of a "linear" head and of each
            kernel head by its C; empty where the validation part chose, or for too few molecules.
        validation_molecules: size of the validation part.
    """

    head: str
    C: float | None
    points: int
    bytes: int
    validation: dict[str, float]
    cross_validation: dict[str, float] = field(default_factory=dict)
    validation_molecules: int = 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def refit_head(
    model: RegressionModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Part,
    validation: Part | None,
    *,
    bounds: Bounds | None = None,
    max_length: int | None = None,
) -> Refit:
    """Fit support vector regression (RBF) on the tuned embeddings of the training part; put it on the model, in place.

    The tuned encoder is a learned kernel: a machine that looks at neighbours in its space uses more of it than one
    direction does. The validation part chooses the price C, and whether the kernel head is taken at all. Where it is
    missing or below 20 molecules, five-fold cross-validation over the training and validation molecules chooses, on the
    embeddings as they are, with ridge regression in the trained head's place; below ten molecules, the trained head
    stays. The kernel head that is put on the model has always learned from the training part alone. It takes a bound as
    what the trained head expects of a measurement beyond it (see :func:`beyond`), with the noise of its training.

    Raises:
        NumericsError: an embedding is not finite.
    """
    mean, std = model.config.target_mean, model.config.target_std
    smiles, known = ([], np.empty(0)) if validation is None else validation
    embedded = embed_smiles(model, tokenizer, train[0], max_length=max_length)
    if not np.isfinite(embedded).all():
        raise NumericsError("training left embeddings that are not finite; lower training.learning_rate")
    others = embed_smiles(model, tokenizer, smiles, max_length=max_length) if len(smiles) else embedded[:0]
    target, wanted = ((np.asarray(values, dtype=np.float64) - mean) / std for values in (train[1], known))
    scaler = Scaler().fit(embedded)
    points, held_out = scaler.transform(embedded), scaler.transform(others)
    learned, labels = points, target
    if bounds is not None and len(bounds):
        own = (predict_smiles(model, tokenizer, bounds.smiles, max_length=max_length) - mean) / std
        further = scaler.transform(embed_smiles(model, tokenizer, bounds.smiles, max_length=max_length))
        expected = beyond((bounds.value - mean) / std, bounds.side, own, model.noise)
        learned, labels = np.concatenate([points, further]), np.concatenate([target, expected])

    @cache
    def kernel(C: float) -> SvrHead:
        return SvrHead(C=C).fit(learned, labels)

    if len(smiles) >= LEAST_VALIDATION:
        own = predict_smiles(model, tokenizer, smiles, max_length=max_length)
        errors = {"trained": _rmse(own, known)}
        errors |= {f"C={C:g}": _rmse(kernel(C).predict(held_out) * std + mean, known) for C in PRICES}
        evidence: dict[str, Any] = {"validation": errors}
    else:
        everything = np.concatenate([embedded, others]), np.concatenate([target, wanted])
        errors = {name: error * std for name, error in cross_validate(*everything).items()}
        evidence = {"validation": {}, "cross_validation": errors}
    evidence["validation_molecules"] = len(smiles)
    best = min(errors, key=lambda name: errors[name], default="trained")
    if best in ("trained", "linear"):
        return Refit("linear", None, 0, 0, **evidence)
    chosen = float(best.removeprefix("C="))
    head = _to_module(scaler, kernel(chosen))
    model.set_kernel(head)
    return Refit("svr", chosen, len(head.points), sum(t.nbytes for t in head.state_dict().values()), **evidence)


def beyond(bound: np.ndarray, side: np.ndarray, predicted: np.ndarray, noise: float) -> np.ndarray:
    """Expected value of measurements that are known to be beyond a bound; all (n,), in one unit.

    Of the normal law around ``predicted`` with standard deviation σ = ``noise``, what lies above (``side`` 1) or below
    (-1) the bound b has the mean p + sσ φ(z)/Φ(-z), z = s(b - p)/σ.
    """
    z = side * (bound - predicted) / noise
    return np.asarray(predicted + side * noise * np.exp(norm.logpdf(z) - norm.logsf(z)), dtype=np.float64)


def cross_validate(embedded: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Root mean squared error over five folds of "linear" (ridge regression) and of each kernel head, such as "C=1".

    Embeddings are (n, width), targets (n,) in the unit of the errors; empty below ten molecules.
    """
    if len(target) < 2 * FOLDS:
        return {}
    predicted = {name: np.empty(len(target)) for name in ("linear", *(f"C={C:g}" for C in PRICES))}
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(embedded):
        scaler = Scaler().fit(embedded[train])
        seen, unseen = scaler.transform(embedded[train]), scaler.transform(embedded[test])
        predicted["linear"][test] = RidgeCV(alphas=np.logspace(-3, 4, 29)).fit(seen, target[train]).predict(unseen)
        for C in PRICES:
            predicted[f"C={C:g}"][test] = SvrHead(C=C).fit(seen, target[train]).predict(unseen)
    return {name: _rmse(values, target) for name, values in predicted.items()}


def _to_module(scaler: Scaler, head: SvrHead) -> KernelHead:
    gamma, intercept = head.arrays["kernel"]
    arrays = {
        "mean": scaler.arrays["mean"],
        "scale": scaler.arrays["std"],
        "points": head.arrays["points"],
        "dual": head.arrays["dual"],
        "gamma": [gamma],
        "intercept": [intercept],
    }
    return KernelHead.from_tensors({name: torch.as_tensor(value) for name, value in arrays.items()})


def _rmse(predicted: np.ndarray, true: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predicted - true) ** 2)))
