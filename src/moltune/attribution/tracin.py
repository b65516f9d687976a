"""TracIn over saved checkpoints (Pruthi et al. 2020, arXiv:2002.08484)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from moltune.attribution.inputs import Inputs
from moltune.attribution.linearised import Linearised
from moltune.attribution.scope import choose_scope
from moltune.models.checkpoints import load_regression


@dataclass(frozen=True)
class Checkpoint:
    """One saved state of a training.

    Attributes:
        path: folder of a regression model.
        weight: learning rate times steps that the state stands for; 1 where not known.
    """

    path: str
    weight: float = 1.0


def tracin_products(
    checkpoints: Sequence[Checkpoint],
    scope: str,
    make_inputs: Callable[..., Inputs],
    external: tuple[Sequence[str], torch.Tensor],
    target: tuple[Sequence[str], torch.Tensor],
    *,
    tokens: int = 8192,
) -> np.ndarray:
    """Σ over checkpoints of weight · ∇ℓ(z) · ∇L(target), both losses standardised; float64, shape (n,).

    The first-order fall of the target loss when each molecule is trained on once at each checkpoint.

    Args:
        checkpoints: in any order.
        scope: parameters.
        make_inputs: called as (model, scope, smiles).
        external: SMILES and standardised targets of the molecules to score.
        target: the same for the molecules whose loss counts.
        tokens: per batch.
    """
    total = np.zeros(len(external[0]))
    for checkpoint in checkpoints:
        model = load_regression(checkpoint.path).set_kernel(None)
        chosen = choose_scope(model, scope)
        held_out = Linearised(make_inputs(model, chosen, target[0]), chosen, target[1], tokens)
        added = Linearised(make_inputs(model, chosen, external[0]), chosen, external[1], tokens)
        total += checkpoint.weight * added.loss_jvp(held_out.loss_gradient()).cpu().numpy()
    return total
