"""Mean and spread of predictions: Monte-Carlo dropout, and deep ensembles."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from moltune.config import DataSettings, UncertaintySettings
from moltune.data.classes import with_classes
from moltune.data.load import in_unit, load_molecules_labelled_or_not
from moltune.data.molecules import Molecules
from moltune.errors import ConfigError, DataError, NumericsError
from moltune.evaluation.metrics import task_of
from moltune.models.batches import PadCollator, SmilesDataset, sorted_batches
from moltune.models.coverage import unfit_molecules
from moltune.models.regression import RegressionModel
from moltune.predictors.language import LanguageModel
from moltune.predictors.predictor import Predictor
from moltune.progress import StageReport, no_report, of_stage
from moltune.run import Run
from moltune.uncertainty.summary import ENTROPY, few_passes, says_nothing, summarise

logger = logging.getLogger(__name__)


class MonteCarloDropout:
    """Repeated passes with dropout on (Gal & Ghahramani 2016, arXiv:1506.02142).

    Only the dropout layers are in training mode; everything else, random attention features included, is as in
    prediction. The trained head predicts, even in a run with a kernel head, because dropout is an approximate posterior
    for the trained head only. The draws depend on the seed and on the order of the molecules.

    Raises:
        ConfigError: the model has no dropout above zero, so all passes would be equal.
    """

    def __init__(self, predictor: Predictor, passes: int = 30, *, batch_size: int = 32, seed: int = 0) -> None:
        if not isinstance(predictor.model, LanguageModel):
            raise ConfigError("a probe has no dropout; use a fine-tuned model, or an ensemble of runs")
        self.model, self.tokenizer = predictor.model.network, predictor.model.tokenizer
        self.passes, self.batch_size, self.seed = passes, batch_size, seed
        if not any(layer.p > 0 for layer in _dropouts(self.model)):
            raise ConfigError("this model has no dropout, so all passes would be equal; use an ensemble of runs")

    @torch.no_grad()
    def samples(self, smiles: Sequence[str], report: StageReport = no_report) -> np.ndarray:
        """Predictions in the target's unit, or probabilities, float64, shape (passes, n)."""
        tick = of_stage(report, f"{self.passes} passes with dropout", self.passes * len(smiles))
        model = self.model
        dataset, collate = SmilesDataset(self.tokenizer, smiles), PadCollator(int(self.tokenizer.pad_token_id))
        result = np.empty((self.passes, len(smiles)))
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), _dropout_on(model):
            torch.manual_seed(self.seed)
            for positions in sorted_batches(dataset.lengths, self.batch_size):
                batch = {k: v.to(model.device) for k, v in collate([dataset[i] for i in positions]).items()}
                for draw in range(self.passes):
                    result[draw, positions] = model(**batch).logits.squeeze(-1).double().cpu().numpy()
                    tick(len(positions))
        return result


class DeepEnsemble:
    """Models of several runs, such as seeds of one setting (Lakshminarayanan et al. 2017, arXiv:1612.01474).

    Raises:
        ConfigError: fewer than two members, or members of different targets.
    """

    def __init__(self, members: Sequence[Predictor], *, batch_size: int = 32) -> None:
        self.members, self.batch_size = list(members), batch_size
        targets = sorted({_target(member) for member in self.members})
        if len(self.members) < 2:
            raise ConfigError("an ensemble needs two or more runs; add them with --member")
        if len(targets) > 1:
            raise ConfigError(f"the members of an ensemble must predict the same target, not {', '.join(targets)}")

    def samples(self, smiles: Sequence[str], report: StageReport = no_report) -> np.ndarray:
        """Predictions in the target's unit, or probabilities, float64, shape (members, n)."""
        tick = of_stage(report, f"{len(self.members)} models", len(self.members) * len(smiles))
        found = []
        for member in self.members:
            table = member.predict(list(smiles), batch_size=self.batch_size, progress=tick)
            if table["predicted"].isna().any():
                bad = table[table["predicted"].isna()].iloc[0]
                raise DataError(f"a member of the ensemble cannot predict {bad['input']}: {bad['note']}")
            found.append(table["predicted"].to_numpy(dtype=np.float64))
        return np.stack(found)


@dataclass(frozen=True)
class UncertaintyScores:
    """Spread of the predictions of molecules.

    Attributes:
        table: columns of :data:`moltune.uncertainty.summary.UNCERTAINTY_COLUMNS`, or ``CLASS_COLUMNS`` there, and the
            further ones of the file; variance with n - 1; of classes entropies and mutual information in nats. Rank 1
            has the largest variance, or the largest entropy.
        facts: JSON-ready: method, samples, rank repeatability (:func:`moltune.uncertainty.summary.repeatability`), with
            labels the Spearman correlation of standard deviation and absolute error, or how well entropy and mutual
            information tell misclassified molecules from others, and a ``verdict`` on it in words.
        unit: of the target.
        classes: negative and positive class; None: the target is a number.
    """

    table: pd.DataFrame
    facts: dict[str, Any]
    unit: str = ""
    classes: tuple[str, str] | None = None

    @property
    def spread(self) -> np.ndarray:
        """What the molecules are ranked by: the variance, or of classes the entropy; shape (n,)."""
        return self.table["variance" if self.classes is None else ENTROPY].to_numpy()


def uncertainty(
    run: str | Path,
    molecules: str | Path | pd.DataFrame | Molecules,
    settings: UncertaintySettings | None = None,
    *,
    members: Sequence[str | Path] = (),
    data: DataSettings | None = None,
    report: StageReport = no_report,
) -> UncertaintyScores:
    """Estimate mean and spread of the predictions of a tuned model for each molecule.

    Args:
        run: a finished run.
        molecules: with labels or without; labels of a classifier are its classes, or 0 and 1 in cleaned molecules.
        settings: method, passes and seed; unset: the defaults.
        members: further runs of an ensemble.
        data: columns of the file; it is cleaned as the run's data were.
        report: receives the share of the passes that are done.

    Raises:
        ConfigError: no dropout, or members that do not go together.
        DataError: the molecules cannot be read.
        NumericsError: a prediction is not finite; the molecule is named.
    """
    settings = settings or UncertaintySettings()
    opened = Run.load(run)
    own, _ = opened.molecules()
    if not isinstance(molecules, Molecules):
        like_run = {"clean": in_unit(opened.config.data.clean, own.unit), "task": task_of(own.classes).name}
        columns = (data or DataSettings()).model_copy(update=like_run)
        molecules = load_molecules_labelled_or_not(molecules, columns, own.classes)
    molecules = with_classes(molecules, own.classes)
    policy = opened.config.model.model_copy(update={"name": str(opened.model_path), "revision": None})
    molecules = molecules.reject(unfit_molecules(molecules.smiles, policy))
    if not len(molecules):
        raise DataError("the model can read none of the molecules")
    if settings.method == "ensemble":
        predictors = [Predictor.load(path) for path in (run, *members)]
        estimate: DeepEnsemble | MonteCarloDropout = DeepEnsemble(predictors, batch_size=settings.batch_size)
    else:
        if members:
            raise ConfigError("members belong to an ensemble: choose --method ensemble, or leave them out")
        estimate = MonteCarloDropout(
            Predictor.load(run), settings.passes, batch_size=settings.batch_size, seed=settings.seed
        )
    samples = estimate.samples(molecules.smiles, report)
    bad = np.flatnonzero(~np.isfinite(samples).all(axis=0))
    if len(bad):
        raise NumericsError(f"a prediction for {molecules.smiles[bad[0]]} is not finite")
    table, facts = summarise(molecules, samples)
    # More members are more trainings, not more passes.
    if settings.method == "dropout" and (few := few_passes(facts)):
        logger.warning("%s", few)
    if says_nothing(facts):
        logger.warning("%s", facts["verdict"])
    facts = {"method": settings.method, "run": str(run), "members": [str(path) for path in members], **facts}
    return UncertaintyScores(table, facts, own.unit, own.classes)


def _target(predictor: Predictor) -> str:
    classes = predictor.model.class_names
    return predictor.target_name if classes is None else f"{predictor.target_name} ({classes[0]} or {classes[1]})"


def _dropouts(model: nn.Module) -> list[nn.Dropout]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Dropout)]


@contextmanager
def _dropout_on(model: RegressionModel) -> Iterator[None]:
    model.eval()
    kernel = model.kernel
    try:
        model.set_kernel(None)
        for layer in _dropouts(model):
            layer.train()
        yield
    finally:
        model.set_kernel(kernel).eval()
