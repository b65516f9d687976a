"""Influence of external molecules on the loss of a tuned model.

The score of a molecule z is the predicted change of the mean squared error on the validation part, in the target's
unit squared, or of a classifier of its log loss there, in nats, when z is added to the n training molecules with their
weight::

    score(z) = −1/n · ∇L_val(θ)ᵀ (H + δ)⁻¹ ∇ℓ(z, θ)          (Koh & Liang 2017, arXiv:1703.04730)

Negative scores help. With the convention ``positive-helps`` (founding study B) the sign is reversed.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata, spearmanr

from moltune.attribution.curvature import Curvature, GaussNewton
from moltune.attribution.problem import Setting, make_curvature, make_setting
from moltune.attribution.solvers import Solver, make_solver
from moltune.config import DataSettings, InfluenceSettings
from moltune.data.classes import with_classes
from moltune.data.load import in_unit, load_molecules
from moltune.data.molecules import Molecules
from moltune.data.overlap import shared_molecules
from moltune.errors import ConfigError, DataError, NumericsError
from moltune.evaluation.metrics import task_of
from moltune.evaluation.repeatability import TRUSTED, rank_correlations, stepped_up
from moltune.models.coverage import unfit_molecules
from moltune.progress import StageReport, no_report
from moltune.run import Run

logger = logging.getLogger(__name__)

BIASED = "biased: selected on test"
SCORE_COLUMNS = ["smiles", "inchikey", "label", "prediction", "residual", "score", "rank", "flags"]


class NotConverged(NumericsError):
    """A solver's residual is above the tolerance, so its scores cannot be trusted."""


@dataclass(frozen=True)
class Influence:
    """Scores of external molecules.

    Attributes:
        table: columns of ``SCORE_COLUMNS`` and the further ones of the file, in table order of the external molecules;
            label, prediction and residual (prediction minus label) in the target's unit, score in its square. Of
            classes, label is the name, prediction the probability of the positive one, residual that less 0 or 1, and
            score is in units of the log loss. Rank 1 helps most.
        external: the molecules.
        facts: the content of ``scores.json``.
        unit: of the target.
    """

    table: pd.DataFrame
    external: Molecules
    facts: dict[str, Any]
    unit: str = ""

    @property
    def helps_low(self) -> bool:
        """Whether a low score is a good one."""
        return bool(self.facts["convention"] == "negative-helps")

    @property
    def classes(self) -> tuple[str, str] | None:
        """Negative and positive class; None: the target is a number."""
        return self.external.classes


def influence(
    run: Run | str | Path,
    external: str | Path | pd.DataFrame | Molecules,
    settings: InfluenceSettings | None = None,
    *,
    data: DataSettings | None = None,
    report: StageReport = no_report,
) -> Influence:
    """Score external molecules by their influence on a tuned model's loss.

    Args:
        run: a finished fine-tuning run.
        external: labelled molecules, of a classifier with its classes as labels, or 0 and 1 in cleaned molecules.
        settings: scope, solver, curvature, target and so on; unset: the defaults.
        data: columns of the external file; it is cleaned as the run's data were.
        report: receives the stage in progress and its share.

    Raises:
        DataError: the external molecules have no labels, or the run has no such part.
        NotConverged: the solver did not converge, and ``allow_unconverged`` is off.
        NumericsError: a value is not finite; molecule and tensor are named.
        ConfigError: scope, solver and curvature do not go together.
    """
    settings = settings or InfluenceSettings()
    run = run if isinstance(run, Run) else Run.load(run)
    if run.config.method.name == "probe":
        raise ConfigError(f"{run.path} holds a probe, which has no gradients; influence needs a fine-tuned model")
    if run.config.data.bounds == "use":
        raise ConfigError(
            f"{run.path} was trained on bounds, which influence functions do not know; fine-tune with --bounds reject"
        )
    molecules, parts = run.molecules()
    if not (parts == settings.target).any():
        raise DataError(f"the run {run.path} has no {settings.target} part to score against")
    if not isinstance(external, Molecules):
        clean = in_unit(run.config.data.clean, molecules.unit)
        task = task_of(molecules.classes).name
        columns = (data or DataSettings()).model_copy(update={"clean": clean, "task": task})
        external = load_molecules(external, columns, classes=molecules.classes)
    external = with_classes(external, molecules.classes)
    policy = run.config.model.model_copy(update={"name": str(run.model_path), "revision": None})
    external = external.reject(unfit_molecules(external.smiles, policy))
    if not len(external):
        raise DataError("the model can read none of the external molecules")
    if settings.target == "test":
        logger.warning("The scores use the test part: every number that follows from them is %s.", BIASED)
    decay = run.config.training.weight_decay if settings.weight_decay is None else settings.weight_decay
    started = time.monotonic()
    setting = make_setting(run, molecules, parts, external, settings)
    prepared = time.monotonic()
    scores, facts = score(setting, settings, decay, report=report)
    seconds = {"prepare": round(prepared - started, 3), "score": round(time.monotonic() - prepared, 3)}
    table = _table(setting, scores, external, _flags(external, molecules, parts), settings)
    facts = {
        "run": str(run.path),
        "external": str(external.provenance.get("source") or ""),
        "molecules": len(external),
        "training_molecules": len(setting.train),
        "target_molecules": len(setting.target),
        "parameters": setting.scope.size,
        "convention": settings.convention,
        "target": settings.target,
        "loss": "mean squared error" if molecules.classes is None else "log loss",
        **({} if molecules.classes is None else {"classes": list(molecules.classes)}),
        **({"stamp": BIASED} if settings.target == "test" else {}),
        **facts,
        "seconds": seconds,
        "settings": settings.model_dump(mode="json"),
    }
    unit = str(run.provenance.get("data", {}).get("unit") or "")
    return Influence(table, external, facts, unit)


def score(
    setting: Setting,
    settings: InfluenceSettings,
    weight_decay: float,
    *,
    report: StageReport = no_report,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Scores (n,), in the unit of the loss and in the convention of the settings, and facts about the solution.

    Raises:
        NotConverged, NumericsError, ConfigError: as :func:`influence`.
    """
    report(f"gradient of the {settings.target} loss", 0)
    gradient, replaced = setting.target.loss_gradient(), 0
    if settings.founding_study:
        gradient, replaced = _founding_gradient(gradient)
    setting.scope.check_finite(gradient, f"the gradient of the {settings.target} loss")
    curvature = make_curvature(setting, settings, weight_decay, report)
    solver = make_solver(settings.solver, settings, report)
    solution = solver.solve(curvature, gradient)
    report("scoring", 0)
    facts: dict[str, Any] = {
        "solver": settings.solver,
        "curvature": settings.curvature,
        "residual": solution.residual,
        "converged": solution.converged,
        "tolerance": settings.tolerance,
        "damping": curvature.damping,
        "weight_decay": weight_decay,
        "curvature_molecules": len(curvature.positions),
        "solver_seconds": round(solution.seconds, 3),
        "gradient_norm": float(gradient.norm()),
        **{f"solver_{name}": value for name, value in solution.facts.items()},
    }
    if len(solution.repeats) > 1:
        correlations = rank_correlations([_products(setting, x) for x in solution.repeats])
        facts |= {"repeats": len(solution.repeats), "repeats_rank_correlation": float(np.mean(correlations))}
    if settings.founding_study:
        facts["founding_study_replaced"] = replaced
    if not solution.converged:
        lissa = settings.solver == "lissa"
        cure = "--depth, --batch-size or --damping, or take the solver cg" if lissa else "--iterations or --damping"
        message = (
            f"{settings.solver} did not converge: its residual is {solution.residual:.3g}, above the tolerance "
            f"{settings.tolerance:g}. Raise {cure}"
        )
        if not settings.allow_unconverged:
            raise NotConverged(f"{message}; --allow-unconverged returns the scores nevertheless")
        logger.warning(message)
    unit = setting.model.config.target_std**2 * (-1.0 if settings.convention == "negative-helps" else 1.0)
    if settings.step == "whole":
        assert isinstance(curvature, GaussNewton)
        return -unit * whole_step(setting, curvature, gradient).cpu().numpy(), facts
    products = _products(setting, solution.x)
    if settings.halves and not settings.founding_study:
        facts |= _halves(setting, solver, curvature, products, settings)
    return unit / len(setting.train) * products, facts


def _products(setting: Setting, x: torch.Tensor) -> np.ndarray:
    """Derivative of the loss of each external molecule along a solution, float64, shape (n,)."""
    return setting.external.loss_jvp(x).cpu().numpy()


def whole_step(setting: Setting, curvature: GaussNewton, gradient: torch.Tensor) -> torch.Tensor:
    """Change of the target loss (standardised) when each molecule is added whole, float64, shape (n,).

    With prediction gradient j, slope ℓ′ and curvature ℓ″ of the molecule's loss, and leverage h = ℓ″/n jᵀH⁻¹j, the
    Gauss-Newton step of adding it is Δθ = −ℓ′/n H⁻¹j / (1 + h) (Sherman & Morrison 1950), and the target loss changes
    by ∇LᵀΔθ + mean ½ℓ″(J Δθ)². For squared errors of a model that is linear in its parameters, trained to its optimum,
    this is retraining itself; for the log loss it is the first step of Newton's method (Pregibon 1981).

    Raises:
        ConfigError: there are too many parameters for a dense curvature.
    """
    n = len(setting.train)
    rows = setting.external.jacobian(range(len(setting.external))).double()
    solved = torch.linalg.solve(curvature.dense(), rows.T)
    leverage = setting.external.curvatures / n * (rows.T * solved).sum(dim=0)
    steps = solved * (-setting.external.slopes / n / (1 + leverage))
    moved = setting.target.jacobian(range(len(setting.target))).double() @ steps
    return gradient @ steps + (setting.target.curvatures[:, None] / 2 * moved**2).mean(dim=0)


def _founding_gradient(gradient: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Gradient of length one with zero for each value that is not finite, and the number of these values."""
    finite = torch.isfinite(gradient)
    replaced = int((~finite).sum())
    gradient = torch.where(finite, gradient, torch.zeros_like(gradient))
    norm = float(gradient.norm())
    if replaced:
        logger.warning("%d of %d values of the gradient were not finite and were set to 0", replaced, len(finite))
    return gradient / norm if norm > 0 else gradient, replaced


def _halves(
    setting: Setting, solver: Solver, curvature: Curvature, products: np.ndarray, settings: InfluenceSettings
) -> dict[str, Any]:
    """Rank correlation of the scores from two random halves of the target molecules.

    The scores are linear in the target's gradient, so one more solution gives both halves.
    """
    n = len(setting.target)
    if n < 4 or len(setting.external) < 3:
        return {}
    first = np.sort(np.random.default_rng(settings.seed).permutation(n)[: n // 2])
    solver.stage = f"solving for half of the {settings.target} molecules"
    solution = solver.solve(curvature, setting.target.loss_gradient(first.tolist()))
    one = _products(setting, solution.x)
    share = len(first) / n
    halves = float(spearmanr(one, (products - share * one) / (1 - share)).statistic)
    if np.isnan(halves):
        return {}
    repeats = stepped_up(halves)
    if repeats is not None and repeats < TRUSTED:
        logger.warning(
            "Other %s molecules would rank these differently: the rankings by two halves of them have a rank "
            "correlation of %.2f, which extrapolates to about %.2f for two parts of this size.",
            settings.target,
            halves,
            repeats,
        )
    return {"target_halves_rank_correlation": halves, "rank_repeatability": repeats}


def _flags(external: Molecules, molecules: Molecules, parts: np.ndarray) -> list[str]:
    """Part and row of each molecule of the run that is the same as an external molecule, in words."""
    flags: list[list[str]] = [[] for _ in range(len(external))]
    words = {"smiles": "same molecule", "inchikey": "same InChIKey", "connectivity": "stereoisomer"}
    for pair in shared_molecules(external, molecules).to_dict(orient="records"):
        part, known = parts[int(pair["known_position"])], pair["known_label"]
        label = f"{known:g}" if molecules.classes is None else molecules.classes[int(known)]
        where = f"in {part} (row {pair['known_row']}, {label})"
        flags[int(pair["position"])].append(f"{words[pair['level']]} {where}")
    return ["; ".join(found) for found in flags]


def _table(
    setting: Setting, scores: np.ndarray, external: Molecules, flags: list[str], settings: InfluenceSettings
) -> pd.DataFrame:
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise NumericsError(f"the score of {external.smiles[bad[0]]} is not finite")
    predicted = setting.model.in_unit(setting.external.predicted).cpu().numpy()
    best_first = scores if settings.convention == "negative-helps" else -scores
    if settings.target == "test":
        flags = [f"{flag}; {BIASED}" if flag else BIASED for flag in flags]
    scored = pd.DataFrame(
        {
            "smiles": external.smiles,
            "inchikey": external.table["inchikey"].to_numpy(),
            **external.labels(),
            "prediction": predicted,
            "residual": predicted - external.target,
            "score": scores,
            "rank": rankdata(best_first, method="ordinal"),
            "flags": flags,
        }
    )
    return pd.concat([scored, external.further(*SCORE_COLUMNS, "label_unit")], axis=1)
