"""The contract of a baseline, and the classical ones: training mean, ridge, random forest, XGBoost.

All but the mean learn on RDKit descriptors, Morgan counts and ionisation. They are stored without pickle: JSON, arrays
in safetensors, XGBoost's own format.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from moltune.baselines.trees import Trees
from moltune.calibration.platt import answer_probability, fit_answer_scale, tells
from moltune.errors import ConfigError, RunFolderError, one_line
from moltune.features.registry import CLASSICAL, FeatureTable

Part = tuple[Sequence[str], np.ndarray]
"""n SMILES, and their measurements in the target's unit, shape (n,)."""


class Baseline(ABC):
    """A regressor from SMILES that a tuned language model is measured against.

    Args:
        features: table that baselines of one comparison share; unset: a new one.
    """

    name: str
    columns = CLASSICAL
    classes = False
    """Whether its targets are the classes 0 and 1, and it predicts probabilities of 1; set before it is fitted."""

    def __init__(self, features: FeatureTable | None = None) -> None:
        self.features = FeatureTable() if features is None else features

    def _x(self, smiles: Sequence[str]) -> np.ndarray:
        """Features side by side, float32, shape (n, d)."""
        return self.features.get(self.columns, smiles)

    @abstractmethod
    def fit(self, train: Part, validation: Part | None = None, seed: int = 0) -> Self:
        """Learn from the training part; the validation part may choose a setting but is never trained on.

        The same seed gives the same predictions.
        """

    @abstractmethod
    def predict(self, smiles: Sequence[str]) -> np.ndarray:
        """Predict n molecules: float64, shape (n,), in the target's unit."""

    def save(self, folder: Path) -> None:
        """Write the fitted baseline into an existing folder.

        Raises:
            ConfigError: it can only be pickled, which moltune never does.
        """
        raise ConfigError(f"{self.name} cannot be stored without pickle; choose from {', '.join(STORABLE)}")

    def restore(self, folder: Path) -> None:
        """Read what :meth:`save` wrote; see :func:`load_baseline`."""
        raise NotImplementedError


class MeanBaseline(Baseline):
    """Predicts the mean of the training part for every molecule."""

    name, columns = "mean", ""
    _file = "numbers.json"

    def fit(self, train: Part, validation: Part | None = None, seed: int = 0) -> Self:
        """Take the mean of the measurements."""
        self.mean_ = float(np.mean(train[1]))
        return self

    def predict(self, smiles: Sequence[str]) -> np.ndarray:
        """Return the training mean n times."""
        return np.full(len(smiles), self.mean_)

    def save(self, folder: Path) -> None:
        """One number."""
        (folder / self._file).write_text(json.dumps({"mean": self.mean_}) + "\n", encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Read it."""
        self.mean_ = float(json.loads((folder / self._file).read_text(encoding="utf-8"))["mean"])


class RidgeBaseline(Baseline):
    """Ridge regression; its penalty comes from generalised cross-validation on the training part.

    Features are imputed by their median, brought to sign(x) log(1 + |x|) (some descriptors span thirty orders of
    magnitude), standardised, and clipped at five standard deviations so that one odd molecule cannot be thrown far
    outside the range of the target.

    Two classes are regressed as 0 and 1 (least-squares classification). Platt's scaling on a validation part of 20 or
    more molecules with both classes makes probabilities of that; without one it is cut at 0 and 1.
    """

    name = "ridge"
    penalties = tuple(float(10.0**power) for power in range(0, 6))
    _file = "arrays.safetensors"

    def fit(self, train: Part, validation: Part | None = None, seed: int = 0) -> Self:
        """Fit on the training part; the validation part makes probabilities, and the seed is not used."""
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import Ridge, RidgeCV
        from sklearn.preprocessing import StandardScaler

        features = self._x(train[0]).astype(np.float64)
        imputer = SimpleImputer(strategy="median", keep_empty_features=True).fit(features)
        scaler = StandardScaler().fit(_signed_log(imputer.transform(features)))
        self.arrays_ = {"median": imputer.statistics_, "mean": scaler.mean_, "scale": scaler.scale_}
        # Leaving one molecule out of two or fewer says nothing about the penalty.
        linear = RidgeCV(alphas=self.penalties) if len(train[1]) > 2 else Ridge(alpha=self.penalties[-1])
        linear.fit(self._scaled(features), train[1])
        self.arrays_ |= {"coefficients": linear.coef_, "intercept": np.atleast_1d(linear.intercept_)}
        if self.classes:
            self.arrays_["platt"] = np.empty(0)
            if validation is not None and tells(validation[1]):
                self.arrays_["platt"] = np.array(fit_answer_scale(self._answer(validation[0]), validation[1]))
        return self

    def predict(self, smiles: Sequence[str]) -> np.ndarray:
        """Predict n molecules, shape (n,)."""
        answer = self._answer(smiles)
        scale = self.arrays_.get("platt")
        if scale is None:
            return answer
        return answer_probability(answer, tuple(scale)) if len(scale) else np.clip(answer, 0.0, 1.0)

    def _answer(self, smiles: Sequence[str]) -> np.ndarray:
        scaled = self._scaled(self._x(smiles).astype(np.float64))
        return np.asarray(scaled @ self.arrays_["coefficients"] + self.arrays_["intercept"][0])

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        filled = np.where(np.isnan(features), self.arrays_["median"], features)
        return np.clip((_signed_log(filled) - self.arrays_["mean"]) / self.arrays_["scale"], -5.0, 5.0)

    def save(self, folder: Path) -> None:
        """Medians, means and scales of the features, the linear model, and of classes Platt's scaling."""
        arrays = {name: np.ascontiguousarray(array, dtype=np.float64) for name, array in self.arrays_.items()}
        save_file(arrays, folder / self._file)

    def restore(self, folder: Path) -> None:
        """Read them."""
        stored = load_file(folder / self._file)
        names = ("median", "mean", "scale", "coefficients", "intercept", *({"platt"} & stored.keys()))
        self.arrays_ = {name: stored[name].copy() for name in names}
        if len({self.arrays_[name].shape for name in ("median", "mean", "scale", "coefficients")}) > 1:
            raise ValueError("its arrays do not have one length")


class RandomForestBaseline(Baseline):
    """Random forest of 300 trees (Breiman 2001), a tenth of the features tried at each split."""

    name = "random-forest"
    settings: Mapping[str, Any] = {"n_estimators": 300, "max_features": 0.1}

    def fit(self, train: Part, validation: Part | None = None, seed: int = 0) -> Self:
        """Fit on the training part; the validation part is not used."""
        from sklearn.ensemble import RandomForestRegressor

        self.model_ = RandomForestRegressor(**self.settings, random_state=seed, n_jobs=-1)
        # Trees only look at the order of values; scikit-learn's check for NaN adds columns up, and would overflow.
        self.model_.fit(_signed_log(self._x(train[0])), train[1])
        # Threads add up the trees in the order in which they finish, which changes the last bits.
        self.model_.n_jobs = 1
        return self

    def predict(self, smiles: Sequence[str]) -> np.ndarray:
        """Predict n molecules, shape (n,)."""
        return np.asarray(self.model_.predict(_signed_log(self._x(smiles))), dtype=np.float64)


class XGBoostBaseline(Baseline):
    """Gradient-boosted trees (Chen & Guestrin, KDD 2016); a validation part stops the boosting early.

    The settings were chosen on validation parts of Lipophilicity, for accuracy and speed; the script
    ``benchmarks/xgboost_baseline.py`` measures them beside others. Halving the
    learning rate gains 0.006 of validation RMSE there and doubles the rounds.
    """

    name = "xgboost"
    settings: Mapping[str, Any] = {
        "learning_rate": 0.1,
        "max_depth": 6,
        "subsample": 0.8,
        "colsample_bytree": 0.3,
        "min_child_weight": 3,
        "max_bin": 64,
        "tree_method": "hist",
        "device": "cpu",
    }
    most_rounds = 3000
    patience = 50
    rounds_without_validation = 600
    _file, _light = "trees.ubj", "trees.safetensors"
    trees_: Trees | None = None

    def fit(self, train: Part, validation: Part | None = None, seed: int = 0) -> Self:
        """Boost until the validation loss has not improved for ``patience`` rounds; without one, a fixed number.

        The loss is the squared error, or with classes the cross-entropy.
        """
        from xgboost import XGBRegressor

        watched = [(self._x(validation[0]), validation[1])] if validation and len(validation[0]) else None
        self.model_ = XGBRegressor(
            **self.settings,
            **({"objective": "binary:logistic"} if self.classes else {}),
            n_estimators=self.most_rounds if watched else self.rounds_without_validation,
            early_stopping_rounds=self.patience if watched else None,
            random_state=seed,
            # More threads give the same trees, but on a busy machine they wait for each other and take far longer.
            n_jobs=1,
        )
        self.model_.fit(self._x(train[0]), train[1], eval_set=watched, verbose=False)
        return self

    def predict(self, smiles: Sequence[str]) -> np.ndarray:
        """Predict n molecules with the trees up to the best round, shape (n,)."""
        if self.trees_ is not None:
            return self.trees_.predict(self._x(smiles))
        return np.asarray(self.model_.predict(self._x(smiles)), dtype=np.float64)

    def save(self, folder: Path) -> None:
        """The trees."""
        self.model_.save_model(folder / self._file)

    def save_light(self, folder: Path) -> None:
        """The trees beside them once more, as arrays that are then read in their place: that needs no XGBoost."""
        (self.trees_ or Trees.of(self.model_)).save(folder / self._light)

    def restore(self, folder: Path) -> None:
        """Read them."""
        if (folder / self._light).is_file():
            self.trees_ = Trees.load(folder / self._light)
            return
        from xgboost import XGBRegressor
        from xgboost.core import XGBoostError

        self.model_ = XGBRegressor(n_jobs=1)
        try:
            self.model_.load_model(folder / self._file)
        except XGBoostError as error:
            raise ValueError(str(error)) from None


BASELINES: dict[str, type[Baseline]] = {
    baseline.name: baseline for baseline in (MeanBaseline, RidgeBaseline, RandomForestBaseline, XGBoostBaseline)
}
READS, _BEFORE_0_3 = "features.json", "rdkit+morgan"
STORABLE = (XGBoostBaseline.name, RidgeBaseline.name, MeanBaseline.name)
"""Baselines that can be saved; a random forest can only be pickled."""


def save_baseline(baseline: Baseline, folder: Path) -> None:
    """Write a fitted baseline into a folder, and which features it reads."""
    folder.mkdir(parents=True, exist_ok=True)
    baseline.save(folder)
    (folder / READS).write_text(json.dumps(baseline.columns) + "\n", encoding="utf-8")


def make_baseline(name: str, features: FeatureTable | None = None) -> Baseline:
    """Make the baseline of that name, not fitted; ``features`` is a table shared with others.

    Raises:
        ConfigError: there is no such baseline; the message lists those there are.
    """
    if name not in BASELINES:
        raise ConfigError(f"there is no baseline {name!r}; choose from {', '.join(BASELINES)}")
    return BASELINES[name](features)


def load_baseline(name: str, folder: Path, features: FeatureTable | None = None) -> Baseline:
    """Read what :meth:`Baseline.save` wrote.

    Raises:
        RunFolderError: a file is missing or damaged, or the baseline is not one that is stored.
    """
    if name not in STORABLE:
        raise RunFolderError(f"{folder}: there is no stored kind of baseline {name!r}")
    baseline = make_baseline(name, features)
    try:
        reads = folder / READS
        baseline.columns = str(json.loads(reads.read_text(encoding="utf-8"))) if reads.is_file() else _BEFORE_0_3
        baseline.restore(folder)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunFolderError(
            f"the stored baseline {folder} cannot be read ({one_line(error)}); run again to restore it"
        ) from None
    return baseline


def _signed_log(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.log1p(np.abs(values))
