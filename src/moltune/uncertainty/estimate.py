"""Mean and spread of predictions: Monte-Carlo dropout, and deep ensembles."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata, spearmanr
from torch import nn

from moltune.config import DataSettings, UncertaintySettings
from moltune.data.load import in_unit, load_molecules_labelled_or_not
from moltune.data.molecules import Molecules
from moltune.errors import ConfigError, DataError, NumericsError
from moltune.evaluation.repeatability import TRUSTED, lengthened, stepped_up
from moltune.models.batches import PadCollator, SmilesDataset, sorted_batches
from moltune.models.coverage import unfit_molecules
from moltune.models.regression import RegressionModel
from moltune.predictors.language import LanguageModel
from moltune.predictors.predictor import Predictor
from moltune.progress import StageReport, no_report, of_stage
from moltune.run import Run

logger = logging.getLogger(__name__)

UNCERTAINTY_COLUMNS = ["smiles", "inchikey", "label", "mean", "variance", "sd", "rank"]
_ALPHA, _WEAK, _STRONG = 0.05, 0.3, 0.6


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
        """Predictions in the target's unit, float64, shape (passes, n)."""
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
        targets = sorted({member.target_name for member in self.members})
        if len(self.members) < 2:
            raise ConfigError("an ensemble needs two or more runs; add them with --member")
        if len(targets) > 1:
            raise ConfigError(f"the members of an ensemble must predict the same target, not {', '.join(targets)}")

    def samples(self, smiles: Sequence[str], report: StageReport = no_report) -> np.ndarray:
        """Predictions in the target's unit, float64, shape (members, n)."""
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
        table: columns of ``UNCERTAINTY_COLUMNS`` and the further ones of the file; variance with n - 1, rank 1 the
            largest.
        facts: JSON-ready: method, samples, rank repeatability (:func:`repeatability`), with labels the Spearman
            correlation of standard deviation and absolute error, and a ``verdict`` on it in words.
        unit: of the target.
    """

    table: pd.DataFrame
    facts: dict[str, Any]
    unit: str = ""


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
        molecules: with labels or without.
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
    opened.needs_numbers("uncertainty")
    if not isinstance(molecules, Molecules):
        unit = str(opened.provenance.get("data", {}).get("unit") or "")
        clean = in_unit(opened.config.data.clean, unit)
        columns = (data or DataSettings()).model_copy(update={"clean": clean, "task": "regression"})
        molecules = load_molecules_labelled_or_not(molecules, columns)
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
    if settings.method == "dropout" and facts.get("rank_repeatability", 1.0) < TRUSTED:
        logger.warning("%s", _few_passes(facts["rank_repeatability"], len(samples)))
    if facts.get("spearman_p", 0.0) >= _ALPHA:
        logger.warning("%s", facts["verdict"])
    facts = {"method": settings.method, "run": str(run), "members": [str(path) for path in members], **facts}
    return UncertaintyScores(table, facts, str(opened.provenance.get("data", {}).get("unit") or ""))


def summarise(molecules: Molecules, samples: np.ndarray) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table and facts from samples (samples, n)."""
    variance = samples.var(axis=0, ddof=1)
    table = pd.DataFrame(
        {
            "smiles": molecules.smiles,
            "inchikey": molecules.table["inchikey"].to_numpy(),
            **molecules.labels(),
            "mean": samples.mean(axis=0),
            "variance": variance,
            "sd": np.sqrt(variance),
            "rank": rankdata(-variance, method="ordinal"),
        }
    )
    table = pd.concat([table, molecules.further(*UNCERTAINTY_COLUMNS, "label_unit")], axis=1)
    facts: dict[str, Any] = {"molecules": len(table), "samples": len(samples), "mean_sd": float(table["sd"].mean())}
    repeats = repeatability(samples)
    if repeats is not None:
        facts["rank_repeatability"] = repeats
    labelled = table.dropna(subset=["label"])
    if len(labelled) > 2 and labelled["sd"].nunique() > 1:
        found = spearmanr(labelled["sd"], (labelled["mean"] - labelled["label"]).abs(), alternative="greater")
        facts |= {"spearman_sd_error": float(found.statistic), "spearman_p": float(found.pvalue)}
    facts["verdict"] = _verdict(facts, len(labelled))
    return table, facts


def _verdict(facts: dict[str, Any], labelled: int) -> str:
    """What the spread says about the error, in words."""
    if "spearman_sd_error" not in facts:
        return "Whether the spread says anything about the error is not known: that takes three or more labels."
    rho = facts["spearman_sd_error"]
    numbers = f"rank correlation of spread and absolute error {rho:.2f} over {labelled} labelled molecules"
    if not facts["spearman_p"] < _ALPHA:
        return f"The spread says nothing about the error: {numbers}, which cannot be distinguished from none."
    strength = "little" if rho < _WEAK else "something" if rho < _STRONG else "much"
    return f"The spread says {strength} about the error: {numbers}."


def repeatability(samples: np.ndarray, *, halvings: int = 20, seed: int = 0) -> float | None:
    """Rank correlation that the variances of as many new samples are expected to have with these.

    The variances of two random halves of the samples are compared, and the mean Spearman correlation over ``halvings``
    of them is stepped up to the full number (:func:`moltune.evaluation.repeatability.stepped_up`).

    Args:
        samples: shape (samples, n).
        halvings: how often the samples are cut into halves.
        seed: of the halvings.

    Returns:
        At most 1; None with fewer than four samples or three molecules, or where nothing varies.
    """
    count, n = samples.shape
    if count < 4 or n < 3:
        return None
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(halvings):
        order = rng.permutation(count)
        one, two = (samples[part].var(axis=0, ddof=1) for part in (order[: count // 2], order[count // 2 :]))
        if np.ptp(one) > 0 and np.ptp(two) > 0:
            found.append(float(spearmanr(one, two).statistic))
    return stepped_up(float(np.mean(found))) if found else None


def _few_passes(repeats: float, passes: int) -> str:
    text = f"Another {passes} passes would rank the molecules differently (rank correlation {repeats:.2f})"
    times = lengthened(repeats)
    if times is None:
        return f"{text}: this order is noise. Take many more passes, or an ensemble."
    return f"{text}. For a correlation of {TRUSTED:g}, take about {math.ceil(times * passes / 10) * 10:,} passes."


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
