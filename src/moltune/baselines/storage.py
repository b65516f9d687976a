"""Fitted baselines on disk, without pickle: JSON, arrays in safetensors, XGBoost's own format."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from moltune.baselines.baselines import (
    BASELINES,
    Baseline,
    FeatureTable,
    MeanBaseline,
    RidgeBaseline,
    XGBoostBaseline,
    standardised,
)
from moltune.errors import ConfigError, RunFolderError

_NUMBERS, _ARRAYS, _TREES = "numbers.json", "arrays.safetensors", "trees.ubj"


@dataclass(frozen=True)
class _Format:
    save: Callable[[Any, Path], None]
    load: Callable[[Any, Path], None]


def storable() -> list[str]:
    """Names of the baselines that can be stored."""
    return list(_FORMATS)


def save_baseline(baseline: Baseline, folder: Path) -> None:
    """Write a fitted baseline into ``folder``, which is made.

    Raises:
        ConfigError: this baseline can only be pickled, which moltune never does.
    """
    if baseline.name not in _FORMATS:
        raise ConfigError(f"{baseline.name} cannot be stored without pickle; choose from {', '.join(_FORMATS)}")
    folder.mkdir(parents=True, exist_ok=True)
    _FORMATS[baseline.name].save(baseline, folder)


def load_baseline(name: str, folder: Path, features: FeatureTable | None = None) -> Baseline:
    """Read what :func:`save_baseline` wrote.

    Raises:
        RunFolderError: a file is missing or damaged, or the baseline is not one that is stored.
    """
    if name not in _FORMATS:
        raise RunFolderError(f"{folder}: there is no stored kind of baseline {name!r}")
    baseline = BASELINES[name](features)
    try:
        _FORMATS[name].load(baseline, folder)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, xgboost.core.XGBoostError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunFolderError(
            f"the stored baseline {folder} cannot be read ({reason}); run again to restore it"
        ) from None
    return baseline


def _save_mean(baseline: MeanBaseline, folder: Path) -> None:
    (folder / _NUMBERS).write_text(json.dumps({"mean": baseline.mean_}) + "\n", encoding="utf-8")


def _load_mean(baseline: MeanBaseline, folder: Path) -> None:
    baseline.mean_ = float(json.loads((folder / _NUMBERS).read_text(encoding="utf-8"))["mean"])


def _save_ridge(baseline: RidgeBaseline, folder: Path) -> None:
    """The pipeline's numbers: medians, means and scales of the features, and the linear model."""
    imputer, _, scaler, _, linear = (step for _, step in baseline.model_.steps)
    arrays = {
        "median": imputer.statistics_,
        "mean": scaler.mean_,
        "scale": scaler.scale_,
        "coefficients": linear.coef_,
        "intercept": np.atleast_1d(linear.intercept_),
    }
    save_file({name: np.ascontiguousarray(array, dtype=np.float64) for name, array in arrays.items()}, folder / _ARRAYS)


class _StoredRidge:
    """Computes what the fitted pipeline computes, from its numbers."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = {name: arrays[name].copy() for name in ("median", "mean", "scale", "coefficients", "intercept")}
        width = self.arrays["median"].shape
        if any(self.arrays[name].shape != width for name in ("mean", "scale", "coefficients")):
            raise ValueError("its arrays do not have one length")

    def predict(self, features: np.ndarray) -> np.ndarray:
        filled = np.where(np.isnan(features), self.arrays["median"], features)
        ready = standardised(filled, self.arrays["mean"], self.arrays["scale"])
        return ready @ self.arrays["coefficients"] + self.arrays["intercept"][0]


def _load_ridge(baseline: RidgeBaseline, folder: Path) -> None:
    baseline.model_ = _StoredRidge(load_file(folder / _ARRAYS))


def _save_xgboost(baseline: XGBoostBaseline, folder: Path) -> None:
    baseline.model_.save_model(folder / _TREES)


def _load_xgboost(baseline: XGBoostBaseline, folder: Path) -> None:
    if not (folder / _TREES).is_file():
        raise OSError(f"there is no {_TREES}")
    baseline.model_ = xgboost.XGBRegressor(n_jobs=1)
    baseline.model_.load_model(folder / _TREES)


_FORMATS: dict[str, _Format] = {
    "xgboost": _Format(_save_xgboost, _load_xgboost),
    "ridge": _Format(_save_ridge, _load_ridge),
    "mean": _Format(_save_mean, _load_mean),
}
