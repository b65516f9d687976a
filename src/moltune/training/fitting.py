"""From molecules to a tuned model, whatever the method: by the optimiser, or in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moltune.config import MethodSettings, ModelSettings, TrainingSettings
from moltune.training.features import EMBEDDING
from moltune.training.loop import EpochReport
from moltune.training.probe import TunedProbe, tune_probe
from moltune.training.tuner import Tuned, tune

PROBE = "probe"


def reads_tokens(method: MethodSettings) -> bool:
    """Whether the language model reads the molecules; a probe on other features leaves it aside."""
    return method.name != PROBE or EMBEDDING in method.probe.features


def tune_model(
    train: tuple[Sequence[str], np.ndarray],
    validation: tuple[Sequence[str], np.ndarray] | None,
    *,
    model: ModelSettings,
    method: MethodSettings,
    training: TrainingSettings,
    seed: int,
    folder: Path,
    resume: bool = False,
    target_name: str = "target",
    report: EpochReport | None = None,
    log_folder: Path | None = None,
) -> Tuned | TunedProbe:
    """Fit a probe, or train; see :func:`moltune.training.probe.tune_probe` and :func:`moltune.training.tuner.tune`."""
    if method.name == PROBE:
        return tune_probe(train, method.probe, model=model, training=training, seed=seed, target_name=target_name)
    return tune(
        train,
        validation,
        model=model,
        method=method,
        training=training,
        seed=seed,
        folder=folder,
        resume=resume,
        target_name=target_name,
        report=report,
        log_folder=log_folder,
    )
