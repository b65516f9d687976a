"""What a language model has to beat: the training mean, and classical models on descriptors and fingerprints."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import xgboost
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from moltune.errors import ConfigError, DataError
from moltune.evaluation.metrics import check_pair, evaluate
from moltune.features.descriptors import morgan_counts, rdkit_descriptors

logger = logging.getLogger(__name__)

Featurizer = Callable[[Sequence[str]], np.ndarray]
Part = tuple[list[str], np.ndarray]

_WORTH_WORKERS = 500
_COUNTS = 2048


def descriptors_and_counts(smiles: Sequence[str]) -> np.ndarray:
    """RDKit's 2-D descriptors beside Morgan counts (radius 2, 2048 columns), float32, shape (n, 217 + 2048).

    A descriptor that RDKit cannot compute is NaN.
    """
    # Starting worker processes takes longer than a few hundred molecules do.
    n_jobs = -1 if len(smiles) >= _WORTH_WORKERS else None
    descriptors = rdkit_descriptors(smiles, n_jobs=n_jobs).to_numpy(dtype=np.float32)
    return np.hstack([descriptors, np.asarray(morgan_counts(smiles, radius=2, size=_COUNTS), dtype=np.float32)])


class FeatureTable:
    """Features of molecules by SMILES, each computed once however many baselines ask for it.

    Args:
        featurizer: SMILES, n of them -> float32 array (n, d), the same d for any molecules.
    """

    def __init__(self, featurizer: Featurizer = descriptors_and_counts) -> None:
        self._featurizer = featurizer
        self._rows: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, smiles: Sequence[str]) -> np.ndarray:
        """Features in the order of ``smiles``, float32, shape (n, d).

        Raises:
            DataError: there are no molecules, or RDKit cannot read one (names it).
        """
        if not len(smiles):
            raise DataError("there are no molecules to compute features of")
        missing = [text for text in dict.fromkeys(smiles) if text not in self._rows]
        if missing:
            self._rows.update(zip(missing, self._featurizer(missing), strict=True))
        return np.stack([self._rows[text] for text in smiles])


def descriptors_in(table: FeatureTable, smiles: Sequence[str]) -> np.ndarray:
    """RDKit's descriptors alone out of a table of :func:`descriptors_and_counts`, float32, shape (n, 217)."""
    return table.get(smiles)[:, :-_COUNTS]


class Baseline(ABC):
    """A regressor from SMILES that a tuned language model is measured against.

    Args:
        features: table that baselines of one comparison share; unset: a new one.
    """

    name: str
    description: str

    def __init__(self, features: FeatureTable | None = None) -> None:
        self.features = FeatureTable() if features is None else features

    @abstractmethod
    def fit(
        self,
        train_smiles: Sequence[str],
        train_y: np.ndarray,
        validation_smiles: Sequence[str] = (),
        validation_y: np.ndarray | None = None,
        seed: int = 0,
    ) -> Self:
        """Learn from the training part; the validation part may choose a setting but is never trained on.

        Args:
            train_smiles: n molecules, n > 0.
            train_y: their measurements, shape (n,), in target units.
            validation_smiles: m molecules; m may be 0.
            validation_y: their measurements, shape (m,), in target units.
            seed: the same seed gives the same predictions.
        """

    @abstractmethod
    def predict(self, smiles: Sequence[str]) -> np.ndarray:
        """Predict n molecules: float64, shape (n,), in target units. :meth:`fit` comes first."""


class MeanBaseline(Baseline):
    """Predicts the mean of the training part, whatever the molecule."""

    name = "mean"
    description = "predicts the mean of the training part"

    def fit(
        self,
        train_smiles: Sequence[str],
        train_y: np.ndarray,
        validation_smiles: Sequence[str] = (),
        validation_y: np.ndarray | None = None,
        seed: int = 0,
    ) -> Self:
        """Take the mean of ``train_y``."""
        self.mean_ = float(np.mean(train_y))
        return self

    def predict(self, smiles: Sequence[str]) -> np.ndarray:
        """Return the training mean n times, shape (n,)."""
        return np.full(len(smiles), self.mean_)


class RidgeBaseline(Baseline):
    """Ridge regression; its penalty comes from generalised cross-validation on the training part.

    Features are imputed by their median, brought to sign(x) log(1 + |x|) (some descriptors span thirty orders of
    magnitude), standardised, and clipped at five standard deviations so that one odd molecule cannot be thrown far
    outside the range of the target.
    """

    name = "ridge"
    description = "ridge regression on RDKit descriptors and Morgan counts"
    penalties = tuple(float(10.0**power) for power in range(0, 6))

    def fit(
        self,
        train_smiles: Sequence[str],
        train_y: np.ndarray,
        validation_smiles: Sequence[str] = (),
        validation_y: np.ndarray | None = None,
        seed: int = 0,
    ) -> Self:
        """Fit on the training part; the validation part and the seed are not used."""
        self.model_: Any = make_pipeline(
            SimpleImputer(strategy="median", keep_empty_features=True),
            FunctionTransformer(_signed_log),
            StandardScaler(),
            FunctionTransformer(_clip),
            # Leaving one molecule out of two or fewer says nothing about the penalty.
            RidgeCV(alphas=self.penalties) if len(train_y) > 2 else Ridge(alpha=self.penalties[-1]),
        )
        self.model_.fit(self.features.get(train_smiles).astype(np.float64), train_y)
        return self

    def predict(self, smiles: Sequence[str]) -> np.ndarray:
        """Predict n molecules, shape (n,)."""
        return np.asarray(self.model_.predict(self.features.get(smiles).astype(np.float64)), dtype=np.float64)


class RandomForestBaseline(Baseline):
    """Random forest of 300 trees (Breiman 2001), a tenth of the features tried at each split."""

    name = "random-forest"
    description = "random forest on RDKit descriptors and Morgan counts"
    settings: Mapping[str, Any] = {"n_estimators": 300, "max_features": 0.1}

    def fit(
        self,
        train_smiles: Sequence[str],
        train_y: np.ndarray,
        validation_smiles: Sequence[str] = (),
        validation_y: np.ndarray | None = None,
        seed: int = 0,
    ) -> Self:
        """Fit on the training part; the validation part is not used."""
        self.model_ = RandomForestRegressor(**self.settings, random_state=seed, n_jobs=-1)
        # Trees only look at the order of values; scikit-learn's check for NaN adds columns up, and would overflow.
        self.model_.fit(_signed_log(self.features.get(train_smiles)), train_y)
        # Threads add up the trees in the order in which they finish, which changes the last bits.
        self.model_.n_jobs = 1
        return self

    def predict(self, smiles: Sequence[str]) -> np.ndarray:
        """Predict n molecules, shape (n,)."""
        return np.asarray(self.model_.predict(_signed_log(self.features.get(smiles))), dtype=np.float64)


class XGBoostBaseline(Baseline):
    """Gradient-boosted trees (Chen & Guestrin, KDD 2016); a validation part stops the boosting early.

    The settings were chosen on validation parts of Lipophilicity, for accuracy and speed; the script
    ``benchmarks/xgboost_baseline.py`` measures them beside others. Halving the
    learning rate gains 0.006 of validation RMSE there and doubles the rounds.
    """

    name = "xgboost"
    description = "gradient boosting (XGBoost) on RDKit descriptors and Morgan counts"
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

    def fit(
        self,
        train_smiles: Sequence[str],
        train_y: np.ndarray,
        validation_smiles: Sequence[str] = (),
        validation_y: np.ndarray | None = None,
        seed: int = 0,
    ) -> Self:
        """Boost until the validation RMSE has not improved for ``patience`` rounds; without one, a fixed number."""
        features = self.features.get(train_smiles)
        stopping = len(validation_smiles) > 0
        self.model_ = xgboost.XGBRegressor(
            **self.settings,
            n_estimators=self.most_rounds if stopping else self.rounds_without_validation,
            early_stopping_rounds=self.patience if stopping else None,
            random_state=seed,
            # More threads give the same trees, but on a busy machine they wait for each other and take far longer.
            n_jobs=1,
        )
        watched = [(self.features.get(validation_smiles), validation_y)] if stopping else None
        self.model_.fit(features, train_y, eval_set=watched, verbose=False)
        return self

    def predict(self, smiles: Sequence[str]) -> np.ndarray:
        """Predict n molecules with the trees up to the best round, shape (n,)."""
        return np.asarray(self.model_.predict(self.features.get(smiles)), dtype=np.float64)


BASELINES: dict[str, type[Baseline]] = {
    baseline.name: baseline for baseline in (MeanBaseline, RidgeBaseline, RandomForestBaseline, XGBoostBaseline)
}


def make_baseline(name: str, features: FeatureTable | None = None) -> Baseline:
    """Make the baseline of that name; ``features`` is a table shared with others.

    Raises:
        ConfigError: there is no such baseline; the message lists those there are.
    """
    if name not in BASELINES:
        raise ConfigError(f"there is no baseline {name!r}; choose from {', '.join(BASELINES)}")
    return BASELINES[name](features)


@dataclass(frozen=True)
class BaselineResult:
    """What one baseline did.

    Attributes:
        name: key in ``BASELINES``.
        metrics: part -> result of :func:`moltune.evaluation.metrics.evaluate`; empty parts are left out.
        predictions: part -> predictions, shape (n of that part,), in target units.
        seconds: wall-clock time to compute the features it was first to need, fit and predict.
        baseline: as fitted.
    """

    name: str
    metrics: dict[str, dict[str, Any]]
    predictions: dict[str, np.ndarray]
    seconds: float
    baseline: Baseline

    def to_dict(self) -> dict[str, Any]:
        """Metrics of each part and ``seconds``, JSON-ready: the baseline's entry in ``metrics.json``."""
        return {**self.metrics, "seconds": self.seconds}


def run_baselines(
    names: Iterable[str],
    parts: Mapping[str, Part],
    *,
    seed: int = 0,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    features: FeatureTable | None = None,
    make: Callable[[str, FeatureTable], Baseline] = make_baseline,
) -> dict[str, BaselineResult]:
    """Fit each named baseline on the training part and evaluate it on every part that has molecules.

    Args:
        names: keys of ``BASELINES``; a repeated one runs once.
        parts: "train", and if there are any "validation" and "test": SMILES and measurements, shape (n,).
        seed: seed of the baselines and of the bootstrap.
        bootstrap: resamples behind each interval; 0 leaves them out.
        confidence: share of the bootstrap distribution inside an interval.
        features: features computed earlier; those added here stay in it.
        make: what makes a baseline of a name.

    Returns:
        One result per name, in the order of ``names``.

    Raises:
        ConfigError: a name is unknown.
        DataError: the training part is missing or empty, or a part has not one measurement per molecule.
        NumericsError: a measurement is not finite.
    """
    table = FeatureTable() if features is None else features
    baselines = [make(name, table) for name in dict.fromkeys(names)]
    parts = _check_parts(parts)
    train_smiles, train_y = parts["train"]
    validation_smiles, validation_y = parts.get("validation", ([], np.empty(0)))
    results = {}
    for baseline in baselines:
        start = time.perf_counter()
        baseline.fit(train_smiles, train_y, validation_smiles, validation_y, seed)
        predictions = {part: baseline.predict(smiles) for part, (smiles, _) in parts.items()}
        seconds = time.perf_counter() - start
        logger.info("baseline %s: %.1f s", baseline.name, seconds)
        metrics = {
            part: evaluate(y, predictions[part], bootstrap=bootstrap, confidence=confidence, seed=seed)
            for part, (_, y) in parts.items()
        }
        results[baseline.name] = BaselineResult(baseline.name, metrics, predictions, seconds, baseline)
    return results


def _check_parts(parts: Mapping[str, Part]) -> dict[str, Part]:
    """Parts that have molecules, targets as float64."""
    kept = {}
    for part, (smiles, y) in parts.items():
        if len(smiles) != len(y):
            raise DataError(f"the {part} part has {len(smiles)} molecules but {len(y)} measurements; they must match")
        if len(smiles):
            target = check_pair(y, y, first=f"the target of the {part} part")[0]
            kept[part] = (list(smiles), target)
    if "train" not in kept:
        raise DataError("baselines need a training part with at least one molecule")
    return kept


def standardised(values: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """What the ridge baseline does to features without gaps, (n, d), given those of its scaler."""
    return _clip((_signed_log(values) - mean) / scale)


def _signed_log(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.log1p(np.abs(values))


def _clip(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -5.0, 5.0)
