"""Tuned models from training and validation molecules: the step that ``finetune`` and ``MolRegressor`` share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
from moltune.models.joint import JointModel, equal_weights
from moltune.models.methods.adapters import share_adapter
from moltune.models.methods.base import ParameterCount
from moltune.models.methods.registry import make_method
from moltune.models.molformer import MolformerConfig
from moltune.models.regression import RegressionModel
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
class Task:
    """One property to learn.

    Attributes:
        train: SMILES and targets in their own unit.
        validation: the same, for early stopping; ``None`` or empty: train for all epochs.
        target_name: stored with the model.
        bounds: censored measurements that join the loss; statistics of the target and the start of the head look at
            ``train`` alone.
        classes: names of the negative and the positive class, where targets are 0 and 1; unset: they are numbers.
    """

    train: Part
    validation: Part | None
    target_name: str = "target"
    bounds: Bounds | None = None
    classes: tuple[str, str] | None = None


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
    target_name: str = "target",
    bounds: Bounds | None = None,
    classes: tuple[str, str] | None = None,
    **settings: Any,
) -> Tuned:
    """Tune a model on one property; arguments as of :class:`Task` and :func:`tune_models`."""
    train = (train[0], np.asarray(train[1], dtype=np.float64))
    return tune_models([Task(train, validation, target_name, bounds, classes)], **settings)[0]


def tune_models(
    tasks: Sequence[Task],
    *,
    model: ModelSettings,
    method: MethodSettings,
    training: TrainingSettings,
    seed: int,
    folder: Path,
    resume: bool = False,
    report: EpochReport | None = None,
    log_folder: Path | None = None,
) -> list[Tuned]:
    """Put a head on an encoder, switch a method on, and train; or fit a probe, which needs the training part alone.

    Several properties are learned by one encoder with a head for each, see :class:`moltune.models.joint.JointModel`;
    a probe trains no encoder, so that each property has its own.

    Args:
        tasks: the properties; those of several have no bounds.
        model, method, training: encoder and head, which parameters, and the optimisation.
        seed: of the head's first weights, order, dropout and redrawn features.
        folder: for the checkpoints by which a killed training resumes.
        resume: go on from them.
        report: called after each step and epoch.
        log_folder: for trackers.

    Returns:
        A model of each property; time and memory are those of all together.

    Raises:
        ConfigError: a setting is wrong, or a feature's package is missing.
        DataError: fewer than two training molecules, a constant target, or too many for a Gaussian process.
        NumericsError: a loss is not finite.
    """
    for task in tasks:
        if len(task.train[1]) < 2 or not np.std(task.train[1]) > 0:
            of = f" of {task.target_name!r}" if len(tasks) > 1 else ""
            raise DataError(f"training needs at least two molecules with different targets{of}")
        check_bounds(method, task.bounds is not None)
    check_weights(training.class_weights, any(task.classes for task in tasks), method.name == PROBE)
    if method.name == PROBE:
        return [_tune_probe(task, model, method, training, seed) for task in tasks]
    if training.ensemble > 1:
        shared: dict[str, Any] = {
            **{"model": model, "method": method, "training": training.model_copy(update={"ensemble": 1})},
            **{"resume": resume, "report": report},
        }
        return _tune_ensemble(tasks, training.ensemble, seed, folder, log_folder, shared)
    # transformers' Trainer takes seconds to import, and whoever only loads models does without.
    from moltune.tuning.loop import fit, planned_epochs

    with Meter() as meter:
        set_seed(seed)
        tokenizer = load_tokenizer(model.name, model.revision)
        networks = _networks(tasks, model)
        truncate = model.too_long == "truncate"
        cut = max_length(networks[0].encoder, tokenizer) if truncate else None
        for task, network in zip(tasks, networks, strict=True):
            if task.classes is not None:
                network.class_weights = class_weights(task.train[1], training.class_weights)
            if model.head_start == "ridge":
                start_head(network, tokenizer, *task.train, max_length=cut)
            if task.bounds is not None and len(task.bounds):
                network.noise = measure_noise(network, tokenizer, *task.train, max_length=cut)
        # Neither bounds nor molecules of other properties are to shorten what is learned of exact measurements.
        usual = round(np.mean([len(task.train[1]) for task in tasks]))
        training = training.model_copy(update={"epochs": planned_epochs(training, usual)})
        way = make_method(method)
        way.switch_on(networks[0])
        for other in networks[1:]:
            share_adapter(networks[0], other)
        smiles, labels, side = _labelled(tasks)
        fitted = fit(
            networks[0] if len(tasks) == 1 else JointModel(networks, equal_weights(labels)),
            SmilesDataset(tokenizer, smiles, labels, cut, side),
            SmilesDataset(tokenizer, *side_by_side([task.validation or ([], np.empty(0)) for task in tasks]), cut),
            training,
            pad_token_id=int(tokenizer.pad_token_id),
            folder=folder,
            seed=seed,
            resume=resume,
            report=report,
            log_folder=log_folder,
        )
        refits: list[Refit | None] = [None] * len(tasks)
        calibrations: list[Calibrated | None] = [None] * len(tasks)
        for at, (task, network) in enumerate(zip(tasks, networks, strict=True)):
            network.eval()
            if task.classes is not None:
                calibrations[at] = calibrate(network, tokenizer, task.validation, max_length=cut)
            elif training.refit_head == "svr":
                own = (task.train, task.validation)
                refits[at] = refit_head(network, tokenizer, *own, bounds=task.bounds, max_length=cut)
    return [
        Tuned(
            model=LanguageModel(network, tokenizer, truncate),
            history=fitted.history,
            best_epoch=fitted.best_epoch,
            parameters=way.count(network),
            cost=meter.cost(fitted.molecules_per_second, fitted.precision),
            refit=refit,
            calibrated=calibrated,
        )
        for network, refit, calibrated in zip(networks, refits, calibrations, strict=True)
    ]


def _networks(tasks: Sequence[Task], model: ModelSettings) -> list[RegressionModel]:
    """A model of each property with a fresh head, all on one encoder."""
    networks: list[RegressionModel] = []
    for task in tasks:
        target = task.train[1]
        network = make_regression(
            model.name,
            head=model.head,
            head_dropout=model.head_dropout,
            revision=model.revision,
            weights=model.weights,
            encoder=networks[0].encoder if networks else None,
            target_mean=float(target.mean()) if task.classes is None else 0.0,
            target_std=float(target.std()) if task.classes is None else 1.0,
            target_name=task.target_name,
            classes=None if task.classes is None else list(task.classes),
        )
        if model.redraw is not None and isinstance(network.encoder.config, MolformerConfig):
            network.encoder.config.redraw_features = model.redraw
            network.config.encoder.redraw_features = model.redraw
        networks.append(network)
    return networks


def _labelled(tasks: Sequence[Task]) -> tuple[Sequence[str], np.ndarray, np.ndarray | None]:
    """What is learned: SMILES, labels, and which of them are bounds to which side, where any are."""
    smiles, labels = side_by_side([task.train for task in tasks])
    bounds = tasks[0].bounds
    if bounds is None or not len(bounds):
        return smiles, labels, None
    side = np.concatenate([0 * labels, bounds.side])
    return [*smiles, *bounds.smiles], np.concatenate([labels, bounds.value]), side


def side_by_side(parts: Sequence[Part]) -> Part:
    """Targets of several properties, (n, properties) with NaN for gaps, of all SMILES in order; of one: as they are."""
    if len(parts) == 1:
        return parts[0]
    rows = {text: at for at, text in enumerate(dict.fromkeys(text for smiles, _ in parts for text in smiles))}
    labels = np.full((len(rows), len(parts)), np.nan)
    for at, (smiles, target) in enumerate(parts):
        labels[[rows[text] for text in smiles], at] = target
    return list(rows), labels


def _tune_ensemble(
    tasks: Sequence[Task], size: int, seed: int, folder: Path, log_folder: Path | None, shared: dict[str, Any]
) -> list[Tuned]:
    """Train the members one after another; one that is finished is not trained again when a killed run goes on."""
    members: list[list[Tuned]] = []
    for at in range(size):
        logger.info("member %d of %d", at + 1, size)
        members.append(
            tune_models(
                tasks,
                seed=seed + _SEEDS_APART * at,
                folder=folder / f"member-{at}",
                log_folder=None if log_folder is None else log_folder / f"member-{at}",
                **shared,
            )
        )
    return [_ensemble_of(own) for own in zip(*members, strict=True)]


def _ensemble_of(members: Sequence[Tuned]) -> Tuned:
    first, costs = members[0], [one.cost for one in members]
    cost = replace(
        first.cost,
        seconds=round(sum(one.seconds for one in costs), 3),
        peak_memory_bytes=max(one.peak_memory_bytes for one in costs),
    )
    return replace(first, model=Ensemble([one.model for one in members]), cost=cost, calibrated=None)


def _tune_probe(
    task: Task, model: ModelSettings, method: MethodSettings, training: TrainingSettings, seed: int
) -> Tuned:
    if training.threads is not None:
        torch.set_num_threads(training.threads)
    with Meter() as meter:
        encoder = Encoder(model, training.eval_batch_size)
        features = FeatureTable({EMBEDDING: encoder}, threads=training.threads)
        probe = Probe(method.probe, features, task.target_name, task.classes)
        probe.fit(task.train, task.validation, seed=seed)
    frozen = encoder.network.encoder.num_parameters() if probe.encoder else 0
    return Tuned(
        model=probe,
        history=pd.DataFrame(columns=HISTORY_COLUMNS),
        best_epoch=0,
        parameters=ParameterCount(PROBE, 0, probe.head.fitted, probe.head.fitted, probe.head.fitted + frozen),
        cost=meter.cost(round(len(task.train[1]) / meter.seconds, 1)),
    )
