"""One tuned model from training and validation molecules: the step that ``finetune`` and ``MolRegressor`` share."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import set_seed

from moltune.config import MethodSettings, ModelSettings, TrainingSettings
from moltune.data.splitting.bounds import Bounds
from moltune.errors import ConfigError, DataError
from moltune.features.embedding import Encoder
from moltune.features.registry import EMBEDDING, FeatureTable
from moltune.models.batches import SmilesDataset
from moltune.models.checkpoints import load_tokenizer, make_regression, max_length
from moltune.models.methods.base import ParameterCount
from moltune.models.methods.registry import make_method
from moltune.models.molformer import MolformerConfig
from moltune.predictors.base import TunedModel
from moltune.predictors.ensemble import Ensemble
from moltune.predictors.language import LanguageModel
from moltune.predictors.probe import Probe
from moltune.tuning.classify import Calibrated, calibrate, check_weights, class_weights
from moltune.tuning.cost import Cost, Meter
from moltune.tuning.head import Part, Refit, measure_noise, refit_head, start_head
from moltune.tuning.history import HISTORY_COLUMNS, EpochReport

logger = logging.getLogger(__name__)

PROBE = "probe"
# The members of run 0 are then none of those of run 1.
_SEEDS_APART = 10_000


@dataclass(frozen=True)
class Tuned:
    """A tuned model in memory, and how it came about.

    Attributes:
        model: ready to predict.
        history: losses per epoch; empty where nothing is trained by epochs.
        best_epoch: epoch whose weights the model has; 0 without epochs.
        parameters: what was trained.
        cost: time, memory and throughput.
        refit: what became of the head after training; None: it was left as trained.
        calibrated: how logits became probabilities; None: they are as trained, or there are none.
    """

    model: TunedModel
    history: pd.DataFrame
    best_epoch: int
    parameters: ParameterCount
    cost: Cost
    refit: Refit | None = None
    calibrated: Calibrated | None = None


def reads_tokens(method: MethodSettings) -> bool:
    """Whether the language model reads the molecules; a probe on other features leaves it aside."""
    return method.name != PROBE or EMBEDDING in method.probe.features


def check_bounds(method: MethodSettings, used: bool) -> None:
    """Raise ConfigError where a method cannot learn from bounds."""
    if used and method.name == PROBE:
        raise ConfigError(
            "data.bounds=use: a probe is fitted to exact measurements only; choose a --method that fine-tunes, such as "
            "full, or leave the bounds out with --bounds reject"
        )


def tune_model(
    train: Part,
    validation: Part | None,
    *,
    model: ModelSettings,
    method: MethodSettings,
    training: TrainingSettings,
    seed: int,
    folder: Path,
    resume: bool = False,
    target_name: str = "target",
    bounds: Bounds | None = None,
    classes: tuple[str, str] | None = None,
    report: EpochReport | None = None,
    log_folder: Path | None = None,
) -> Tuned:
    """Put a head on an encoder, switch a method on, and train; or fit a probe, which needs the training part alone.

    Args:
        train: SMILES and targets in their own unit.
        validation: the same, for early stopping; ``None`` or empty: train for all epochs.
        model, method, training: encoder and head, which parameters, and the optimisation.
        seed: of the head's first weights, order, dropout and redrawn features.
        folder: for the checkpoints by which a killed training resumes.
        resume: go on from them.
        target_name: stored with the model.
        bounds: censored measurements that join the loss; statistics of the target and the start of the head look at
            ``train`` alone.
        classes: names of the negative and the positive class, where targets are 0 and 1; unset: they are numbers.
        report: called after each step and epoch.
        log_folder: for trackers.

    Raises:
        ConfigError: a setting is wrong, or a feature's package is missing.
        DataError: fewer than two training molecules, a constant target, or too many for a Gaussian process.
        NumericsError: a loss is not finite.
    """
    smiles, target = train[0], np.asarray(train[1], dtype=np.float64)
    if len(target) < 2 or not target.std() > 0:
        raise DataError("training needs at least two molecules with different targets")
    check_bounds(method, bounds is not None)
    check_weights(training.class_weights, classes is not None, method.name == PROBE)
    if method.name == PROBE:
        return _tune_probe(train, validation, model, method, training, seed, target_name, classes)
    if training.ensemble > 1:
        shared: dict[str, Any] = {
            **{"model": model, "method": method, "training": training.model_copy(update={"ensemble": 1})},
            **{"resume": resume, "target_name": target_name, "bounds": bounds, "report": report},
            "classes": classes,
        }
        return _tune_ensemble(train, validation, training.ensemble, seed, folder, log_folder, shared)
    # transformers' Trainer takes seconds to import, and whoever only loads models does without.
    from moltune.tuning.loop import fit, planned_epochs

    with Meter() as meter:
        set_seed(seed)
        tokenizer = load_tokenizer(model.name, model.revision)
        network = make_regression(
            model.name,
            head=model.head,
            head_dropout=model.head_dropout,
            revision=model.revision,
            weights=model.weights,
            target_mean=float(target.mean()) if classes is None else 0.0,
            target_std=float(target.std()) if classes is None else 1.0,
            target_name=target_name,
            classes=None if classes is None else list(classes),
        )
        if classes is not None:
            network.class_weights = class_weights(target, training.class_weights)
        if model.redraw is not None and isinstance(network.encoder.config, MolformerConfig):
            network.encoder.config.redraw_features = model.redraw
            network.config.encoder.redraw_features = model.redraw
        truncate = model.too_long == "truncate"
        cut = max_length(network.encoder, tokenizer) if truncate else None
        if model.head_start == "ridge":
            start_head(network, tokenizer, smiles, target, max_length=cut)
        learned = SmilesDataset(tokenizer, smiles, target, cut)
        noise, weights = network.noise, network.class_weights
        if bounds is not None and len(bounds):
            noise = measure_noise(network, tokenizer, smiles, target, max_length=cut)
            values, side = np.concatenate([target, bounds.value]), np.concatenate([0 * target, bounds.side])
            learned = SmilesDataset(tokenizer, [*smiles, *bounds.smiles], values, cut, side)
            # Bounds are not to shorten what is learned of the exact measurements.
            training = training.model_copy(update={"epochs": planned_epochs(training, len(target))})
        way = make_method(method)
        network = way.switch_on(network)
        network.noise, network.class_weights = noise, weights
        fitted = fit(
            network,
            learned,
            SmilesDataset(tokenizer, *validation, cut) if validation is not None else None,
            training,
            pad_token_id=int(tokenizer.pad_token_id),
            folder=folder,
            seed=seed,
            resume=resume,
            report=report,
            log_folder=log_folder,
        )
        refit = calibrated = None
        if classes is not None:
            calibrated = calibrate(network, tokenizer, validation, max_length=cut)
        elif training.refit_head == "svr":
            refit = refit_head(network, tokenizer, train, validation, bounds=bounds, max_length=cut)
    return Tuned(
        model=LanguageModel(network, tokenizer, truncate),
        history=fitted.history,
        best_epoch=fitted.best_epoch,
        parameters=way.count(network),
        cost=meter.cost(fitted.molecules_per_second, fitted.precision),
        refit=refit,
        calibrated=calibrated,
    )


def _tune_ensemble(
    train: Part,
    validation: Part | None,
    size: int,
    seed: int,
    folder: Path,
    log_folder: Path | None,
    shared: dict[str, Any],
) -> Tuned:
    """Train the members one after another; one that is finished is not trained again when a killed run goes on."""
    members: list[Tuned] = []
    for at in range(size):
        logger.info("member %d of %d", at + 1, size)
        members.append(
            tune_model(
                train,
                validation,
                seed=seed + _SEEDS_APART * at,
                folder=folder / f"member-{at}",
                log_folder=None if log_folder is None else log_folder / f"member-{at}",
                **shared,
            )
        )
    first = members[0]
    costs = [one.cost for one in members]
    cost = replace(
        first.cost,
        seconds=round(sum(one.seconds for one in costs), 3),
        peak_memory_bytes=max(one.peak_memory_bytes for one in costs),
    )
    return replace(first, model=Ensemble([one.model for one in members]), cost=cost, calibrated=None)


def _tune_probe(
    train: Part,
    validation: Part | None,
    model: ModelSettings,
    method: MethodSettings,
    training: TrainingSettings,
    seed: int,
    target_name: str,
    classes: tuple[str, str] | None,
) -> Tuned:
    if training.threads is not None:
        torch.set_num_threads(training.threads)
    with Meter() as meter:
        encoder = Encoder(model, training.eval_batch_size)
        features = FeatureTable({EMBEDDING: encoder}, threads=training.threads)
        probe = Probe(method.probe, features, target_name, classes).fit(train, validation, seed=seed)
    frozen = encoder.network.encoder.num_parameters() if probe.encoder else 0
    return Tuned(
        model=probe,
        history=pd.DataFrame(columns=HISTORY_COLUMNS),
        best_epoch=0,
        parameters=ParameterCount(PROBE, 0, probe.head.fitted, probe.head.fitted, probe.head.fitted + frozen),
        cost=meter.cost(round(len(train[1]) / meter.seconds, 1)),
    )
