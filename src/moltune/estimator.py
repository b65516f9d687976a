"""What the scikit-learn estimators share: parameters, tuning on lists of SMILES, saving and loading."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from moltune.config import (
    FinetuneConfig,
    MethodSettings,
    ModelSettings,
    SplitSettings,
    TrainingSettings,
    make_settings,
    training_defaults,
)
from moltune.data.classes import CLASSES
from moltune.data.load import molecules_from_lists
from moltune.data.molecules import BOUND_COLUMNS, Molecules
from moltune.data.splitting.bounds import REASON, sides_of, training_bounds
from moltune.data.splitting.split import make_split, parts_of
from moltune.errors import DataError
from moltune.files import check_free
from moltune.predictors.base import TunedModel
from moltune.predictors.confidence import Confidence
from moltune.predictors.language import LanguageModel
from moltune.predictors.load import load_model
from moltune.predictors.probe import Probe

if TYPE_CHECKING:
    from moltune.tuning.history import EpochReport

logger = logging.getLogger(__name__)


class MolEstimator(BaseEstimator):
    """The parameters of :class:`moltune.MolRegressor` and :class:`moltune.MolClassifier`, which say what they mean."""

    model_: TunedModel
    history_: pd.DataFrame
    best_epoch_: int
    n_features_in_: int

    def __init__(
        self,
        model: str = "moltune/mini",
        method: str = "full",
        head: str = "mean",
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        seed: int = 0,
        settings: dict[str, Any] | None = None,
        method_settings: dict[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.method = method
        self.head = head
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.seed = seed
        self.settings = settings
        self.method_settings = method_settings

    def _tune(
        self,
        X: Sequence[str],
        y: Any,
        report: EpochReport | None,
        relation: Sequence[str] | None = None,
        classes: tuple[str, str] | None = None,
    ) -> Self:
        """Tune on n SMILES and n numbers; with ``classes`` these are 0 and 1."""
        # To predict, nothing of this is needed.
        from moltune.models.coverage import unfit_molecules
        from moltune.tuning.loop import check_settings
        from moltune.tuning.train import PROBE, reads_tokens, tune_model

        training, seed = self._training(), make_settings(FinetuneConfig, {"seed": self.seed}).seed
        check_settings(training)
        molecules = checked(X, y)
        model = make_settings(ModelSettings, {"name": self.model, "head": self.head})
        method = make_settings(MethodSettings, {**(self.method_settings or {}), "name": self.method})
        unfit = unfit_molecules(molecules.smiles, model) if reads_tokens(method) else {}
        if unfit:
            position, reason = next(iter(unfit.items()))
            raise unusable(position, molecules.smiles[position], reason)
        if relation is not None:
            molecules = _set_bounds_aside(molecules, list(relation))
        # A probe of numbers looks at no validation part, so none is kept from it.
        share = 0.0 if method.name == PROBE and classes is None else self.validation_fraction
        if not 0 <= share < 1:
            raise DataError(f"validation_fraction is a share from 0 to below 1, not {share}")
        divide = SplitSettings(method="random", ratios=(1 - share, share, 0.0))
        if classes is not None:
            divide = divide.model_copy(update={"method": "stratified"})
            molecules = replace(molecules, provenance={**molecules.provenance, CLASSES: list(classes)})
        split = make_split(molecules, divide, seed)
        bounds = None if relation is None else training_bounds(molecules, split, divide, {})[1]
        parts = parts_of(molecules, split)
        with tempfile.TemporaryDirectory(prefix="moltune-", ignore_cleanup_errors=True) as folder:
            tuned = tune_model(
                parts["train"],
                parts.get("validation"),
                model=model,
                method=method,
                training=training,
                seed=seed,
                folder=Path(folder),
                bounds=bounds,
                classes=classes,
                report=report,
            )
        self.model_ = tuned.model
        self.history_, self.best_epoch_ = tuned.history, tuned.best_epoch
        self._fitted_on = molecules, parts
        self._confidence: Confidence | None = None
        self.n_features_in_ = 1
        return self

    def _predict(self, X: Sequence[str]) -> np.ndarray:
        """What the tuned model says of n SMILES, float64, shape (n,)."""
        check_is_fitted(self, "model_")
        smiles = checked(X).smiles
        for position, issue in self.model_.issues(smiles).items():
            if issue.kind == "unknown":
                logger.warning("molecule %d (%s): %s", position + 1, smiles[position], issue.message)
            else:
                raise unusable(position, smiles[position], issue.message)
        return self.model_.predict(smiles)

    def save(self, folder: str | Path) -> Path:
        """Write the tuned model in ``save_pretrained`` layout.

        Raises:
            RunFolderError: the folder holds something already.
        """
        check_is_fitted(self, "model_")
        check_free(folder)
        self.model_.save(folder)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load a tuned model or a run folder, ready to predict.

        Raises:
            CheckpointError: there is no tuned model.
            DataError: it predicts classes where this is for numbers, or the other way round.
        """
        estimator = cls()
        model = load_model(folder)
        if isinstance(model, LanguageModel):
            config = model.network.config
            estimator.set_params(
                model=config.base_model or str(folder), method=config.method or "full", head=config.head
            )
        elif isinstance(model, Probe):
            estimator.set_params(method="probe", method_settings={"probe": model.settings.model_dump()})
            if model.encoder is not None:
                estimator.set_params(model=model.encoder.settings.name, head=model.encoder.settings.head)
        estimator.model_, estimator.n_features_in_ = model, 1
        estimator._loaded()
        return estimator

    def _loaded(self) -> None:
        """See whether the model that was loaded fits the estimator."""

    def _training(self) -> TrainingSettings:
        names = ("epochs", "batch_size", "learning_rate", "weight_decay", "patience")
        named = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return make_settings(TrainingSettings, {**training_defaults(self.method), **(self.settings or {}), **named})


def unusable(position: int, smiles: str, reason: str) -> DataError:
    """That a molecule cannot be used, and why."""
    return DataError(f"molecule {position + 1} ({smiles!r}): {reason}; leave it out and try again")


def _set_bounds_aside(molecules: Molecules, relation: list[str]) -> Molecules:
    unknown = sorted({repr(one) for one in relation} - {repr(one) for one in ("=", ">", ">=", "<", "<=")})
    if len(relation) != len(molecules) or unknown:
        wrong = f"not {', '.join(unknown[:3])}" if unknown else f"not {len(relation)} for {len(molecules)}"
        raise DataError(f"relation holds one of =, >, >=, < and <= for each molecule, {wrong}")
    bounds = molecules.table.assign(relation=relation, value=molecules.target)
    bounded = np.flatnonzero(sides_of(relation))
    exact = molecules.reject(dict.fromkeys(bounded.tolist(), REASON))
    return replace(exact, bounds=bounds.iloc[bounded][BOUND_COLUMNS].reset_index(drop=True))


def checked(X: Any, y: Any = None) -> Molecules:
    """Molecules of a list or column of SMILES, all of them usable.

    Raises:
        DataError: one is not; it is named.
    """
    smiles = np.asarray(X, dtype=object)
    if smiles.ndim == 2 and smiles.shape[1] == 1:
        smiles = smiles[:, 0]
    if smiles.ndim != 1:
        raise DataError(f"X is a sequence of SMILES, not an array of shape {smiles.shape}")
    target = None if y is None else np.asarray(y, dtype=object).reshape(-1).tolist()
    molecules = molecules_from_lists(smiles.tolist(), target)
    if len(molecules.rejected):
        bad, more = molecules.rejected.iloc[0], len(molecules.rejected) - 1
        also = f" ({more} more cannot be used either)" if more else ""
        raise unusable(bad["row"] - 1, bad["input"], f"{bad['reason']}{also}")
    return molecules
