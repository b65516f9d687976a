"""Noise of the labels of an external file, estimated with a cross-validated model of the training labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

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


@dataclass(frozen=True)
class ClassNoise:
    """The same of two classes: shares of molecules for which a model of the training labels expects the other class.

    Attributes:
        cv_error: of the training molecules, out of fold.
        expected_error: the same, at the external molecules' similarity to the nearest training molecule.
        external_error: of the external molecules, by the model of all training molecules.
        excess: max(0, external − expected).
        excess_lower: lower end of its 95 % bootstrap interval over molecules.
        excess_upper: upper end.
        extrapolated: as of :class:`LabelNoise`.
    """

    cv_error: float
    expected_error: float
    external_error: float
    excess: float
    excess_lower: float
    excess_upper: float
    extrapolated: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


Labelled = tuple[np.ndarray, np.ndarray, Sequence[str]]
"""Features (n, d), labels (n,), SMILES."""


def label_noise(external: Labelled, known: Labelled, *, folds: int = 5, seed: int = 0) -> LabelNoise:
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
    found = _compare(external, known, lambda y, p: (y - p) ** 2, _root_of_excess, folds, seed)
    y, predicted = external[1], found.predicted
    constant = y.std() == 0 or predicted.std() == 0
    return LabelNoise(
        cv_rmse=float(np.sqrt(found.inside)),
        expected_rmse=float(np.sqrt(found.expected)),
        external_rmse=float(np.sqrt(found.outside)),
        bias=float((y - predicted).mean()),
        correlation=None if constant else float(np.corrcoef(y, predicted)[0, 1]),
        excess=_root_of_excess(found.outside, found.expected),
        excess_lower=found.lower,
        excess_upper=found.upper,
        extrapolated=found.extrapolated,
        residuals=y - predicted,
    )


def class_noise(external: Labelled, known: Labelled, *, folds: int = 5, seed: int = 0) -> ClassNoise:
    """The same where labels are the classes 0 and 1, to which the model is fitted as numbers and cut at one half."""

    def excess(observed: float, expected: float) -> float:
        return max(0.0, observed - expected)

    found = _compare(external, known, lambda y, p: 1.0 * ((p >= 0.5) != (y > 0.5)), excess, folds, seed)
    errors = (found.inside, found.expected, found.outside)
    return ClassNoise(*errors, excess(found.outside, found.expected), found.lower, found.upper, found.extrapolated)


class _Compared(NamedTuple):
    """Mean errors inside the training set, expected and seen outside; interval of the excess; predictions outside."""

    inside: float
    expected: float
    outside: float
    lower: float
    upper: float
    extrapolated: float
    predicted: np.ndarray


def _compare(
    external: Labelled,
    known: Labelled,
    error: Callable[[np.ndarray, np.ndarray], np.ndarray],
    excess: Callable[[float, float], float],
    folds: int,
    seed: int,
) -> _Compared:
    x, y, smiles = external
    known_x, known_y, known_smiles = known
    model, parts = _support_vectors(), KFold(folds, shuffle=True, random_state=seed)
    bits = morgan_bits([*known_smiles, *smiles])
    n = len(known_y)
    errors = error(known_y, cross_val_predict(model, known_x, known_y, cv=parts))
    similarity = np.empty(n)
    for rest, left_out in parts.split(known_x):
        similarity[left_out] = nearest_similarity(bits, left_out, rest)
    predicted = model.fit(known_x, known_y).predict(x)
    seen = error(y, predicted)
    stratum = np.digitize(nearest_similarity(bits, np.arange(n, n + len(y)), np.arange(n)), _EDGES)
    known_stratum = np.digitize(similarity, _EDGES)
    expected, extrapolated = _expected(errors, known_stratum, stratum)
    rng, samples = np.random.default_rng(seed), []
    for _ in range(_RESAMPLES):
        a, b = rng.integers(0, n, n), rng.integers(0, len(y), len(y))
        resampled, _ = _expected(errors[a], known_stratum[a], stratum[b])
        samples.append(excess(float(seen[b].mean()), resampled))
    lower, upper = np.quantile(samples, [0.025, 0.975]).tolist()
    return _Compared(float(errors.mean()), expected, float(seen.mean()), lower, upper, extrapolated, predicted)


def _support_vectors() -> Pipeline:
    return make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        StandardScaler(),
        FunctionTransformer(np.clip, kw_args={"a_min": -5.0, "a_max": 5.0}),
        SVR(C=5.0, epsilon=0.1),
    )


def _expected(errors: np.ndarray, known_stratum: np.ndarray, stratum: np.ndarray) -> tuple[float, float]:
    """Mean error at the strata of the external molecules, and the share of these that is extrapolated."""
    counts = np.bincount(known_stratum, minlength=len(_EDGES) + 1)
    sums = np.bincount(known_stratum, weights=errors, minlength=len(_EDGES) + 1)
    usable = np.flatnonzero(counts >= min(_LEAST_IN_STRATUM, counts.max()))
    means = sums[usable] / counts[usable]
    nearest = np.abs(usable[None, :] - stratum[:, None]).argmin(axis=1)
    return float(means[nearest].mean()), float(np.mean(usable[nearest] != stratum))


def _root_of_excess(observed: float, expected: float) -> float:
    return float(np.sqrt(max(0.0, observed - expected)))
