"""The scikit-learn estimator of two classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import ClassifierMixin

from moltune.errors import DataError
from moltune.estimator import MolEstimator

if TYPE_CHECKING:
    from moltune.tuning.history import EpochReport


class MolClassifier(ClassifierMixin, MolEstimator):
    """Fine-tune a chemical language model to tell two classes of molecules apart, with scikit-learn's contract.

    Works with ``cross_val_score``, ``GridSearchCV``, ``Pipeline`` and ``clone``. ``X`` is a sequence of n SMILES
    (or an array of shape (n, 1)), ``y`` n labels with two different values. ``score`` is the accuracy.

    Probabilities are calibrated on the validation share: those of a fine-tuned model by a temperature, or by Platt's
    scaling where classes have weights (``settings={"class_weights": "balanced"}``); those of a probe by Platt's
    scaling.

    Args:
        model: bundled name, folder, run folder, or Hugging Face id.
        method: tuning method; see :data:`moltune.models.methods.registry.METHODS`.
        head: ``mean``, ``cls`` or ``molformer``.
        epochs, batch_size, learning_rate, weight_decay, patience: the optimisation; ``None`` takes the default of
            :class:`moltune.config.TrainingSettings`.
        validation_fraction: share of the training molecules, drawn from each class, that is watched for early stopping
            and calibrates the probabilities; 0 trains for all epochs and leaves probabilities as they are.
        seed: of the validation share, the head's first weights, order and dropout.
        settings: further fields of :class:`moltune.config.TrainingSettings`.
        method_settings: further fields of :class:`moltune.config.MethodSettings`.

    Attributes:
        classes_: the two labels, sorted; the second is the positive class. Of a loaded model they are text.
        model_: the tuned :class:`moltune.predictors.base.TunedModel`.
        history_: losses per epoch.
        best_epoch_: epoch whose weights the model has.
        n_features_in_: 1, the SMILES.

    Examples:
        >>> from moltune import MolClassifier                                    # doctest: +SKIP
        >>> model = MolClassifier(epochs=3).fit(smiles, ["active", "inactive"])  # doctest: +SKIP
        >>> model.predict_proba(smiles)[:, 1]                                    # doctest: +SKIP
    """

    classes_: np.ndarray

    def fit(self, X: Sequence[str], y: Sequence[Any], report: EpochReport | None = None) -> Self:
        """Tune on n SMILES and n labels.

        Raises:
            DataError: a SMILES cannot be used, or there are not two labels.
            ConfigError: a parameter is wrong.
        """
        labels = np.asarray(y).reshape(-1)
        classes, codes = np.unique(labels, return_inverse=True)
        if len(classes) != 2:
            raise DataError(f"y holds {len(classes)} different labels; MolClassifier tells two classes apart")
        self._tune(X, codes.astype(np.float64), report, classes=(str(classes[0]), str(classes[1])))
        self.classes_ = classes
        return self

    def predict_proba(self, X: Sequence[str]) -> np.ndarray:
        """Probabilities of both classes in the order of ``classes_``; float64, shape (n, 2).

        Raises:
            DataError: a SMILES cannot be read; rows are named.
        """
        positive = self._predict(X)
        return np.column_stack([1 - positive, positive])

    def predict(self, X: Sequence[str]) -> np.ndarray:
        """The more probable class of n SMILES, shape (n,).

        Raises:
            DataError: a SMILES cannot be read; rows are named.
        """
        return self.classes_[(self._predict(X) >= 0.5).astype(np.int64)]

    def _loaded(self) -> None:
        if self.model_.class_names is None:
            raise DataError("this model predicts a number: load it with MolRegressor")
        self.classes_ = np.array(self.model_.class_names)
