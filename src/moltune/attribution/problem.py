"""The inputs of an influence: the model with its molecules, and the curvature."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import psutil
import torch

from moltune.attribution.curvature import Curvature, GaussNewton, Hessian, gradient_megabytes, mean_eigenvalue
from moltune.attribution.inputs import Inputs
from moltune.attribution.linearised import Linearised
from moltune.attribution.loss import LogLoss, Loss, SquaredError
from moltune.attribution.scope import Scope, choose_scope
from moltune.config import InfluenceSettings
from moltune.data.molecules import Molecules
from moltune.models.checkpoints import load_regression, load_tokenizer, max_length
from moltune.models.regression import RegressionModel
from moltune.progress import StageReport, no_report, of_stage
from moltune.run import Run
from moltune.tuning.classify import class_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """A tuned model with the molecules that an influence is about.

    Attributes:
        model: in evaluation mode, float32.
        scope: parameters.
        train: training molecules.
        target: molecules whose loss counts.
        external: molecules to score.
    """

    model: RegressionModel
    scope: Scope
    train: Linearised
    target: Linearised
    external: Linearised


def make_setting(
    run: Run, molecules: Molecules, parts: np.ndarray, external: Molecules, settings: InfluenceSettings
) -> Setting:
    """Load the run's model and linearise it on training, target and external molecules.

    The loss of training and external molecules is that of the training. Of classes it has their weights, which are
    taken to stay as they are, and is of the logit itself, while the log loss of the target molecules is that of the
    calibrated probabilities. The calibration stays as it is, too: it was chosen for the smallest log loss of the
    validation part, so that to first order that does not depend on it.
    """
    # Influence functions hold at the parameters where training ended, which had the trained head.
    model = load_regression(run.path).set_kernel(None).float().eval()
    tokenizer = load_tokenizer(run.path)
    scope = choose_scope(model, settings.scope)
    cut = max_length(model.encoder, tokenizer) if run.config.model.too_long == "truncate" else None

    learned: Loss = SquaredError()
    wanted: Loss = learned
    if model.config.classes is not None:
        weights = class_weights(molecules.target[parts == "train"], run.config.training.class_weights)
        learned, wanted = LogLoss(weights), LogLoss(scale=(model.config.calibration[0], model.config.calibration[1]))

    def linearised(smiles: list[str], labels: np.ndarray, loss: Loss) -> Linearised:
        standardised = (labels - model.config.target_mean) / model.config.target_std
        inputs = Inputs(model, scope, tokenizer, smiles, cut)
        return Linearised(inputs, scope, torch.as_tensor(standardised), settings.tokens, loss)

    def part(name: str, loss: Loss) -> Linearised:
        positions = np.flatnonzero(parts == name)
        return linearised([molecules.smiles[i] for i in positions], molecules.target[positions], loss)

    others = linearised(external.smiles, external.target, learned)
    return Setting(model, scope, part("train", learned), part(settings.target, wanted), others)


def make_curvature(
    setting: Setting, settings: InfluenceSettings, weight_decay: float, report: StageReport = no_report
) -> Curvature:
    """Curvature of the training loss, with weight decay and damping.

    Raises:
        NumericsError: a gradient is not finite; molecule and tensor are named.
    """
    train, n = setting.train, len(setting.train)
    positions = list(range(n))
    if settings.curvature_molecules is not None and settings.curvature_molecules < n:
        rng = np.random.default_rng(settings.seed)
        positions = np.sort(rng.choice(n, settings.curvature_molecules, replace=False)).tolist()
    jacobian = None
    # Gradient similarity takes one product with the curvature; a Jacobian would take longer to make.
    if settings.curvature == "gauss-newton" and settings.solver != "identity":
        if gradient_megabytes(len(positions), setting.scope.size) <= settings.jacobian_mb:
            stage = "gradients of the training molecules"
            report(stage, 0)
            jacobian = train.weighted_jacobian(positions, of_stage(report, stage, len(positions)))
        else:
            logger.info("%s", _how_to_keep(len(positions), setting.scope.size))
    damping = settings.damping
    if settings.damping_unit == "mean-eigenvalue" and damping > 0:
        damping *= mean_eigenvalue(train, positions, settings.seed, jacobian=jacobian)
    decay = setting.scope.decay(weight_decay)
    if settings.curvature == "hessian":
        return Hessian(train, decay, damping, positions)
    return GaussNewton(train, decay, damping, positions, jacobian=jacobian)


def _how_to_keep(molecules: int, parameters: int) -> str:
    wanted = math.ceil(gradient_megabytes(molecules, parameters))
    text = f"The gradients of {molecules:,} molecules would take {wanted:,} MB, so every step computes them again"
    total = psutil.virtual_memory().total / 2**20
    if wanted < 0.5 * total:
        return f"{text}; --set jacobian_mb={wanted} keeps them in memory, which is several times as fast"
    few = int(0.25 * total / gradient_megabytes(1, parameters))
    return (
        f"{text}; --set curvature_molecules={few} --set jacobian_mb={math.ceil(0.25 * total)} uses fewer molecules and "
        "keeps theirs in memory"
    )
