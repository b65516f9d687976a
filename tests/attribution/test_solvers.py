from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from moltune.attribution.curvature import (
    Curvature,
    GaussNewton,
    Hessian,
    ReducedGaussNewton,
    SamplePreconditioner,
    largest_eigenvalue,
    make_preconditioner,
    mean_eigenvalue,
)
from moltune.attribution.linearised import Linearised
from moltune.attribution.solvers import leading_eigenpairs, make_solver
from moltune.config import SolverSettings
from moltune.errors import ConfigError, NumericsError

Make = Callable[..., Linearised]


def curvature_of(made: Linearised, damping: float = 1e-3, *, keep: bool = True) -> GaussNewton:
    jacobian = made.jacobian(range(len(made))) if keep else None
    return GaussNewton(made, made.scope.decay(0.01), damping, jacobian=jacobian)


def test_gauss_newton_matrix_is_its_definition_and_does_not_depend_on_the_cache(linearise: Make) -> None:
    made = linearise("head", 0, 40)
    rows = made.jacobian(range(40)).double()
    expected = 2 / 40 * rows.T @ rows + torch.diag(made.scope.decay(0.01) + 1e-3)
    for keep in (True, False):
        torch.testing.assert_close(curvature_of(made, keep=keep).dense(), expected, rtol=1e-4, atol=1e-5)
    # The bias of the head is no matrix, so it is not decayed.
    assert made.scope.decay(0.01).tolist() == [pytest.approx(0.01)] * 32 + [0.0]


def test_eigenvalues(linearise: Make) -> None:
    made = linearise("head", 0, 40)
    curvature = curvature_of(made)
    values = torch.linalg.eigvalsh(curvature.dense())
    assert largest_eigenvalue(curvature) == pytest.approx(float(values[-1]), rel=1e-3)
    found, vectors = leading_eigenpairs(curvature, 3, curvature.positions, passes=6)
    np.testing.assert_allclose(found.numpy(), values.flip(0)[:3].numpy(), rtol=0.02)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-8)
    rows = made.jacobian(range(40)).double()
    assert mean_eigenvalue(made, range(40), 0) == pytest.approx(float(2 / 40 * (rows**2).sum() / 33))
    assert mean_eigenvalue(made, range(40), 0, most=10) == pytest.approx(
        mean_eigenvalue(made, range(40), 0, most=10, jacobian=made.jacobian(range(40))), rel=1e-4
    )
    assert mean_eigenvalue(made, range(40), 0, most=10) == pytest.approx(mean_eigenvalue(made, range(40), 0), rel=0.5)


@pytest.mark.parametrize("name", ["cg", "lissa"])
def test_iterative_solvers_agree_with_the_dense_solve_on_the_head(linearise: Make, name: str) -> None:
    made, other = linearise("head", 0, 80), linearise("head", 80, 120)
    curvature = curvature_of(made, 1e-2)
    v = other.loss_gradient()
    exact = make_solver("exact").solve(curvature, v)
    assert exact.residual < 1e-6
    found = make_solver(name, SolverSettings(depth=1500, batch_size=40, repeats=3)).solve(curvature, v)
    assert found.converged
    assert found.residual < 1e-2
    scores, truth = other.jvp(found.x).numpy(), other.jvp(exact.x).numpy()
    assert spearmanr(scores, truth).statistic > 0.99
    assert (len(found.repeats) == 3) == (name == "lissa")


def test_exact_solve_among_molecules_is_that_among_parameters(linearise: Make) -> None:
    made, other = linearise("head", 0, 20), linearise("head", 80, 120)
    curvature = curvature_of(made, 1e-2)
    v = other.loss_gradient()
    found = make_solver("exact").solve(curvature, v)
    assert found.facts["form"] == "molecules"
    torch.testing.assert_close(found.x, torch.linalg.solve(curvature.dense(), v), rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match="damping"):
        make_solver("exact").solve(curvature_of(made, 0.0), v)


def test_the_operator_among_molecules_is_the_same_operator(linearise: Make) -> None:
    """Weight decay on matrices alone makes its diagonal uneven, as in real use."""
    made, other = linearise("last-1", 0, 25), linearise("last-1", 80, 120)
    curvature = curvature_of(made, 1e-2)
    v = other.loss_gradient()
    inner = ReducedGaussNewton(curvature, v)
    assert inner.size <= 25 < curvature.size
    x = inner.restore(torch.linalg.solve(inner.dense(), inner.right_side))
    assert float((curvature.product(x) - v).norm() / v.norm()) < 1e-4
    batch = [3, 7, 11]
    q = torch.linspace(-1, 1, inner.size, dtype=torch.float64)
    # The coordinates of H_B applied to W q, found in the long way.
    assert curvature.kept is not None
    scaled = curvature.kept.double() / curvature.diagonal.sqrt()
    basis = scaled.T @ (inner.left / inner.singular)
    rows = scaled[batch]
    expected = basis.T @ (rows.T @ (rows @ (basis @ q))) * (2 / 3) + q
    torch.testing.assert_close(inner.product(q, batch), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("damping", "error", "double"), [(1e-1, 1e-3, False), (1e-1, 1e-9, True), (1e-7, 1e-3, True)])
def test_coordinates_from_products_in_float32_are_taken_where_they_are_good_enough(
    linearise: Make, damping: float, error: float, double: bool
) -> None:
    made, other = linearise("last-1", 0, 25), linearise("last-1", 80, 120)
    curvature = GaussNewton(
        made,
        torch.zeros(made.scope.size, dtype=torch.float64),
        damping,
        jacobian=made.jacobian(range(25)),
    )
    v = other.loss_gradient()
    inner = ReducedGaussNewton(curvature, v, error=error)
    assert inner.double == double
    x = inner.restore(torch.linalg.solve(inner.dense(), inner.right_side))
    # The operator is applied in float64 here, so that its own rounding is not what is measured.
    assert curvature.kept is not None
    rows = curvature.kept.double()
    left = rows.T @ (rows @ x) * (2 / 25) + damping * x - v
    assert float(left.norm() / v.norm()) < max(error, 1e-8)


def test_coordinates_before_the_scope_are_computed_where_they_are_needed(linearise: Make) -> None:
    made = linearise("last-1", 0, 30)
    assert not made.inputs._kept
    rows = made.jacobian([4, 9])
    assert sorted(made.inputs._kept) == [4, 9]
    torch.testing.assert_close(made.jacobian(range(30))[[4, 9]], rows, rtol=1e-4, atol=1e-6)


def test_on_a_whole_block_cg_and_lissa_agree_with_the_exact_solve(linearise: Make) -> None:
    made, other = linearise("last-1", 0, 60), linearise("last-1", 80, 120)
    curvature = curvature_of(made, 0.3)
    v = other.loss_gradient()
    truth = other.jvp(make_solver("exact").solve(curvature, v).x).numpy()
    for name in ("cg", "lissa"):
        found = make_solver(name, SolverSettings(depth=400, batch_size=30, repeats=2)).solve(curvature, v)
        assert spearmanr(other.jvp(found.x).numpy(), truth).statistic > 0.98, name


def test_restarts_take_the_noise_of_the_batches_out_of_lissa(linearise: Make) -> None:
    """At the same depth the recursion without restarts stays above the tolerance: its noise falls as a root."""
    made, other = linearise("head", 0, 80), linearise("head", 80, 120)
    curvature, v = curvature_of(made, 1e-2), other.loss_gradient()
    settings = SolverSettings(depth=1000, batch_size=8, repeats=1)
    once = make_solver("lissa", settings.model_copy(update={"restarts": 0})).solve(curvature, v)
    again = make_solver("lissa", settings).solve(curvature, v)
    assert again.residual < 1e-2 < 3e-2 < once.residual
    # It stops once that is good enough, and a stage that makes things worse is not taken.
    assert again.facts["steps"][0] <= 1000
    hopeless = make_solver("lissa", settings.model_copy(update={"depth": 10})).solve(curvature, v)
    assert hopeless.residual <= 1


def test_a_solver_that_stops_too_early_says_so(linearise: Make) -> None:
    made, other = linearise("head", 0, 80), linearise("head", 80, 120)
    v = other.loss_gradient()
    hasty = make_solver("cg", SolverSettings(iterations=1, tolerance=1e-4)).solve(curvature_of(made, 1e-4), v)
    assert not hasty.converged
    assert hasty.residual > 1e-4
    same = make_solver("identity").solve(curvature_of(made), v)
    assert torch.equal(same.x, v)
    assert same.converged


def test_negative_curvature_is_an_error_and_damping_cures_it(linearise: Make) -> None:
    made, other = linearise("last-1", 0, 6), linearise("last-1", 80, 90)
    # Targets far away make the second term of the Hessian large, of either sign.
    made.target = made.target + 50
    v = other.loss_gradient()
    with pytest.raises(NumericsError, match="not positive definite"):
        make_solver("cg").solve(Hessian(made, made.scope.decay(0.0), 0.0), v)
    strong = Hessian(made, made.scope.decay(0.0), 2 * largest_eigenvalue(Hessian(made, made.scope.decay(0.0), 0.0)))
    assert make_solver("cg").solve(strong, v).converged


def test_gauss_newton_is_the_hessian_where_the_model_is_linear(linearise: Make) -> None:
    made = linearise("head", 0, 40)
    hessian = Hessian(made, made.scope.decay(0.01), 1e-3)
    torch.testing.assert_close(hessian.dense(), curvature_of(made).dense(), rtol=1e-4, atol=1e-5)


def test_unknown_solvers_list_the_known() -> None:
    with pytest.raises(ConfigError, match="cg, exact, lissa, identity"):
        make_solver("newton")


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("kind", [GaussNewton, Hessian])
def test_a_preconditioner_shortens_the_way_and_changes_nothing_else(
    linearise: Make, kind: type[Curvature], kept: bool
) -> None:
    made, other = linearise("last-1", 0, 80), linearise("last-1", 80, 120)
    assert made.scope.size > 4096
    gauss_newton = curvature_of(made, 1e-2, keep=kept)
    # A Hessian is positive where the damping outweighs its second term.
    hessian = Hessian(made, made.scope.decay(0.01), 0.5 * largest_eigenvalue(gauss_newton))
    curvature = gauss_newton if kind is GaussNewton else hessian
    v = other.loss_gradient()
    strict = {"tolerance": 1e-4}
    plain = make_solver("cg", SolverSettings.model_validate({**strict, "precondition": 0})).solve(curvature, v)
    short = make_solver("cg", SolverSettings.model_validate({**strict, "precondition": 40})).solve(curvature, v)
    assert short.facts["preconditioned_by"] == 40
    assert "preconditioned_by" not in plain.facts
    assert plain.converged
    assert short.converged
    assert short.facts["iterations"] < plain.facts["iterations"]
    torch.testing.assert_close(short.x, plain.x, rtol=1e-3, atol=1e-3 * float(plain.x.abs().max()))


def test_a_preconditioner_is_the_inverse_of_its_own_molecules_curvature(linearise: Make) -> None:
    made = linearise("head", 0, 40)
    curvature = curvature_of(made, 1e-2)
    few = SamplePreconditioner(curvature, 10, seed=3)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))[:10]
    rows = made.jacobian(order.tolist()).double()
    matrix = 2 / 10 * rows.T @ rows + torch.diag(4 * curvature.diagonal)
    v = linearise("head", 80, 120).loss_gradient()
    torch.testing.assert_close(few(v), torch.linalg.solve(matrix, v), rtol=1e-3, atol=1e-5)
    # The curvature's own gradients are as they were.
    torch.testing.assert_close(curvature.kept, made.jacobian(range(40)))


def test_where_a_preconditioner_is_not_worth_it(linearise: Make) -> None:
    small, large = curvature_of(linearise("head", 0, 40)), curvature_of(linearise("last-1", 0, 40))
    assert make_preconditioner(small, 10, 1024.0, 0) is None
    assert make_preconditioner(large, 0, 1024.0, 0) is None
    assert make_preconditioner(GaussNewton(large.train, 0 * large.diagonal, 0.0), 10, 1024.0, 0) is None
    made = make_preconditioner(large, 1000, 1024.0, 0)
    assert made is not None
    assert len(made.rows) == 20
    room = 5.5 * 4 * large.size / 2**20
    made = make_preconditioner(large, 1000, room, 0)
    assert made is not None
    assert len(made.rows) == 5


@pytest.mark.parametrize(("name", "scope"), [("cg", "last-1"), ("lissa", "last-1"), ("lissa", "head")])
def test_progress_goes_from_nothing_to_all(linearise: Make, name: str, scope: str) -> None:
    made, other = linearise(scope, 0, 40), linearise(scope, 80, 100)
    told: list[tuple[str, float]] = []
    solver = make_solver(name, SolverSettings(depth=50), lambda stage, share: told.append((stage, share)))
    solver.stage = "looking"
    solver.solve(curvature_of(made, 0.1), other.loss_gradient())
    assert {stage for stage, _ in told} == {"looking"}
    shares = [share for _, share in told]
    assert shares[-1] == pytest.approx(1.0)
    assert all(0 <= share <= 1 + 1e-9 for share in shares)
    assert len(shares) > 3


def test_a_preconditioner_names_a_gradient_that_is_not_finite(linearise: Make) -> None:
    made = linearise("last-1", 0, 8)
    made.inputs.prepare(range(len(made)))
    for states in made.inputs._kept.values():
        states[0, 5] = float("inf")
    with pytest.raises(NumericsError, match=r"gradient of .*is not finite"):
        make_preconditioner(GaussNewton(made, made.scope.decay(0.01), 1e-2), 4, 1024.0, 0)
