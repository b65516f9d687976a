"""Muon against the linear algebra it approximates, and on a problem with a known answer."""

from __future__ import annotations

import pytest
import torch

from moltune.pretraining.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(24, 24), (24, 60), (60, 24)])
def test_singular_values_come_close_to_one_and_directions_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    result = orthogonalise(matrix)
    assert result.shape == matrix.shape
    values = torch.linalg.svdvals(result)
    assert values.max() < 1.3
    # The smallest singular values of a square random matrix are too small for five steps.
    assert values.median() > 0.65
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    polar = left @ right
    assert torch.nn.functional.cosine_similarity(result.flatten(), polar.flatten(), dim=0) > 0.95


def test_scale_of_the_gradient_does_not_matter() -> None:
    matrix = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(orthogonalise(matrix * 1e-4), orthogonalise(matrix), rtol=1e-4, atol=1e-5)


def test_first_step_has_the_size_that_the_learning_rate_says() -> None:
    weight = torch.nn.Parameter(torch.zeros(32, 96))
    weight.grad = torch.randn(32, 96, generator=torch.Generator().manual_seed(2))
    Muon([weight], lr=0.01).step()
    # AdamW's updates have a root mean square of about 0.2 times the learning rate (arXiv:2502.16982).
    rms = float(weight.detach().square().mean().sqrt())
    assert rms == pytest.approx(0.2 * 0.01, rel=0.25)


def test_weight_decay_shrinks_without_a_gradient_step() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 0.95))


def test_it_finds_the_least_squares_solution() -> None:
    generator = torch.Generator().manual_seed(3)
    inputs, answer = torch.randn(200, 6, generator=generator), torch.randn(5, 6, generator=generator)
    weight = torch.nn.Parameter(torch.zeros(5, 6))
    optimizer = Muon([weight], lr=0.3)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 300)
        loss = (inputs @ weight.T - inputs @ answer.T).square().mean()
        weight.grad = torch.autograd.grad(loss, weight)[0]
        optimizer.step()
    assert float(loss.detach()) < 1e-3
