"""Average a tuned language model with classical baselines, and keep all of it in files that hold only numbers.

Weights minimise the squared error of the average on the validation part, w ≥ 0 and Σw = 1, as if it held thirty further
molecules on which the errors of the members are independent. The folder of a blend::

    blend.json        members, weights, versions
    <baseline>/       what :mod:`moltune.baselines.classical` writes: JSON, arrays, XGBoost's own format; never pickle
    probe-<place>/    what :mod:`moltune.predictors.probe` writes; a probe's name has characters that no folder should
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moltune.baselines.classical import Baseline, save_baseline
from moltune.baselines.compare import BaselineResult
from moltune.data.splitting.split import Parts
from moltune.errors import DataError, NumericsError, RunFolderError
from moltune.evaluation.metrics import compare_paired, evaluate
from moltune.features.registry import FeatureTable
from moltune.files import write_json
from moltune.predictors.base import MODEL
from moltune.predictors.members import load_member
from moltune.reports.summary import is_probe_name

logger = logging.getLogger(__name__)

FILE = "blend.json"
_INDEPENDENT = 30


def blend_weights(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Weights of the best average of several predictions.

    Minimises ‖y - Pw‖² over w ≥ 0, Σw = 1, with thirty molecules added on which the errors of the members have the same
    size and are independent: few validation molecules say little about which member is better, and the weights then
    stay near those of independent errors, 1/size² (on the bundled sets this lowered the error of blends by 0.3 % to
    0.5 %, cross-validated in the validation parts). With E = y1ᵀ - P (the errors of each member, and below them the
    diagonal matrix of √30 times their root mean squares) that is ‖Ew‖² on the simplex.
    For w = s·v, v on the simplex, the minimum of ‖Ew‖² + (1ᵀw - 1)² over s is q/(1 + q) with q = ‖Ev‖², which grows
    with q: so non-negative least squares (Lawson and Hanson 1974) on E with a row of ones below it and the target
    (0, ..., 0, 1) gives the answer exactly, up to the scale s.

    Args:
        true: measured values, shape (n,), n > 0.
        predicted: shape (n, members).

    Returns:
        Weights, shape (members,), non-negative, sum one.

    Raises:
        DataError: there are no molecules.
        NumericsError: a value is not finite.
    """
    from scipy.optimize import nnls

    true, predicted = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if not len(true):
        raise DataError("a blend chooses its weights on the validation part, and there is none")
    errors = predicted - true[:, None]
    if not np.isfinite(errors).all():
        raise NumericsError("a prediction of the validation part is not finite, so no blend can be made")
    members = errors.shape[1]
    size = float(np.sqrt((errors**2).sum() / members))
    if size == 0:
        return np.full(members, 1 / members)
    errors = np.vstack([errors, np.diag(np.sqrt(_INDEPENDENT * np.mean(errors**2, axis=0)))])
    # Divided by their size, the errors weigh about as much as the row of ones, whatever the unit.
    found, _ = nnls(np.vstack([errors / size, np.ones(members)]), np.append(np.zeros(len(errors)), 1.0))
    return found / found.sum()


@dataclass(frozen=True)
class Blend:
    """A weighted average of a tuned model and fitted baselines.

    Attributes:
        weights: of each member; the model's name is ``"model"``.
        baselines: the fitted members beside the model.
    """

    weights: dict[str, float]
    baselines: dict[str, Baseline]

    def combine(self, predicted: Mapping[str, np.ndarray]) -> np.ndarray:
        """Average predictions of the members, shape (n,) each; those of weight zero may be missing."""
        return np.sum([weight * predicted[name] for name, weight in self.weights.items() if weight], axis=0)

    def predict(self, smiles: Sequence[str], model: np.ndarray) -> np.ndarray:
        """Predict molecules of which the model's predictions are known, in the target's unit; shape (n,)."""
        if not len(smiles):
            return np.empty(0)
        # A member of weight zero would cost its features and change nothing.
        own = {name: member.predict(smiles) for name, member in self.baselines.items() if self.weights[name]}
        return self.combine({MODEL: model, **own})

    def save(self, folder: Path) -> None:
        """Write the members and their weights; no file holds anything that runs."""
        for place, member in zip(_folders(folder, list(self.baselines)), self.baselines.values(), strict=True):
            save_baseline(member, place)
        write_json(folder / FILE, {"weights": self.weights, "baselines": list(self.baselines)})

    @classmethod
    def load(cls, folder: Path, base: str | Path | None = None) -> Blend:
        """Read what :meth:`save` wrote.

        Args:
            folder: of the blend.
            base: where the checkpoint is now that a probe embeds with; unset: where it was.

        Raises:
            RunFolderError: a file is missing or damaged.
            CheckpointError: a probe's checkpoint is missing or another one.
        """
        try:
            values = json.loads((folder / FILE).read_text(encoding="utf-8"))
            weights = {str(name): float(weight) for name, weight in values["weights"].items()}
            names = [str(name) for name in values["baselines"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise RunFolderError(f"{folder} holds no readable blend: {FILE} is missing or damaged") from None
        table, places = FeatureTable(), zip(names, _folders(folder, names), strict=True)
        return cls(weights, {name: load_member(name, place, table, base) for name, place in places})


def _folders(folder: Path, names: Sequence[str]) -> list[Path]:
    """Baselines lie under their name, probes under their place in the list: not every disk takes a colon."""
    return [folder / (f"probe-{at}" if is_probe_name(name) else name) for at, name in enumerate(names)]


def make_blend(
    names: Sequence[str],
    results: Mapping[str, BaselineResult],
    model: Mapping[str, np.ndarray],
    parts: Parts,
    **options: Any,
) -> tuple[Blend, dict[str, np.ndarray], dict[str, Any]]:
    """Choose the weights of a blend on the validation part, and evaluate it.

    Args:
        names: baselines that take part beside the model.
        results: of fitted baselines, by name; the members are among them.
        model: part -> predictions of the model; the validation part is among them.
        parts: SMILES and measurements of each part.
        options: bootstrap, confidence and seed, as :func:`moltune.evaluation.metrics.evaluate` takes them.

    Returns:
        The blend, its predictions of each part in ``model``, and its entry of ``metrics.json``: weights, metrics of
        each part, and on the test part the blend's RMSE minus each member's and other baseline's (below zero the blend
        is better).
    """
    members = {MODEL: model, **{name: results[name].predictions for name in names}}
    true = parts["validation"][1]
    found = blend_weights(true, np.column_stack([predicted["validation"] for predicted in members.values()]))
    weights = dict(zip(members, found.tolist(), strict=True))
    shown = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
    logger.info("blend, weights from %d validation molecules: %s", len(true), shown)
    blend = Blend(weights, {name: results[name].baseline for name in names})
    blended = {part: blend.combine({name: members[name][part] for name in members}) for part in model}
    metrics: dict[str, Any] = {"weights": weights}
    metrics |= {part: evaluate(parts[part][1], blended[part], **options) for part in blended}
    if "test" in blended:
        others = {MODEL: model, **{name: result.predictions for name, result in results.items()}}
        metrics["comparison"] = {
            name: compare_paired(parts["test"][1], blended["test"], predicted["test"], **options)
            for name, predicted in others.items()
        }
    return blend, blended, metrics
