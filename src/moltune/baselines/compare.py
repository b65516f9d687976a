"""Fit baselines side by side on the parts of one split, and evaluate each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moltune.baselines.classical import Baseline, Part, make_baseline
from moltune.errors import DataError
from moltune.evaluation.metrics import REGRESSION, Task, check_pair, evaluate
from moltune.features.registry import FeatureTable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BaselineResult:
    """What one baseline did.

    Attributes:
        baseline: as fitted.
        metrics: part -> result of :func:`moltune.evaluation.metrics.evaluate`; empty parts are left out.
        predictions: part -> predictions, shape (n of that part,), in the target's unit.
        seconds: wall-clock time to compute the features it was first to need, fit and predict.
    """

    baseline: Baseline
    metrics: dict[str, dict[str, Any]]
    predictions: dict[str, np.ndarray]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Metrics of each part and ``seconds``, JSON-ready: the baseline's entry in ``metrics.json``."""
        return {**self.metrics, "seconds": self.seconds}


def run_baselines(
    names: Iterable[str],
    parts: Mapping[str, Part],
    *,
    features: FeatureTable | None = None,
    make: Callable[[str, FeatureTable], Baseline] = make_baseline,
    task: Task = REGRESSION,
    seed: int = 0,
    **options: Any,
) -> dict[str, BaselineResult]:
    """Fit each named baseline on the training part and evaluate it on every part that has molecules.

    Args:
        names: of baselines; a repeated one runs once.
        parts: "train", and if there are any "validation" and "test".
        features: features computed earlier; those added here stay in it.
        make: what makes a baseline of a name.
        task: what the targets are.
        seed: of the baselines and of the bootstrap.
        options: bootstrap and confidence, as :func:`moltune.evaluation.metrics.evaluate` takes them.

    Returns:
        One result per name, in the order of ``names``.

    Raises:
        ConfigError: a name is unknown.
        DataError: the training part is missing or empty, or a part has not one measurement per molecule.
        NumericsError: a measurement is not finite.
    """
    table = FeatureTable() if features is None else features
    baselines = [make(name, table) for name in dict.fromkeys(names)]
    parts = _checked(parts)
    for baseline in baselines:
        baseline.classes = task is not REGRESSION
    results = {}
    for baseline in baselines:
        start = time.perf_counter()
        baseline.fit(parts["train"], parts.get("validation"), seed)
        predictions = {part: baseline.predict(smiles) for part, (smiles, _) in parts.items()}
        seconds = time.perf_counter() - start
        logger.info("baseline %s: %.1f s", baseline.name, seconds)
        metrics = {
            part: evaluate(y, predictions[part], task=task, seed=seed, **options) for part, (_, y) in parts.items()
        }
        results[baseline.name] = BaselineResult(baseline, metrics, predictions, seconds)
    return results


def _checked(parts: Mapping[str, Part]) -> dict[str, Part]:
    """Parts that have molecules, targets as float64."""
    kept: dict[str, Part] = {}
    for part, (smiles, y) in parts.items():
        if len(smiles) != len(y):
            raise DataError(f"the {part} part has {len(smiles)} molecules but {len(y)} measurements; they must match")
        if len(smiles):
            kept[part] = (list(smiles), check_pair(y, y, first=f"the target of the {part} part")[0])
    if "train" not in kept:
        raise DataError("baselines need a training part with at least one molecule")
    return kept
