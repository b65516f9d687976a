"""Ridge regression over fixed embeddings, written into the head of a model: where the truth of influence is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import Ridge
from transformers import PreTrainedTokenizerBase

from moltune.attribution.influence import Setting
from moltune.attribution.inputs import Inputs
from moltune.attribution.linearised import Linearised
from moltune.attribution.scope import choose_scope
from moltune.models.regression import RegressionModel
from moltune.training.inference import embed_smiles

Labelled = tuple[Sequence[str], np.ndarray]
DECAYS = tuple(float(value) for value in 10.0 ** np.arange(-5, 0.6, 0.5))


@dataclass(frozen=True)
class Fixed:
    """Embeddings and standardised labels of a part.

    Attributes:
        x: float64, shape (n, d).
        y: float64, shape (n,).
    """

    x: np.ndarray
    y: np.ndarray


def embed(
    model: RegressionModel, tokenizer: PreTrainedTokenizerBase, parts: Mapping[str, Labelled]
) -> dict[str, Fixed]:
    """Embeddings of each part by the model without its head, and labels in the units of its target statistics."""
    mean, std = model.config.target_mean, model.config.target_std
    return {
        name: Fixed(embed_smiles(model, tokenizer, list(smiles)), (np.asarray(labels) - mean) / std)
        for name, (smiles, labels) in parts.items()
    }


def fit_ridge(part: Fixed, decay: float, n: int | None = None, weights: np.ndarray | None = None) -> Ridge:
    """Minimise 1/n Σ wᵢ rᵢ² + ½ decay |w|², the bias free: the training loss of influence. ``n``: of the 1/n."""
    alpha = decay * (len(part.y) if n is None else n) / 2
    return Ridge(alpha=alpha, solver="cholesky").fit(part.x, part.y, sample_weight=weights)


def error(ridge: Ridge, part: Fixed) -> float:
    """Mean squared error, standardised."""
    return float(np.mean((ridge.predict(part.x) - part.y) ** 2))


def best_decay(train: Fixed, validation: Fixed, decays: Sequence[float] = DECAYS) -> float:
    """The weight decay with the lowest validation error."""
    return min(decays, key=lambda decay: error(fit_ridge(train, decay), validation))


def write_head(model: RegressionModel, ridge: Ridge) -> None:
    """Put the regression into the linear head."""
    layer = model.head.out_proj
    assert isinstance(layer, torch.nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(ridge.coef_).view(1, -1))
        layer.bias.fill_(float(ridge.intercept_))


def again(setting: Setting) -> Setting:
    """The same molecules linearised anew, after the head's weights were changed in place."""
    made = [
        Linearised(old.inputs, setting.scope, old.target, old.tokens)
        for old in (setting.train, setting.target, setting.external)
    ]
    return Setting(setting.model, setting.scope, *made)


def setting_of(
    model: RegressionModel,
    tokenizer: PreTrainedTokenizerBase,
    parts: Mapping[str, Labelled],
    scope: str,
    tokens: int = 8192,
) -> Setting:
    """Linearise a model as it is now on the parts train, validation and external."""
    chosen = choose_scope(model, scope)
    mean, std = model.config.target_mean, model.config.target_std

    def linearised(part: Labelled) -> Linearised:
        standardised = torch.as_tensor((np.asarray(part[1]) - mean) / std)
        return Linearised(Inputs(model, chosen, tokenizer, part[0]), chosen, standardised, tokens)

    train, target, external = (linearised(parts[name]) for name in ("train", "validation", "external"))
    return Setting(model, chosen, train, target, external)
