"""One tuned model from training and validation molecules: the step that ``finetune`` and ``MolRegressor`` share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import set_seed

from moltune.config import MethodSettings, ModelSettings, TrainingSettings
from moltune.errors import DataError
from moltune.models.batches import SmilesDataset
from moltune.models.checkpoints import empty_encoder, load_tokenizer, make_regression, max_length
from moltune.models.coverage import check_smiles
from moltune.models.methods.base import ParameterCount
from moltune.models.methods.registry import make_method
from moltune.models.molformer import MolformerConfig
from moltune.predictors.base import TunedModel
from moltune.predictors.language import LanguageModel
from moltune.tuning.cost import Cost, Meter
from moltune.tuning.head_refit import Refit, refit_head
from moltune.tuning.head_start import start_head
from moltune.tuning.loop import EpochReport, fit

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuned:
    """A tuned model in memory, and how it came about.

    Attributes:
        model: ready to predict.
        history: losses per epoch; empty where nothing is trained by epochs.
        best_epoch: epoch whose weights the model has; 0 without epochs.
        parameters: what was trained.
        seconds: wall-clock time in this process.
        cost: time, memory and throughput.
        refit: what became of the head after training; None: it was left as trained.
    """

    model: TunedModel
    history: pd.DataFrame
    best_epoch: int
    parameters: ParameterCount
    seconds: float
    cost: Cost
    refit: Refit | None = None


def unfit_molecules(smiles: Sequence[str], settings: ModelSettings) -> dict[int, str]:
    """Positions that the model cannot read, each with its reason; what the settings let pass is warned about.

    Characters that the tokenizer would drop always make a molecule unfit. Unknown tokens and over-long SMILES are
    kept, rejected or an error as ``settings.unknown_tokens`` and ``settings.too_long`` say.

    Raises:
        DataError: the settings make one of them an error.
    """
    tokenizer = load_tokenizer(settings.name, settings.revision)
    issues = check_smiles(tokenizer, smiles, max_length(empty_encoder(settings.name, settings.revision), tokenizer))
    policy = {"characters": "reject", "unknown": settings.unknown_tokens, "too long": settings.too_long}
    rejected: dict[int, str] = {}
    tolerated: dict[str, list[int]] = {}
    for position, issue in issues.items():
        action = policy[issue.kind]
        if action == "error":
            raise DataError(
                f"{smiles[position]}: {issue.message}; leave it out, or choose model.unknown_tokens or model.too_long"
            )
        if action == "reject":
            rejected[position] = f"{settings.name}: {issue.message}"
        else:
            tolerated.setdefault(issue.kind, []).append(position)
    for kind, positions in tolerated.items():
        example = smiles[positions[0]]
        does = "are cut to the model's length" if kind == "too long" else "are read with an unknown token"
        reason = issues[positions[0]].message
        logger.warning("%d molecules %s, such as %s: %s", len(positions), does, example, reason)
    return rejected


def tune(
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
    """Put a head on an encoder, switch a method on, and train.

    Args:
        train: SMILES and targets in their own unit.
        validation: the same, for early stopping; ``None`` or empty: train for all epochs.
        model: encoder and head.
        method: which parameters.
        training: the optimisation.
        seed: of the head's first weights, order, dropout and redrawn features.
        folder: for the checkpoints by which a killed training resumes.
        resume: go on from them.
        target_name: stored with the model.
        report: called after each step and epoch.
        log_folder: for trackers.

    Raises:
        DataError: fewer than two training molecules, or a constant target.
        NumericsError: a loss is not finite.
    """
    smiles, target = train
    target = np.asarray(target, dtype=np.float64)
    if len(target) < 2 or not target.std() > 0:
        raise DataError("training needs at least two molecules with different targets")
    with Meter() as meter:
        set_seed(seed)
        tokenizer = load_tokenizer(model.name, model.revision)
        network = make_regression(
            model.name,
            head=model.head,
            head_dropout=model.head_dropout,
            revision=model.revision,
            weights=model.weights,
            target_mean=float(target.mean()),
            target_std=float(target.std()),
            target_name=target_name,
        )
        if model.redraw is not None and isinstance(network.encoder.config, MolformerConfig):
            network.encoder.config.redraw_features = model.redraw
            network.config.encoder.redraw_features = model.redraw
        truncate = model.too_long == "truncate"
        cut = max_length(network.encoder, tokenizer) if truncate else None
        if model.head_start == "ridge":
            start_head(network, tokenizer, smiles, target, max_length=cut)
        way = make_method(method)
        network = way.switch_on(network)
        fitted = fit(
            network,
            SmilesDataset(tokenizer, smiles, target, cut),
            SmilesDataset(tokenizer, *validation, cut) if validation is not None else None,
            training,
            pad_token_id=int(tokenizer.pad_token_id),
            folder=folder,
            seed=seed,
            resume=resume,
            report=report,
            log_folder=log_folder,
        )
        refit = None
        if training.refit_head == "svr":
            refit = refit_head(network, tokenizer, train, validation, max_length=cut)
    return Tuned(
        model=LanguageModel(network, tokenizer, truncate),
        history=fitted.history,
        best_epoch=fitted.best_epoch,
        parameters=way.count(network),
        seconds=meter.seconds,
        cost=meter.cost(fitted.molecules_per_second, fitted.precision),
        refit=refit,
    )
