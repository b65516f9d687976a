"""Curvature of the training loss L(θ) = 1/n Σ ℓ(f(xᵢ), yᵢ) + ½ θᵀΛθ, Λ the weight decay of each parameter.

Gauss-Newton: G = 2/n JᵀWJ + Λ, always positive semi-definite; W has ½ℓ″ of each molecule on its diagonal. Hessian:
G + 1/n Σ ℓ′ ∇²f(xᵢ), which may be indefinite. Both have damping δ on the diagonal. With squared errors W is 1; with the
log loss of classes it is half of p(1 − p), times the weight of the class, and G is the Fisher matrix. Below, J stands
for W^½J.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from moltune.attribution.linearised import Linearised
from moltune.errors import ConfigError

_MOST_DENSE = 4096
# Columns at a time; larger blocks would be allocated again by the system for each product.
_BLOCK = 8192
_ROUNDING = 1e-7
# With so few parameters, conjugate gradients take seconds without a preconditioner.
_SMALL = 4096


class Curvature(ABC):
    """A symmetric operator H + Λ + δ on flat vectors.

    Args:
        train: the training molecules.
        decay: Λ as a vector, shape (p,).
        damping: δ.
        positions: molecules whose mean is the curvature; None: all.
    """

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
        return len(self.diagonal)

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
    """2/n JᵀJ + Λ + δ.

    With a weighted Jacobian (float32, shape (len(positions), p)) a product is two small ones; without it, two passes
    through the model.
    """

    def __init__(
        self,
        train: Linearised,
        decay: Tensor,
        damping: float,
        positions: Sequence[int] | None = None,
        *,
        jacobian: Tensor | None = None,
    ) -> None:
        super().__init__(train, decay, damping, positions)
        self._place = {position: row for row, position in enumerate(self.positions)}
        self.kept = jacobian

    def data_product(self, vector: Tensor, positions: Sequence[int]) -> Tensor:
        """2/b Jᵀ(J v)."""
        weight = 2 / len(positions)
        if self.kept is not None:
            whole = len(positions) == len(self.positions)
            rows = self.kept if whole else self.kept[[self._place[position] for position in positions]]
            return (rows.T @ (rows @ vector.to(rows.dtype))).double() * weight
        along, half = self.train.jvp(vector, positions), self.train.half_curvatures(positions)
        return self.train.vjp(along if half is None else half * along, positions) * weight

    def dense(self) -> Tensor:
        """The whole matrix in float64, from the Jacobian where that is kept."""
        if self.kept is None or self.size > _MOST_DENSE:
            return super().dense()
        rows = self.kept.double()
        return rows.T @ rows * (2 / len(rows)) + torch.diag(self.diagonal)

    def gram(self, *, double: bool = True) -> Tensor:
        """J D⁻¹ Jᵀ of the kept Jacobian, with D = Λ + δ; float64, shape (n, n).

        Args:
            double: multiply in float64. Otherwise blocks are multiplied in float32 and summed in float64, which takes
                two fifths of the time, with an error of about 1e-8 of the largest eigenvalue.

        Raises:
            ConfigError: D is zero somewhere, or the Jacobian is not kept.
        """
        if self.kept is None or not (self.diagonal > 0).all():
            raise ConfigError("a solve over molecules needs the Jacobian in memory, and damping above zero")
        total = torch.zeros(len(self.kept), len(self.kept), dtype=torch.float64, device=self.kept.device)
        for block, root in zip(self._blocks(), self.diagonal.rsqrt().split(_BLOCK), strict=True):
            scaled = block.double() * root if double else block * root.float()
            total += (scaled @ scaled.T).double()
        return total

    def times(self, vector: Tensor) -> Tensor:
        """J v with the kept Jacobian; float64, shape (n,)."""
        pieces = zip(self._blocks(), vector.double().split(_BLOCK), strict=True)
        return torch.stack([block.double() @ piece for block, piece in pieces]).sum(dim=0)

    def transposed_times(self, weights: Tensor) -> Tensor:
        """Jᵀ w with the kept Jacobian; float64, shape (p,)."""
        return torch.cat([block.double().T @ weights.double() for block in self._blocks()])

    def _blocks(self) -> Sequence[Tensor]:
        assert self.kept is not None
        return self.kept.split(_BLOCK, dim=1)


class ReducedGaussNewton(GaussNewton):
    """The same Gauss-Newton operator in no more coordinates than there are molecules.

    With D = Λ + δ, z = D^½ x and J D^-½ = U S Wᵀ, the operator becomes 2/n W S² Wᵀ + 1: it acts on the coordinates
    q = Wᵀz and is the identity orthogonal to all gradients. A system can therefore be solved for q, where a product
    with b molecules takes n·b multiplications instead of p·b; :meth:`restore` returns to x.

    Args:
        curvature: with the Jacobian kept, and D above zero.
        v: the right-hand side, shape (p,).
        error: residual that rounding of the coordinates may cause. They are computed in float32 if the error allows
            it, which takes less than half the time, and otherwise in float64.
    """

    def __init__(self, curvature: GaussNewton, v: Tensor, *, error: float = 0.0) -> None:
        self.outer = curvature
        self.double = error == 0
        squares, left = torch.linalg.eigh(curvature.gram(double=self.double))
        # Rounding changes eigenvalues by this share of the largest one; the smallest one of the operator is 1.
        if not self.double and _ROUNDING * 2 / len(squares) * float(squares[-1]) > error:
            self.double = True
            squares, left = torch.linalg.eigh(curvature.gram())
        found = squares > (1e-12 if self.double else _ROUNDING) * squares[-1]
        self.singular, self.left = squares[found].sqrt(), left[:, found]
        rows = self.left * self.singular
        super().__init__(curvature.train, torch.zeros_like(self.singular), 1.0, range(len(rows)), jacobian=rows)
        self.scaled = v.double() / curvature.diagonal
        self.right_side = self.left.T @ curvature.times(self.scaled) / self.singular

    def restore(self, q: Tensor) -> Tensor:
        """x of the original problem, shape (p,)."""
        change = self.left @ ((q - self.right_side) / self.singular)
        return self.scaled + self.outer.transposed_times(change) / self.outer.diagonal


class Hessian(Curvature):
    """The second derivative of the loss; solvers raise NumericsError where it is indefinite."""

    def data_product(self, vector: Tensor, positions: Sequence[int]) -> Tensor:
        """Forward over reverse."""
        return self.train.loss_hessian_product(vector, positions)


def gradient_megabytes(molecules: int, parameters: int) -> float:
    """Memory of the gradients of some molecules in float32, in MiB."""
    return 4 * molecules * parameters / 2**20


class SamplePreconditioner:
    """r ↦ (2/m JᵀJ + n/m D)⁻¹ r for m of n molecules drawn at random, D = weight decay and damping of the curvature.

    By Woodbury's identity, in float32, which is enough for a preconditioner. The idea is that of Zhang & Xiao 2015
    (DiSCO, arXiv:1501.00263): the curvature of a sample is close to that of all, so its inverse narrows the spectrum.
    The smaller a sample, the more it overestimates the curvature along its own gradients; the diagonal times n/m
    compensates for that (chosen empirically, on one block and 64 to 400 of 2,940 molecules).

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
            rows = curvature.train.weighted_jacobian([curvature.positions[place] for place in order.tolist()])
        self.root = (curvature.diagonal * (n / count)).rsqrt().float()
        self.rows = rows.mul_(self.root)
        gram = (self.rows @ self.rows.T).double()
        gram.diagonal().add_(count / 2)
        self.factor = torch.linalg.cholesky(gram)

    def __call__(self, vector: Tensor) -> Tensor:
        """Apply to a vector, shape (p,); float64."""
        scaled = vector.float() * self.root
        weights = torch.cholesky_solve((self.rows @ scaled).double()[:, None], self.factor)[:, 0].float()
        return ((scaled - self.rows.T @ weights) * self.root).double()


def make_preconditioner(curvature: Curvature, wanted: int, megabytes: float, seed: int) -> SamplePreconditioner | None:
    """A preconditioner of at most ``wanted`` molecules whose gradients fit into ``megabytes``.

    None where it does not pay (few parameters or few molecules) or does not exist (no damping).
    """
    count = min(wanted, int(megabytes / gradient_megabytes(1, curvature.size)), len(curvature.positions) // 2)
    if curvature.size <= _SMALL or count < 1 or not bool((curvature.diagonal > 0).all()):
        return None
    return SamplePreconditioner(curvature, count, seed=seed)


def mean_eigenvalue(
    train: Linearised, positions: Sequence[int], seed: int, *, most: int = 256, jacobian: Tensor | None = None
) -> float:
    """Trace of 2/n JᵀJ over its largest possible rank min(n, p), from up to ``most`` random molecules.

    Args:
        train: the molecules.
        positions: those of the curvature.
        seed: of the choice.
        most: upper limit of the sample.
        jacobian: weighted gradients of all ``positions``, if they are in memory.
    """
    places = torch.randperm(len(positions), generator=torch.Generator().manual_seed(seed))[:most].tolist()
    # A few gradients at a time, because only their norms are needed.
    step = 1 if jacobian is not None else max(1, 2**26 // train.scope.size)
    squares = 0.0
    for start in range(0, len(places), step):
        some = places[start : start + step]
        rows = train.weighted_jacobian([positions[place] for place in some]) if jacobian is None else jacobian[some]
        squares += float((rows.double() ** 2).sum())
    return 2 * squares / len(places) / min(len(positions), train.scope.size)


def largest_eigenvalue(
    curvature: Curvature,
    positions: Sequence[int] | None = None,
    *,
    precondition: Callable[[Tensor], Tensor] | None = None,
    steps: int = 20,
    seed: int = 0,
) -> float:
    """Largest eigenvalue in size, from below, of H or of P H with a preconditioner P, by power iteration."""
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(curvature.size, generator=generator, dtype=torch.float64).to(curvature.diagonal.device)
    value = 0.0
    for _ in range(steps):
        vector = curvature.product(vector / vector.norm(), positions)
        vector = vector if precondition is None else precondition(vector)
        value = float(vector.norm())
        if value == 0 or not torch.isfinite(vector).all():
            break
    return value
