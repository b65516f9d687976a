"""The inverse curvature of a few molecules, by which conjugate gradients need fewer steps for all of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moltune.attribution.curvature import Curvature, GaussNewton, gradient_megabytes, kept_jacobian

# Below so many parameters, conjugate gradients take seconds as they are.
_SMALL = 4096


class FewMolecules:
    """r ↦ (2/m JᵀJ + n/m D)⁻¹ r for m random ones of n molecules, D = weight decay and damping of the curvature.

    By Woodbury's identity, in float32: it says where to go, not what is right. The idea is that of Zhang & Xiao 2015
    (DiSCO, arXiv:1501.00263): the curvature of a sample is close to that of all, and its inverse brings the spectrum
    together. A sample exaggerates the directions of its own molecules, the more the smaller it is; the larger diagonal
    allows for that (a choice made by trial, on one block and 64 to 400 of 2,940 molecules).

    Args:
        curvature: of all molecules, D above zero.
        count: m.
        seed: of the choice.

    Raises:
        NumericsError: a gradient is not finite; molecule and tensor are named.
    """

    def __init__(self, curvature: Curvature, count: int, *, seed: int = 0) -> None:
        n = len(curvature.positions)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:count]
        if isinstance(curvature, GaussNewton) and curvature.kept is not None:
            rows = curvature.kept[order.to(curvature.kept.device)]
        else:
            # Whoever asks for so many has seen to it that they fit.
            kept = kept_jacobian(curvature.train, [curvature.positions[place] for place in order.tolist()], math.inf)
            assert kept is not None
            rows = kept
        self.root = (curvature.diagonal * (n / count)).rsqrt().float()
        self.rows = rows.mul_(self.root)
        gram = (self.rows @ self.rows.T).double()
        gram.diagonal().add_(count / 2)
        self.factor = torch.linalg.cholesky(gram)

    def __call__(self, vector: Tensor) -> Tensor:
        """Of a vector (p,), float64."""
        scaled = vector.float() * self.root
        weights = torch.cholesky_solve((self.rows @ scaled).double()[:, None], self.factor)[:, 0].float()
        return ((scaled - self.rows.T @ weights) * self.root).double()


def few_molecules(curvature: Curvature, wanted: int, megabytes: float, seed: int) -> FewMolecules | None:
    """A preconditioner of at most ``wanted`` molecules whose gradients fit into so much memory; None where plain
    conjugate gradients do as well: few parameters, few molecules, or no damping.
    """
    fit = int(megabytes / gradient_megabytes(1, curvature.size))
    count = min(wanted, fit, len(curvature.positions) // 2)
    if curvature.size <= _SMALL or count < 1 or not bool((curvature.diagonal > 0).all()):
        return None
    return FewMolecules(curvature, count, seed=seed)
