"""Noise of the labels of an external file, estimated with a cross-validated model of the training labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVR

from moltune.data.splitting.similarity import morgan_bits, nearest_similarity

# Similarities at which one stratum ends and the next begins.
_EDGES = np.array([0.3, 0.4, 0.5, 0.6, 0.7, 0.85])
_LEAST_IN_STRATUM = 20
_RESAMPLES = 1000


@dataclass(frozen=True)
class LabelNoise:
    """Errors of a model of the training labels, out of fold on the training molecules and on the external ones.

    Attributes:
        cv_rmse: out-of-fold error on the training molecules.
        expected_rmse: the same, at the external molecules' similarity to the nearest training molecule.
        external_rmse: error on the external molecules of the model of all training molecules.
        bias: mean of external label minus prediction.
        correlation: Pearson correlation of external labels and predictions; None where one is constant.
        excess: standard deviation of the external labels that the model's own error does not explain:
            √max(0, external MSE − expected MSE). Label noise, another scale and another quantity all contribute to it.
        excess_lower: lower end of its 95 % bootstrap interval over molecules.
        excess_upper: upper end.
        extrapolated: share of external molecules whose stratum of similarity has too few training molecules, so that
            their expected error is that of the nearest stratum with enough.
        residuals: external label minus prediction, in table order.
    """

    cv_rmse: float
    expected_rmse: float
    external_rmse: float
    bias: float
    correlation: float | None
    excess: float
    excess_lower: float
    excess_upper: float
    extrapolated: float
    residuals: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, without the residuals."""
        return {name: value for name, value in asdict(self).items() if name != "residuals"}


def label_noise(
    external: tuple[np.ndarray, np.ndarray, Sequence[str]],
    known: tuple[np.ndarray, np.ndarray, Sequence[str]],
    *,
    folds: int = 5,
    seed: int = 0,
) -> LabelNoise:
    """Estimate the noise of external labels with a model of the known labels.

    Support vector regression (RBF, C 5) on standardised features predicts each training molecule from the other folds
    and each external molecule from all training molecules. The expected squared error of an external molecule is the
    mean over training molecules in the same stratum of Tanimoto similarity to the nearest molecule of the fit.

    Args:
        external: features (n, d), labels (n,), SMILES.
        known: the same for the training molecules.
        folds: of the cross-validation.
        seed: of folds and bootstrap.
    """
    x, y, smiles = external
    known_x, known_y, known_smiles = known
    model, parts = _support_vectors(), KFold(folds, shuffle=True, random_state=seed)
    bits = morgan_bits([*known_smiles, *smiles])
    n = len(known_y)
    errors = (known_y - cross_val_predict(model, known_x, known_y, cv=parts)) ** 2
    similarity = np.empty(n)
    for rest, left_out in parts.split(known_x):
        similarity[left_out] = nearest_similarity(bits, left_out, rest)
    predicted = model.fit(known_x, known_y).predict(x)
    residuals = y - predicted
    squares = residuals**2
    stratum = np.digitize(nearest_similarity(bits, np.arange(n, n + len(y)), np.arange(n)), _EDGES)
    known_stratum = np.digitize(similarity, _EDGES)
    expected, extrapolated = _expected(errors, known_stratum, stratum)
    rng, samples = np.random.default_rng(seed), []
    for _ in range(_RESAMPLES):
        a, b = rng.integers(0, n, n), rng.integers(0, len(y), len(y))
        resampled, _ = _expected(errors[a], known_stratum[a], stratum[b])
        samples.append(_excess(squares[b].mean(), resampled))
    lower, upper = np.quantile(samples, [0.025, 0.975]).tolist()
    constant = y.std() == 0 or predicted.std() == 0
    return LabelNoise(
        cv_rmse=float(np.sqrt(errors.mean())),
        expected_rmse=float(np.sqrt(expected)),
        external_rmse=float(np.sqrt(squares.mean())),
        bias=float(residuals.mean()),
        correlation=None if constant else float(np.corrcoef(y, predicted)[0, 1]),
        excess=_excess(squares.mean(), expected),
        excess_lower=lower,
        excess_upper=upper,
        extrapolated=extrapolated,
        residuals=residuals,
    )


def _support_vectors() -> Pipeline:
    return make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        FunctionTransformer(np.clip, kw_args={"a_min": -5.0, "a_max": 5.0}),
        SVR(C=5.0, epsilon=0.1),
    )


def _expected(errors: np.ndarray, known_stratum: np.ndarray, stratum: np.ndarray) -> tuple[float, float]:
    """Mean squared error at the strata of the external molecules, and the share of these that is extrapolated."""
    counts = np.bincount(known_stratum, minlength=len(_EDGES) + 1)
    sums = np.bincount(known_stratum, weights=errors, minlength=len(_EDGES) + 1)
    usable = np.flatnonzero(counts >= min(_LEAST_IN_STRATUM, counts.max()))
    means = sums[usable] / counts[usable]
    nearest = np.abs(usable[None, :] - stratum[:, None]).argmin(axis=1)
    return float(means[nearest].mean()), float(np.mean(usable[nearest] != stratum))


def _excess(observed: float, expected: float) -> float:
    return float(np.sqrt(max(0.0, observed - expected)))
