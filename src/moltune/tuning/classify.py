"""What two classes need of a training: weights of the classes before it, calibrated probabilities after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from moltune.calibration.platt import Scale, fit_scale, probability, score_of, tells
from moltune.errors import ConfigError
from moltune.evaluation.classification import log_loss, reliability
from moltune.models.inference import run_batches
from moltune.models.regression import RegressionModel


@dataclass(frozen=True)
class Calibrated:
    """What made probabilities of the logits of a classifier.

    Attributes:
        scale: a of the logistic function of a·logit + b; 1/a is the temperature.
        shift: b; 0 where only a temperature was fitted.
        molecules: of the validation part, on which both were fitted.
    """

    scale: float
    shift: float
    molecules: int

    def judge(self, true: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
        """Log loss and expected calibration error of other molecules, before and after; JSON-ready."""
        raw = probability(score_of(predicted, (self.scale, self.shift)), (1.0, 0.0))
        pairs = {"before": raw, "after": predicted}
        errors = {
            name: {"log_loss": float(log_loss(true, values)), "calibration_error": reliability(true, values)["error"]}
            for name, values in pairs.items()
        }
        return {**asdict(self), **errors}


def class_weights(target: np.ndarray, wanted: Literal["none", "balanced"]) -> tuple[float, float]:
    """Weight of an error in the negative and in the positive class: 1, or n/(2·size of the class)."""
    if wanted == "none":
        return 1.0, 1.0
    positive = float(np.mean(target))
    return 0.5 / (1 - positive), 0.5 / positive


def check_weights(wanted: str, classes: bool, probe: bool) -> None:
    """Raise ConfigError where nothing would come of weights of classes."""
    if wanted != "none" and (probe or not classes):
        why = "a probe has none" if probe else "the target holds numbers, not classes"
        raise ConfigError(f"training.class_weights={wanted}: {why}; leave it at none")


def calibrate(
    model: RegressionModel,
    tokenizer: PreTrainedTokenizerBase,
    validation: tuple[Sequence[str], np.ndarray] | None,
    *,
    max_length: int | None = None,
) -> Calibrated | None:
    """Scale the logits on the validation part, in place: with a temperature, or where classes had weights by Platt.

    Weights move all probabilities to one side, which a temperature cannot undo.

    Returns:
        None, and the model as it was, where that part has fewer than 20 molecules, or one class alone.
    """
    smiles, labels = ([], np.empty(0)) if validation is None else validation
    if not tells(labels):
        return None

    def logits(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = model.encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True).last_hidden_state
        return model.standardised(hidden, attention_mask)[:, None]

    scores = run_batches(model, tokenizer, smiles, logits, max_length=max_length)[:, 0]
    found: Scale = fit_scale(scores, labels, shift=model.class_weights != (1.0, 1.0))
    model.config.calibration = found
    return Calibrated(*found, molecules=len(labels))
