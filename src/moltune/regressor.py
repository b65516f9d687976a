"""The scikit-learn estimator of a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from sklearn.base import RegressorMixin

from moltune.calibration import LEVEL
from moltune.data.molecules import Molecules
from moltune.data.splitting.split import Parts
from moltune.errors import DataError
from moltune.estimator import MolEstimator, checked
from moltune.predictors.base import MODEL
from moltune.predictors.confidence import FEWEST_HELD_OUT, Confidence
from moltune.predictors.probe import Probe

if TYPE_CHECKING:
    from moltune.tuning.history import EpochReport


class MolRegressor(RegressorMixin, MolEstimator):
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
        return self._tune(X, y, report, relation)

    def predict(self, X: Sequence[str]) -> np.ndarray:
        """Predict n SMILES in the target's unit; float64, shape (n,).

        Raises:
            DataError: a SMILES cannot be read; rows are named. For files with bad rows use
                :class:`moltune.predictors.predictor.Predictor`, which keeps them with a note.
        """
        return self._predict(X)

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
        found = self._confidence.describe(checked(X).smiles, predicted, MODEL, level)
        return found["_low"], found["_high"]

    def _learn_confidence(self, molecules: Molecules, parts: Parts) -> Confidence | None:
        if isinstance(self.model_, Probe) and len(molecules) >= 2 * FEWEST_HELD_OUT:
            from moltune.tuning.cross_validation import cross_validate

            keys = molecules.table["inchikey"].tolist()
            return cross_validate(self.model_, *parts["train"], keys, self.seed).confidence
        held_out = parts.get("validation", ([], np.empty(0)))
        predicted = {MODEL: self.model_.predict(held_out[0])} if len(held_out[1]) else {}
        return Confidence.fit(parts["train"], held_out, predicted)

    def _loaded(self) -> None:
        if self.model_.class_names is not None:
            raise DataError("this model predicts classes: load it with MolClassifier")
