"""A kernel machine on blocks of features, each with a length scale of its own that the data choose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from moltune.errors import DataError, NumericsError
from moltune.predictors.probe_heads import ProbeHead, squared_distances

MOST_MOLECULES = 8000
_FOR_SCALES, _FOR_CHOICE = 800, 2000
_CHUNK = 256
_BOUNDS = {"signal": (1e-2, 1e2), "noise": (1e-4, 4.0), "weight": (1e-6, 1e4)}
# In a small set the likelihood is flat in some directions: a weak normal prior holds the logarithms near their start.
_PRIOR = 0.01
_PRICE, _TUBE = 2.0, 0.1


class GpHead(ProbeHead):
    """Gaussian process with a Matérn-3/2 kernel over blocks of features, averaged with a support vector machine.

    k(x, z) = s (1 + √(3t)) exp(−√(3t)) with t = Σ_b w_b ‖x_b − z_b‖² / d_b, where d_b is the width of block b. Signal
    s, noise and weights w_b maximise the marginal likelihood of at most 800 training molecules (Rasmussen & Williams
    2006, equations 5.8 and 5.9). A block without which at most 2,000 of them are predicted better, each from all the
    others (equation 5.12), is left out. Support vector regression on the same kernel yields less to outliers; the mean
    of the coefficients of both is one kernel machine, and was better than either on the bundled sets.

    Args:
        blocks: for each feature column the number of its block, from 0; unset: all columns are one block.

    Attributes:
        signal, noise: s, and the variance of the noise, for standardised targets.
        weights: w_b of each block, zero where it was left out.
    """

    name, stored = "gp", ("dual", "points", "kernel")
    signal: float
    noise: float
    weights: np.ndarray

    def __init__(self, blocks: Sequence[int] = ()) -> None:
        self.blocks = np.array(blocks, dtype=np.int64)

    def fit(self, features: np.ndarray, target: np.ndarray, seed: int = 0) -> Self:
        """Choose the kernel, then solve for the coefficients.

        Raises:
            DataError: more molecules than a dense kernel matrix is sensible for.
            NumericsError: the kernel matrix cannot be factorised.
        """
        from sklearn.svm import SVR

        if len(target) > MOST_MOLECULES:
            raise DataError(
                f"a Gaussian process on {len(target)} molecules needs too much memory (at most {MOST_MOLECULES}); "
                "use --head svr or ridge"
            )
        target = np.asarray(target, dtype=np.float64)
        offset = float(target.mean())
        centred = target - offset
        blocks = self.blocks if len(self.blocks) else np.zeros(features.shape[1], dtype=np.int64)
        widths = np.bincount(blocks)
        parts = [features[:, blocks == block] for block in range(len(widths))]
        rows = np.random.default_rng(seed).permutation(len(target))[:_FOR_CHOICE]
        squares = np.stack([squared_distances(part[rows], part[rows]) / part.shape[1] for part in parts])
        self.signal, self.noise, self.weights = _choose(squares, centred[rows])

        scales = np.sqrt(self.weights / widths)[blocks]
        # Half precision keeps saved machines small. New points are not rounded: the last bits of a feature, which
        # differ from one way of computing it to another, would then decide.
        points = (features * scales).astype(np.float16)
        kernel = _matern(squared_distances(points, points))
        process = self.signal * _solve(_factor(self.signal * kernel, self.noise), centred)
        machine = SVR(kernel="precomputed", C=_PRICE * self.signal, epsilon=_TUBE, cache_size=500)
        machine.fit(kernel, centred)
        dual = process / 2
        dual[machine.support_] += machine.dual_coef_[0] / 2
        constant = np.array([1.0, offset + float(machine.intercept_[0]) / 2])
        self.arrays = {"dual": dual, "points": points, "kernel": constant, "scales": scales}
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Sum over the training molecules, some hundred at a time."""
        dual, points, (gamma, constant) = (self.arrays[name] for name in self.stored)
        # Before version 0.3 the kernel was Gaussian, with one length scale.
        scales = self.arrays.get("scales")
        if scales is not None:
            features = features * scales
        points = points.astype(np.float64)
        result = np.full(len(features), constant)
        for start in range(0, len(features), _CHUNK):
            squared = squared_distances(features[start : start + _CHUNK], points)
            result[start : start + _CHUNK] += (np.exp(-gamma * squared) if scales is None else _matern(squared)) @ dual
        return result


def _matern(squared: np.ndarray) -> np.ndarray:
    root = np.sqrt(3 * squared)
    return (1 + root) * np.exp(-root)


def _choose(squares: np.ndarray, target: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Signal, noise and the weight of each block, from squared distances (blocks, n, n) and centred targets (n,)."""
    used = np.ones(len(squares), dtype=bool)
    while True:
        weights = np.zeros(len(squares))
        signal, noise, weights[used] = _likeliest(squares[used, :_FOR_SCALES, :_FOR_SCALES], target[:_FOR_SCALES])
        if used.sum() == 1:
            return signal, noise, weights
        without = {
            int(block): _leave_one_out(squares, target, signal, noise, weights * (np.arange(len(weights)) != block))
            for block in np.flatnonzero(used)
        }
        needless = min(without, key=lambda block: without[block])
        if without[needless] >= _leave_one_out(squares, target, signal, noise, weights):
            return signal, noise, weights
        used[needless] = False


def _likeliest(squares: np.ndarray, target: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Maximise the marginal likelihood over the logarithms of signal, noise and weights, by its gradient."""
    from scipy.optimize import minimize

    count = len(squares)
    middles = np.array([np.median(part) or 1.0 for part in squares])
    start = np.log(np.concatenate([[1.0, 0.15], 0.5 / count / middles]))

    def loss(logs: np.ndarray) -> tuple[float, np.ndarray]:
        (signal, noise), weights = np.exp(logs[:2]), np.exp(logs[2:])
        root = np.sqrt(3 * np.tensordot(weights, squares, 1))
        falling = signal * np.exp(-root)
        kernel = falling * (1 + root)
        factor = _factor(kernel, noise)
        solved = _solve(factor, target)
        away = logs - start
        value = 0.5 * target @ solved + np.log(np.diag(factor[0])).sum() + _PRIOR * away @ away
        # ∂(loss)/∂θ = ½ tr((K⁻¹ − aaᵀ) ∂K/∂θ), and ∂k/∂t = −(3/2) s exp(−√(3t)).
        inner = 0.5 * (_solve(factor, np.eye(len(target))) - np.outer(solved, solved))
        by_distance = -1.5 * inner * falling
        slopes = [(inner * kernel).sum(), noise * np.trace(inner), *(weights * np.tensordot(squares, by_distance, 2))]
        return value, np.array(slopes) + 2 * _PRIOR * away

    limits = [_BOUNDS["signal"], _BOUNDS["noise"], *[_BOUNDS["weight"]] * count]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=np.log(limits), options={"maxiter": 40}).x
    return float(np.exp(found[0])), float(np.exp(found[1])), np.exp(found[2:])


def _leave_one_out(squares: np.ndarray, target: np.ndarray, signal: float, noise: float, weights: np.ndarray) -> float:
    """Mean squared error of each target predicted from all the others: (a_i / K⁻¹_ii)²."""
    factor = _factor(signal * _matern(np.tensordot(weights, squares, 1)), noise)
    inverse = np.diag(_solve(factor, np.eye(len(target))))
    return float(np.mean((_solve(factor, target) / inverse) ** 2))


def _factor(kernel: np.ndarray, noise: float) -> tuple[np.ndarray, bool]:
    from scipy.linalg import cho_factor

    kernel = kernel.copy()
    kernel[np.diag_indices_from(kernel)] += noise
    try:
        return cho_factor(kernel, lower=True, overwrite_a=True)
    except (np.linalg.LinAlgError, ValueError) as error:
        raise NumericsError(f"the Gaussian process cannot be fitted ({error}); use --head svr or ridge") from None


def _solve(factor: tuple[np.ndarray, bool], right: np.ndarray) -> np.ndarray:
    # Prediction needs nothing of SciPy, which takes a third of a second to import.
    from scipy.linalg import cho_solve

    return cho_solve(factor, right)
