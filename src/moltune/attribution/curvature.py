"""Curvature of the training loss L(θ) = 1/n Σ (f(xᵢ) − yᵢ)² + ½ θᵀΛθ, Λ the weight decay of each parameter.

Gauss-Newton: G = 2/n JᵀJ + Λ, positive semi-definite whatever the residuals are. Hessian: G + 2/n Σ rᵢ ∇²f(xᵢ), which
need not be. Both with damping δ on the diagonal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from moltune.attribution.linearised import Linearised
from moltune.errors import ConfigError

_MOST_DENSE = 4096


class Curvature(ABC):
    """A symmetric operator H + Λ + δ on flat vectors.

    Args:
        train: the training molecules.
        decay: Λ as a vector, shape (p,).
        damping: δ.
        positions: molecules whose mean is the curvature; None: all.
    """

    name: str

    def __init__(
        self, train: Linearised, decay: Tensor, damping: float, positions: Sequence[int] | None = None
    ) -> None:
        self.train = train
        self.positions = list(range(len(train))) if positions is None else list(positions)
        self.diagonal = decay.double() + damping
        self.damping = damping

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.train.scope.size

    @abstractmethod
    def data_product(self, vector: Tensor, positions: Sequence[int]) -> Tensor:
        """H v over some molecules, without weight decay and damping; float64, shape (p,)."""

    def product(self, vector: Tensor, positions: Sequence[int] | None = None) -> Tensor:
        """(H + Λ + δ) v over all molecules of the curvature, or a batch of them; float64, shape (p,)."""
        data = self.data_product(vector, self.positions if positions is None else positions)
        return data + self.diagonal * vector.double()

    def dense(self) -> Tensor:
        """The whole matrix, float64, shape (p, p).

        Raises:
            ConfigError: it would be too large.
        """
        if self.size > _MOST_DENSE:
            raise ConfigError(
                f"a dense curvature of {self.size:,} parameters is too large (at most {_MOST_DENSE}); take the scope "
                "head, or the solver cg"
            )
        eye = torch.eye(self.size, dtype=torch.float64, device=self.diagonal.device)
        return torch.stack([self.product(column) for column in eye], dim=1)


class GaussNewton(Curvature):
    """2/n JᵀJ + Λ + δ. The Jacobian is kept where it fits into ``jacobian_mb``; a product is then two small ones."""

    name = "gauss-newton"

    def __init__(
        self,
        train: Linearised,
        decay: Tensor,
        damping: float,
        positions: Sequence[int] | None = None,
        *,
        jacobian_mb: float = 1024.0,
    ) -> None:
        super().__init__(train, decay, damping, positions)
        self._place = {position: row for row, position in enumerate(self.positions)}
        self.kept: Tensor | None = None
        if 4 * len(self.positions) * self.size <= jacobian_mb * 2**20:
            self.kept = train.jacobian(self.positions)
            for row in torch.nonzero(~torch.isfinite(self.kept).all(dim=1)).flatten()[:1]:
                smiles = train.inputs.smiles[self.positions[int(row)]]
                train.scope.check_finite(self.kept[int(row)], f"the gradient of {smiles}")

    def data_product(self, vector: Tensor, positions: Sequence[int]) -> Tensor:
        """2/b Jᵀ(J v)."""
        weight = 2 / len(positions)
        if self.kept is not None:
            whole = len(positions) == len(self.positions)
            rows = self.kept if whole else self.kept[[self._place[position] for position in positions]]
            return (rows.T @ (rows @ vector.to(rows.dtype))).double() * weight
        return self.train.vjp(self.train.jvp(vector, positions), positions) * weight

    def dense(self) -> Tensor:
        """The whole matrix in float64, from the Jacobian where that is kept."""
        if self.kept is None or self.size > _MOST_DENSE:
            return super().dense()
        rows = self.kept.double()
        return rows.T @ rows * (2 / len(rows)) + torch.diag(self.diagonal)


class Hessian(Curvature):
    """The true second derivative of the loss; it may be indefinite, and a solver then says so."""

    name = "hessian"

    def data_product(self, vector: Tensor, positions: Sequence[int]) -> Tensor:
        """Forward over reverse."""
        return self.train.loss_hessian_product(vector, positions)


def mean_eigenvalue(train: Linearised, positions: Sequence[int], seed: int, *, most: int = 256) -> float:
    """Trace of 2/n JᵀJ over its largest possible rank min(n, p), from up to ``most`` random molecules."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [positions[place] for place in torch.randperm(len(positions), generator=generator)[:most].tolist()]
    squares = 0.0
    # Few at a time: of all the gradients only their lengths are needed.
    step = max(1, 2**26 // train.scope.size)
    for start in range(0, len(chosen), step):
        squares += float((train.jacobian(chosen[start : start + step]).double() ** 2).sum())
    return 2 * squares / len(chosen) / min(len(positions), train.scope.size)


def largest_eigenvalue(
    curvature: Curvature, positions: Sequence[int] | None = None, *, steps: int = 20, seed: int = 0
) -> float:
    """Power iteration: the largest eigenvalue in size, from below."""
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(curvature.size, generator=generator, dtype=torch.float64).to(curvature.diagonal.device)
    value = 0.0
    for _ in range(steps):
        vector = curvature.product(vector / vector.norm(), positions)
        value = float(vector.norm())
        if value == 0 or not torch.isfinite(vector).all():
            break
    return value
