"""From molecules, or from a folder, to a tuned model, whatever the method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moltune.config import MethodSettings, ModelSettings, TrainingSettings
from moltune.features.registry import EMBEDDING
from moltune.models.checkpoints import load_regression, load_tokenizer
from moltune.predictors.base import LanguageModel, Tuned, TunedModel
from moltune.predictors.probe import is_probe, load_probe, tune_probe
from moltune.tuning.loop import EpochReport
from moltune.tuning.train import tune

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
) -> Tuned:
    """Fit a probe, or train; see :func:`moltune.predictors.probe.tune_probe` and :func:`moltune.tuning.train.tune`."""
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


def load_tuned(folder: str | Path, base: str | Path | None = None, *, truncate: bool = False) -> TunedModel:
    """Load what a run or :meth:`moltune.predictors.base.TunedModel.save` wrote.

    Args:
        folder: run or model folder.
        base: where the checkpoint is now that an adapter or a probe was made on; unset: where it was.
        truncate: cut SMILES that are longer than a language model reads.

    Raises:
        CheckpointError: there is no tuned model, or a file of it is damaged.
    """
    if is_probe(folder):
        return load_probe(folder, base)
    return LanguageModel(load_regression(folder, base), load_tokenizer(folder), truncate)
