"""Solvers of (H + Λ + δ) x = v; each solution comes with its residual."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moltune.attribution.curvature import (
    Curvature,
    GaussNewton,
    ReducedGaussNewton,
    SamplePreconditioner,
    largest_eigenvalue,
    make_preconditioner,
)
from moltune.config import SolverSettings
from moltune.errors import ConfigError, NumericsError
from moltune.progress import StageReport, no_report, of_stage

# With more molecules, the products of their gradients take longer than the cheaper steps save.
_MOST_REDUCED = 1500


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    Attributes:
        x: float64, shape (p,).
        residual: ‖(H + Λ + δ) x − v‖ / ‖v‖ over all molecules of the curvature.
        converged: whether the residual is within the tolerance.
        seconds: wall-clock time, the residual's product included.
        repeats: x of each independent run of a stochastic solver.
        facts: further numbers of the solver, JSON-ready.
    """

    x: Tensor
    residual: float
    converged: bool
    seconds: float
    repeats: list[Tensor]
    facts: dict[str, Any]


class Solver(ABC):
    """x ≈ (H + Λ + δ)⁻¹ v."""

    name: str
    # Gradient similarity does not solve the system, so its residual is reported but not compared with the tolerance.
    judged = True
    # Name of the stage in progress reports.
    stage = "solving"

    def __init__(self, settings: SolverSettings | None = None, report: StageReport = no_report) -> None:
        self.settings, self.report = settings or SolverSettings(), report

    @abstractmethod
    def approximate(self, curvature: Curvature, v: Tensor) -> tuple[Tensor, list[Tensor], dict[str, Any]]:
        """x, the x of each repeat, and facts."""

    def solve(self, curvature: Curvature, v: Tensor) -> Solution:
        """Solve, and measure the residual with the whole curvature.

        Raises:
            NumericsError: the solution is not finite.
            ConfigError: the solver cannot treat this curvature.
        """
        started = time.monotonic()
        v = v.double()
        size = float(v.norm())
        if size == 0:
            raise NumericsError("the gradient of the target loss is exactly zero, so every influence is zero")
        x, repeats, facts = self.approximate(curvature, v)
        curvature.train.scope.check_finite(x, f"the solution of {self.name}")
        residual = float((curvature.product(x) - v).norm()) / size
        converged = not self.judged or residual <= self.settings.tolerance
        return Solution(x, residual, converged, time.monotonic() - started, repeats, facts)


class Identity(Solver):
    """x = v: the score is the similarity of gradients."""

    name = "identity"
    judged = False

    def approximate(self, curvature: Curvature, v: Tensor) -> tuple[Tensor, list[Tensor], dict[str, Any]]:
        """v itself."""
        return v.clone(), [], {}


class Exact(Solver):
    """A dense solve in float64, over parameters or over molecules, whichever are fewer.

    With D = Λ + δ and J of n molecules, Woodbury's identity gives
    (2/n JᵀJ + D)⁻¹ v = D⁻¹ v − D⁻¹Jᵀ (n/2 I + J D⁻¹ Jᵀ)⁻¹ J D⁻¹ v.
    """

    name = "exact"

    def approximate(self, curvature: Curvature, v: Tensor) -> tuple[Tensor, list[Tensor], dict[str, Any]]:
        """Dense solve; NumericsError for a matrix that is not positive semi-definite."""
        if isinstance(curvature, GaussNewton) and curvature.kept is not None and curvature.size > len(curvature.kept):
            gram = curvature.gram()
            gram.diagonal().add_(len(gram) / 2)
            scaled = v / curvature.diagonal
            change = curvature.transposed_times(torch.linalg.solve(gram, curvature.times(scaled)))
            return scaled - change / curvature.diagonal, [], {"form": "molecules"}
        matrix = curvature.dense()
        matrix = (matrix + matrix.T) / 2
        values = torch.linalg.eigvalsh(matrix)
        smallest = float(values[0])
        if smallest < -1e-9 * float(values[-1]):
            raise NumericsError(
                f"the curvature is not positive semi-definite (smallest eigenvalue {smallest:.3g}): raise the damping, "
                "or take the Gauss-Newton curvature"
            )
        return torch.linalg.solve(matrix, v), [], {"form": "parameters", "smallest_eigenvalue": smallest}


class ConjugateGradient(Solver):
    """Conjugate gradients (Hestenes & Stiefel 1952); stops at a tenth of the tolerance.

    With many parameters they are preconditioned by the curvature of a few molecules
    (:class:`~moltune.attribution.curvature.SamplePreconditioner`), which saves time and does not change the solution.
    """

    name = "cg"
    # The preconditioner is made once for all right-hand sides of a curvature.
    _made: tuple[Curvature, SamplePreconditioner | None] | None = None

    def approximate(self, curvature: Curvature, v: Tensor) -> tuple[Tensor, list[Tensor], dict[str, Any]]:
        """Iterate; NumericsError for a direction of negative curvature, which only a Hessian can have."""
        settings = self.settings
        if self._made is None or self._made[0] is not curvature:
            self.report(self.stage, 0)
            few = make_preconditioner(curvature, settings.precondition, settings.jacobian_mb, settings.seed)
            self._made = curvature, few
        few = self._made[1]
        precondition = few or (lambda vector: vector)
        x = torch.zeros_like(v)
        residual, direction = v.clone(), torch.zeros_like(v)
        # Infinity makes the first direction the preconditioned residual itself.
        squared, start = math.inf, float(v.norm())
        reduction, used = 1.0, 0
        while used < settings.iterations and reduction > 0.1 * settings.tolerance:
            preconditioned = precondition(residual)
            after = float(residual @ preconditioned)
            direction = preconditioned + (after / squared) * direction
            squared = after
            product = curvature.product(direction)
            along = float(direction @ product)
            if not math.isfinite(along):
                raise NumericsError("a product with the curvature is not finite")
            if along <= 0:
                raise NumericsError(
                    f"the curvature is not positive definite ({along:.3g} along a search direction of conjugate "
                    "gradients): raise the damping, or take the Gauss-Newton curvature"
                )
            used += 1
            step = squared / along
            x += step * direction
            residual -= step * product
            reduction = float(residual.norm()) / start
            share = math.log(max(reduction, 1e-300)) / math.log(0.1 * settings.tolerance)
            self.report(self.stage, min(1.0, max(0.0, share)))
        return x, [], {"iterations": used, **({"preconditioned_by": len(few.rows)} if few else {})}


class Lissa(Solver):
    """Stochastic Neumann series (Agarwal et al. 2017, JMLR 18, 116; Koh & Liang 2017, arXiv:1703.04730).

    Each step uses a batch B of molecules: x ← x + (1/σ) P (v − H_B x). σ is 1.1 times the largest eigenvalue of P H_B
    over some batches, by power iteration, so that every step contracts. With ``deflate=0``, P is the identity, as in
    the published recursion; otherwise P scales down the leading eigenvectors, estimated once from a part of the
    molecules, and σ is that of the remaining spectrum. The fixed point does not depend on P. The second half of the
    steps is averaged (Polyak & Juditsky 1992), and so are the repeats.

    Averaging reduces the noise of the batches only with the square root of the number of steps. Therefore the depth is
    cut into ``restarts`` + 1 equal stages, each of which solves for the remainder v − H x over all molecules (iterative
    refinement): its noise is proportional to that remainder, which shrinks geometrically. A stage that does not reduce
    the remainder is discarded, and no further stage starts once it is below half the tolerance.
    """

    name = "lissa"

    def approximate(self, curvature: Curvature, v: Tensor) -> tuple[Tensor, list[Tensor], dict[str, Any]]:
        """Run the repeats, in the coordinates of the molecules if the Jacobian is kept and there are fewer of these."""
        if (
            isinstance(curvature, GaussNewton)
            and curvature.kept is not None
            and len(curvature.kept) < min(curvature.size, _MOST_REDUCED)
            and bool((curvature.diagonal > 0).all())
        ):
            inner = ReducedGaussNewton(curvature, v, error=0.1 * self.settings.tolerance)
            # The residual has another norm there, and steps are cheap.
            strict = self.settings.model_copy(update={"tolerance": 0.1 * self.settings.tolerance})
            solver = Lissa(strict, self.report)
            solver.stage = self.stage
            x, repeats, facts = solver.approximate(inner, inner.right_side)
            return inner.restore(x), [inner.restore(repeat) for repeat in repeats], {**facts, "form": "molecules"}
        settings = self.settings
        generator = torch.Generator().manual_seed(settings.seed)
        batch = min(settings.batch_size, len(curvature.positions))
        precondition = self._preconditioner(curvature)
        batches = [_draw(curvature, batch, generator) for _ in range(4)]
        scale = 1.1 * max(
            largest_eigenvalue(curvature, positions, precondition=precondition, steps=10, seed=seed)
            for seed, positions in enumerate(batches)
        )
        if not scale > 0 or not math.isfinite(scale):
            raise NumericsError(f"the largest eigenvalue of the curvature is {scale}, which is not positive and finite")
        tick = of_stage(self.report, self.stage, settings.repeats * settings.depth)

        def series(v: Tensor, steps: int) -> Tensor:
            """Solve by the recursion; the mean over the second half of the steps."""
            x = precondition(v) / scale
            total = torch.zeros_like(x)
            limit = 1e8 * float(x.norm()) + 1
            for step in range(steps):
                positions = _draw(curvature, batch, generator)
                x = x + precondition(v - curvature.product(x, positions)) / scale
                if not float(x.norm()) < limit:
                    raise NumericsError(
                        f"lissa diverges (step {step + 1}, scale {scale:.3g}): the curvature of the batches differs "
                        "too much; raise --batch-size or the damping, or take the solver cg"
                    )
                tick(1)
                if step >= steps // 2:
                    total += x
            return total / (steps - steps // 2)

        repeats, steps = [], []
        for _ in range(settings.repeats):
            x, used = self._refine(curvature, v, series)
            tick(settings.depth - used)
            repeats.append(x)
            steps.append(used)
        facts = {
            "scale": scale,
            "depth": settings.depth,
            "steps": steps,
            "batch_size": batch,
            "deflated": settings.deflate,
        }
        return torch.stack(repeats).mean(dim=0), repeats, facts

    def _refine(self, curvature: Curvature, v: Tensor, series: Callable[[Tensor, int], Tensor]) -> tuple[Tensor, int]:
        """x of one repeat, and the steps it took."""
        depth, stages = self.settings.depth, min(self.settings.restarts + 1, self.settings.depth)
        if stages == 1:
            return series(v, depth), depth
        x, left = torch.zeros_like(v), v
        smallest, steps = float(v.norm()), 0
        enough = 0.5 * self.settings.tolerance * smallest
        for stage in range(stages):
            count = depth * (stage + 1) // stages - depth * stage // stages
            moved = x + series(left, count)
            steps += count
            after = v - curvature.product(moved)
            if float(after.norm()) < smallest:
                x, left, smallest = moved, after, float(after.norm())
            if smallest <= enough:
                break
        return x, steps

    def _preconditioner(self, curvature: Curvature) -> Callable[[Tensor], Tensor]:
        count = min(self.settings.deflate, curvature.size - 1, len(curvature.positions) - 1)
        if count < 1:
            return lambda vector: vector
        generator = torch.Generator().manual_seed(self.settings.seed + 1)
        some = _draw(curvature, min(256, len(curvature.positions)), generator)
        values, vectors = leading_eigenpairs(curvature, count + 1, some, seed=self.settings.seed)
        # The leading eigenvalues are brought down to the next one.
        floor, values, vectors = values[-1].clamp(min=1e-12), values[:-1], vectors[:, :-1]
        gain = (1 / values.clamp(min=float(floor)) - 1 / floor) * floor
        return lambda vector: vector + vectors @ (gain * (vectors.T @ vector))


def leading_eigenpairs(
    curvature: Curvature, count: int, positions: list[int], *, passes: int = 3, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Largest eigenvalues, descending, and eigenvectors (p, count) of the curvature of some molecules.

    Randomised subspace iteration (Halko et al. 2011, arXiv:0909.4061).
    """
    generator = torch.Generator().manual_seed(seed)
    width = min(count + 4, curvature.size)
    basis = torch.randn(curvature.size, width, generator=generator, dtype=torch.float64).to(curvature.diagonal.device)

    def apply(columns: Tensor) -> Tensor:
        return torch.stack([curvature.product(column, positions) for column in columns.T], dim=1)

    for _ in range(passes):
        basis = torch.linalg.qr(apply(basis)).Q
    small = basis.T @ apply(basis)
    values, inner = torch.linalg.eigh((small + small.T) / 2)
    order = torch.argsort(values, descending=True)[:count]
    return values[order], basis @ inner[:, order]


def _draw(curvature: Curvature, count: int, generator: torch.Generator) -> list[int]:
    chosen = torch.randperm(len(curvature.positions), generator=generator)[:count].tolist()
    return [curvature.positions[place] for place in chosen]


SOLVERS: dict[str, type[Solver]] = {solver.name: solver for solver in (ConjugateGradient, Exact, Lissa, Identity)}


def make_solver(name: str, settings: SolverSettings | None = None, report: StageReport = no_report) -> Solver:
    """Build a solver.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in SOLVERS:
        raise ConfigError(f"there is no solver {name!r}; choose one of: {', '.join(SOLVERS)}")
    return SOLVERS[name](settings, report)
