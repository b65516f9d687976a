"""From molecules to a tuned model, whatever the method."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from moltune.config import MethodSettings, ModelSettings, ProbeSettings, TrainingSettings
from moltune.features.embedding import Encoder
from moltune.features.registry import EMBEDDING, FeatureTable, find_feature
from moltune.models.methods.base import ParameterCount
from moltune.predictors.probe import fit_probe
from moltune.tuning.cost import Meter
from moltune.tuning.loop import HISTORY_COLUMNS, EpochReport
from moltune.tuning.train import Tuned, tune

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
    """Fit a probe, or train; see :func:`tune_probe` and :func:`moltune.tuning.train.tune`."""
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


def tune_probe(
    train: tuple[Sequence[str], np.ndarray],
    settings: ProbeSettings,
    *,
    model: ModelSettings,
    training: TrainingSettings,
    seed: int,
    target_name: str = "target",
) -> Tuned:
    """Featurise and fit; the validation part is not used.

    Raises:
        ConfigError: a feature's package is missing.
        DataError: too few molecules, or too many for a Gaussian process.
    """
    find_feature("+".join(settings.features))
    if training.threads is not None:
        torch.set_num_threads(training.threads)
    with Meter() as meter:
        encoder = Encoder(model, training.eval_batch_size)
        features = FeatureTable({EMBEDDING: encoder}, threads=training.threads or os.cpu_count())
        probe = fit_probe(train, settings, features, seed=seed, target_name=target_name)
    frozen = 0 if probe.encoder is None else sum(p.numel() for p in probe.encoder.network.encoder.parameters())
    fitted = probe.head.fitted
    return Tuned(
        model=probe,
        history=pd.DataFrame(columns=HISTORY_COLUMNS),
        best_epoch=0,
        parameters=ParameterCount(PROBE, 0, fitted, fitted, fitted + frozen),
        seconds=meter.seconds,
        cost=meter.cost(round(len(train[1]) / meter.seconds, 1)),
    )
