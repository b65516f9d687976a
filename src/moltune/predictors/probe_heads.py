"""Regressors on fixed features: the contract, ridge, support vectors. Each is some arrays, never a pickle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, Self

import numpy as np

from moltune.errors import NumericsError
from moltune.models import MOST_DEVIATIONS

Arrays = dict[str, np.ndarray]

_CHUNK = 512


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances (n, m) of points (n, d) and (m, d), by one matrix product in float64."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return np.maximum((a * a).sum(1)[:, None] - 2 * a @ b.T + (b * b).sum(1), 0.0)


class Scaler:
    """Missing values become the training median; columns are standardised and clipped at five standard deviations.

    Args:
        dtype: of the result. float32 keeps saved kernel regressors small, and rounding once, before the fit, makes a
            loaded one predict as it did.

    Attributes:
        arrays: ``median``, ``mean`` and ``std`` of the training part, shape (d,) each.
    """

    arrays: Arrays

    def __init__(self, dtype: type[np.floating[Any]] = np.float32) -> None:
        self.dtype = dtype

    def fit(self, features: np.ndarray) -> Self:
        """Learn medians, means and deviations from the training part, shape (n, d).

        Raises:
            NumericsError: a feature is infinite.
        """
        features = np.asarray(features, dtype=np.float64)
        if np.isinf(features).any():
            raise NumericsError(f"feature column {int(np.flatnonzero(np.isinf(features).any(0))[0])} is infinite")
        known = ~np.isnan(features).all(axis=0)
        median = np.zeros(features.shape[1])
        median[known] = np.nanmedian(features[:, known], axis=0)
        filled = np.where(np.isnan(features), median, features)
        mean, std = filled.mean(axis=0), filled.std(axis=0)
        # What is left of rounding in a constant column is no deviation.
        std[std <= 10 * np.finfo(np.float64).eps * np.maximum(1.0, np.abs(mean))] = 1.0
        self.arrays = {"median": median, "mean": mean, "std": std}
        return self

    def transform(self, features: np.ndarray) -> np.ndarray:
        """Scale, shape (n, d)."""
        features = np.asarray(features, dtype=np.float64)
        filled = np.where(np.isnan(features), self.arrays["median"], features)
        scaled = (filled - self.arrays["mean"]) / self.arrays["std"]
        return np.clip(scaled, -MOST_DEVIATIONS, MOST_DEVIATIONS).astype(self.dtype)


class ProbeHead(ABC):
    """A regressor on scaled features.

    Attributes:
        name: as settings write it.
        stored: names of ``arrays``; the first holds one coefficient per feature or stored point.
        arrays: everything that :meth:`predict` needs.
    """

    name: ClassVar[str]
    stored: ClassVar[tuple[str, ...]]
    arrays: Arrays

    @abstractmethod
    def fit(self, features: np.ndarray, target: np.ndarray, seed: int = 0) -> Self:
        """Learn from features (n, d) and targets (n,)."""

    @abstractmethod
    def predict(self, features: np.ndarray) -> np.ndarray:
        """Map features (m, d) to float64 (m,)."""

    @property
    def fitted(self) -> int:
        """How many numbers were estimated from the targets, the intercept included."""
        return len(self.arrays[self.stored[0]]) + 1


class RidgeHead(ProbeHead):
    """Ridge regression in closed form; generalised cross-validation chooses the penalty λ.

    GCV(λ) = n ‖y − ŷ‖² / (n − 1 − tr H(λ))², the one being the intercept (Golub, Heath & Wahba 1979,
    doi:10.1080/00401706.1979.10489751).
    """

    name, stored = "ridge", ("weights", "intercept")
    penalties = np.logspace(-8, 2, 81)

    def fit(self, features: np.ndarray, target: np.ndarray, seed: int = 0) -> Self:
        """One singular value decomposition serves every penalty."""
        features = np.asarray(features, dtype=np.float64)
        center, offset = features.mean(axis=0), float(target.mean())
        left, values, right = np.linalg.svd(features - center, full_matrices=False)
        centred = target - offset
        along = left.T @ centred
        outside = max(0.0, float(centred @ centred - along @ along))
        squares = values**2
        grid = self.penalties * max(float(squares.max(initial=0.0)), np.finfo(np.float64).tiny)
        shrunk = squares[None] / (squares[None] + grid[:, None])
        left_over = ((1 - shrunk) ** 2 * along[None] ** 2).sum(axis=1) + outside
        freedom = np.maximum(len(target) - 1 - shrunk.sum(axis=1), 1e-9)
        self.penalty = float(grid[int((left_over / freedom**2).argmin())])
        weights = right.T @ (values / (squares + self.penalty) * along)
        self.arrays = {"weights": weights, "intercept": np.array([offset - float(center @ weights)])}
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Linear."""
        return np.asarray(features, dtype=np.float64) @ self.arrays["weights"] + self.arrays["intercept"][0]


class SvrHead(ProbeHead):
    """Support vector regression with an RBF kernel (Drucker et al., NIPS 1996).

    f(x) = Σ aᵢ exp(−γ‖x − xᵢ‖²) + b; ``kernel`` holds γ and b.
    """

    name, stored = "svr", ("dual", "points", "kernel")

    def __init__(self, C: float = 5.0, epsilon: float = 0.1, gamma: float | Literal["scale", "auto"] = "scale") -> None:
        self.C, self.epsilon, self.gamma = C, epsilon, gamma

    def fit(self, features: np.ndarray, target: np.ndarray, seed: int = 0) -> Self:
        """Solve with libsvm; the solution is unique."""
        from sklearn.svm import SVR

        machine = SVR(C=self.C, epsilon=self.epsilon, gamma=self.gamma, cache_size=500).fit(features, target)
        kernel = np.array([machine._gamma, machine.intercept_[0]])
        self.arrays = {"dual": machine.dual_coef_[0], "points": features[machine.support_], "kernel": kernel}
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Sum over the stored points, some hundred molecules at a time."""
        dual, points, (gamma, intercept) = (self.arrays[name] for name in self.stored)
        parts = [
            np.exp(-gamma * squared_distances(features[start : start + _CHUNK], points)) @ dual
            for start in range(0, len(features), _CHUNK)
        ]
        return np.concatenate(parts) + intercept if parts else np.empty(0)
