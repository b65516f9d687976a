"""Ridge regression over fixed embeddings, written into the head of a model: where the truth of influence is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import Ridge
from transformers import PreTrainedTokenizerBase

from moltune.attribution.curvature import Curvature
from moltune.attribution.inputs import Inputs
from moltune.attribution.linearised import Linearised
from moltune.attribution.problem import Setting
from moltune.attribution.scope import choose_scope
from moltune.attribution.solvers import make_solver
from moltune.config import SolverSettings
from moltune.models.inference import embed_smiles
from moltune.models.regression import RegressionModel

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


class Plain(Curvature):
    """Our solvers' interface over a matrix of features: 2/n XᵀX + Λ + δ."""

    name = "gauss-newton"

    class _Train:
        class _Scope:
            def __init__(self, size: int) -> None:
                self.size = size

            def check_finite(self, vector: torch.Tensor, what: str) -> None:
                assert torch.isfinite(vector).all(), what

        def __init__(self, rows: torch.Tensor) -> None:
            self.rows, self.scope = rows, self._Scope(rows.shape[1])

        def __len__(self) -> int:
            return len(self.rows)

    def __init__(self, rows: np.ndarray, decay: np.ndarray, damping: float) -> None:
        super().__init__(self._Train(torch.as_tensor(rows)), torch.as_tensor(decay), damping)  # type: ignore[arg-type]
        self.rows = torch.as_tensor(rows)

    def data_product(self, vector: torch.Tensor, positions: Any) -> torch.Tensor:
        """2/b Xᵀ(X v)."""
        rows = self.rows[positions]
        return rows.T @ (rows @ vector) * (2 / len(positions))


def default_damping(train: Fixed) -> float:
    """A tenth of the curvature's mean eigenvalue, the default of ours."""
    return 0.1 * 2 * float((train.x**2).sum()) / len(train.y) / train.x.shape[1]


def ours(fixed: dict[str, Fixed], weights: np.ndarray, decay: float) -> dict[str, np.ndarray]:
    """Influence of each molecule of the pool by our solvers, and |residual|; low helps. Features end with a one."""
    train, validation, pool = fixed["train"], fixed["validation"], fixed["pool"]
    n, size = train.x.shape
    decays = np.r_[np.full(size - 1, decay), 0.0]
    v = torch.as_tensor((2 * (validation.x @ weights - validation.y)[:, None] * validation.x).mean(axis=0))
    residuals = pool.x @ weights - pool.y
    found = {}
    for name, damping in (("weight decay alone", 0.0), ("default damping", default_damping(train))):
        curvature = Plain(train.x, decays, damping)
        for solver in ("exact", "cg", "lissa", "identity"):
            x = make_solver(solver, SolverSettings()).solve(curvature, v).x.numpy()
            found[f"{solver}, {name}"] = -2 / n * residuals * (pool.x @ x)
    solved = np.linalg.solve(2 / n * train.x.T @ train.x + np.diag(decays), pool.x.T)
    leverage = 2 / n * (pool.x.T * solved).sum(axis=0)
    steps = solved * (-2 / n * residuals / (1 + leverage))
    found["exact, step whole"] = v.numpy() @ steps + ((validation.x @ steps) ** 2).mean(axis=0)
    found["|residual|"] = np.abs(residuals)
    return found
