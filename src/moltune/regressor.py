"""The scikit-learn estimator."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from moltune.calibration import LEVEL
from moltune.config import (
    FinetuneConfig,
    MethodSettings,
    ModelSettings,
    SplitSettings,
    TrainingSettings,
    make_settings,
    training_defaults,
)
from moltune.data.load import molecules_from_lists
from moltune.data.molecules import BOUND_COLUMNS, Molecules
from moltune.data.splitting.bounds import REASON, sides_of, training_bounds
from moltune.data.splitting.split import Parts, make_split, parts_of
from moltune.errors import DataError
from moltune.files import check_free
from moltune.predictors.base import MODEL
from moltune.predictors.confidence import FEWEST_HELD_OUT, Confidence
from moltune.predictors.language import LanguageModel
from moltune.predictors.load import load_model
from moltune.predictors.probe import Probe

if TYPE_CHECKING:
    from moltune.tuning.history import EpochReport

logger = logging.getLogger(__name__)


class MolRegressor(RegressorMixin, BaseEstimator):
    """Fine-tune a chemical language model on SMILES, with scikit-learn's contract.

    Works with ``cross_val_score``, ``GridSearchCV``, ``Pipeline`` and ``clone``. ``X`` is a sequence of n SMILES
    (or an array of shape (n, 1)), ``y`` n numbers in any unit. ``score`` is R².

    Args:
        model: bundled name, folder, run folder, or Hugging Face id.
        method: tuning method; see :data:`moltune.models.methods.registry.METHODS`.
        head: ``mean``, ``cls`` or ``molformer``.
        epochs, batch_size, learning_rate, weight_decay, patience: the optimisation; ``None`` takes the default of
            :class:`moltune.config.TrainingSettings`.
        validation_fraction: share of the training molecules watched for early stopping; 0 trains for all epochs.
        seed: of the validation share, the head's first weights, order and dropout.
        settings: further fields of :class:`moltune.config.TrainingSettings`.
        method_settings: further fields of :class:`moltune.config.MethodSettings`, such as
            ``{"peft": {"r": 4}}`` or ``{"probe": {"head": "svr", "features": ["rdkit"]}}``.

    Attributes:
        model_: the tuned :class:`moltune.predictors.base.TunedModel`; a fine-tuned one has ``network`` and
            ``tokenizer``.
        history_: losses per epoch.
        best_epoch_: epoch whose weights the model has.
        n_features_in_: 1, the SMILES.

    Examples:
        >>> from moltune import MolRegressor, datasets                          # doctest: +SKIP
        >>> table = datasets.load("freesolv")                                   # doctest: +SKIP
        >>> model = MolRegressor(epochs=3).fit(table["smiles"], table.iloc[:, -1])  # doctest: +SKIP
    """

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

    def fit(
        self,
        X: Sequence[str],
        y: Sequence[float],
        report: EpochReport | None = None,
        *,
        relation: Sequence[str] | None = None,
    ) -> Self:
        """Tune on n SMILES and n targets.

        Args:
            X, y: molecules and targets.
            report: called after each step and epoch.
            relation: of each measurement to its ``y``: =, >, >=, < or <=, shape (n,). All but = are censored
                measurements: they join the training loss, and nothing else. Unset: all are exact.

        Raises:
            DataError: a SMILES or a target cannot be used; rows are named, none is dropped.
            ConfigError: a parameter is wrong.
        """
        # To predict, nothing of this is needed.
        from moltune.models.coverage import unfit_molecules
        from moltune.tuning.loop import check_settings
        from moltune.tuning.train import PROBE, reads_tokens, tune_model

        training, seed = self._training(), make_settings(FinetuneConfig, {"seed": self.seed}).seed
        check_settings(training)
        molecules = _checked(X, y)
        model = make_settings(ModelSettings, {"name": self.model, "head": self.head})
        method = make_settings(MethodSettings, {**(self.method_settings or {}), "name": self.method})
        unfit = unfit_molecules(molecules.smiles, model) if reads_tokens(method) else {}
        if unfit:
            position, reason = next(iter(unfit.items()))
            raise _unusable(position, molecules.smiles[position], reason)
        if relation is not None:
            molecules = _set_bounds_aside(molecules, list(relation))
        # A probe looks at no validation part, so none is kept from it.
        share = 0.0 if method.name == PROBE else self.validation_fraction
        if not 0 <= share < 1:
            raise DataError(f"validation_fraction is a share from 0 to below 1, not {share}")
        divide = SplitSettings(method="random", ratios=(1 - share, share, 0.0))
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
                report=report,
            )
        self.model_ = tuned.model
        self.history_, self.best_epoch_ = tuned.history, tuned.best_epoch
        self._fitted_on = molecules, parts
        self._confidence: Confidence | None = None
        self.n_features_in_ = 1
        return self

    def predict(self, X: Sequence[str]) -> np.ndarray:
        """Predict n SMILES in the target's unit; float64, shape (n,).

        Raises:
            DataError: a SMILES cannot be read; rows are named. For files with bad rows use
                :class:`moltune.predictors.predictor.Predictor`, which keeps them with a note.
        """
        check_is_fitted(self, "model_")
        smiles = _checked(X).smiles
        for position, issue in self.model_.issues(smiles).items():
            if issue.kind == "unknown":
                logger.warning("molecule %d (%s): %s", position + 1, smiles[position], issue.message)
            else:
                raise _unusable(position, smiles[position], issue.message)
        return self.model_.predict(smiles)

    def predict_interval(self, X: Sequence[str], level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
        """Conformal intervals of n SMILES, in the target's unit.

        They come from the errors on the validation share, or, for a probe, from five folds, which the first call fits.

        Args:
            X: the molecules.
            level: share of measurements that an interval should hold, if molecules are drawn as those of ``fit``.

        Returns:
            Lower and upper ends, float64, shape (n,) each.

        Raises:
            DataError: a SMILES cannot be read, too few molecules were held out in ``fit`` (20 at least), or too few for
                the level.
            ConfigError: the level is not between 0 and 1.
        """
        predicted = self.predict(X)
        if not hasattr(self, "_fitted_on"):
            raise DataError("a loaded model has no intervals here: use moltune.Predictor, which reads those of its run")
        if self._confidence is None:
            self._confidence = self._learn_confidence(*self._fitted_on)
        if self._confidence is None or not self._confidence.calibrations:
            raise DataError("fit kept too few molecules aside for intervals (20 are needed): raise validation_fraction")
        found = self._confidence.describe(_checked(X).smiles, predicted, MODEL, level)
        return found["_low"], found["_high"]

    def _learn_confidence(self, molecules: Molecules, parts: Parts) -> Confidence | None:
        if isinstance(self.model_, Probe) and len(molecules) >= 2 * FEWEST_HELD_OUT:
            from moltune.tuning.cross_validation import cross_validate

            keys = molecules.table["inchikey"].tolist()
            return cross_validate(self.model_, *parts["train"], keys, self.seed).confidence
        held_out = parts.get("validation", ([], np.empty(0)))
        predicted = {MODEL: self.model_.predict(held_out[0])} if len(held_out[1]) else {}
        return Confidence.fit(parts["train"], held_out, predicted)

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
        """
        model = load_model(folder)
        estimator = cls()
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
        return estimator

    def _training(self) -> TrainingSettings:
        names = ("epochs", "batch_size", "learning_rate", "weight_decay", "patience")
        named = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return make_settings(TrainingSettings, {**training_defaults(self.method), **(self.settings or {}), **named})


def _unusable(position: int, smiles: str, reason: str) -> DataError:
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


def _checked(X: Any, y: Any = None) -> Molecules:
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
        raise _unusable(bad["row"] - 1, bad["input"], f"{bad['reason']}{also}")
    return molecules
