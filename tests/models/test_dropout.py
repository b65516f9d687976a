"""Dropout from cheap random bits keeps torch's promises."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moltune.models.molformer.dropout import Dropout


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_share_and_mean(p: float) -> None:
    torch.manual_seed(0)
    n = 400_000
    found = Dropout(p).train()(torch.ones(n))
    deviation = (p * (1 - p) / n) ** 0.5
    assert abs(float((found == 0).float().mean()) - p) < 5 * deviation
    # What is kept is scaled so that the mean stays.
    assert float(found.max()) == pytest.approx(1 / (1 - p), rel=1e-4)
    assert float(found.mean()) == pytest.approx(1, abs=5 * deviation / (1 - p))


def test_neighbours_are_independent() -> None:
    torch.manual_seed(1)
    kept = (Dropout(0.3).train()(torch.ones(400_000)) > 0).float() - 0.7
    for distance in (1, 2, 3, 4, 8, 64):
        correlation = float((kept[:-distance] * kept[distance:]).mean()) / 0.21
        assert abs(correlation) < 0.01, distance


@pytest.mark.parametrize("shape", [(1,), (3,), (5, 7), (2, 3, 11)])
def test_gradient_goes_where_the_value_went(shape: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    x = torch.randn(shape, requires_grad=True)
    y = Dropout(0.4).train()(x)
    y.sum().backward()
    assert y.shape == shape
    torch.testing.assert_close(y, x * x.grad)


def test_seed_decides_and_evaluation_changes_nothing() -> None:
    layer, x = Dropout(0.2).train(), torch.randn(10, 33)
    torch.manual_seed(3)
    first = layer(x)
    second = layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)
    assert not torch.equal(second, first)
    assert layer.eval()(x) is x or torch.equal(layer(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)
    assert not Dropout(1.0).train()(x).any()


def test_other_precisions_and_its_kind() -> None:
    found = Dropout(0.5).train()(torch.ones(1000, dtype=torch.bfloat16))
    assert found.dtype == torch.bfloat16
    # Monte-Carlo dropout looks for this class.
    assert isinstance(Dropout(0.1), nn.Dropout)
