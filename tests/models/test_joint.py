"""Several properties on one encoder: what a gap does, and what the properties weigh."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moltune.models.checkpoints import load_tokenizer, make_regression
from moltune.models.joint import JointModel, equal_weights
from moltune.models.regression import RegressionModel

SMILES = ["CCO", "CCCN", "c1ccccc1", "CC(=O)O", "CCCl", "OCCO"]
WEIGHTS = (1.0, 2.5, 0.7)


@pytest.fixture(scope="module")
def joint(tiny_model: Path) -> JointModel:
    """Numbers, classes with weights, and numbers on another scale."""
    torch.manual_seed(1)
    first = make_regression(tiny_model, target_mean=1.0, target_std=2.0)
    members = [first]
    for own in ({"classes": ["no", "yes"]}, {"target_mean": -300.0, "target_std": 70.0}):
        members.append(make_regression(tiny_model, encoder=first.encoder, **own))
    members[1].class_weights = (0.8, 1.7)
    return JointModel(members, WEIGHTS).eval()


@pytest.fixture(scope="module")
def tokens(tiny_model: Path) -> dict[str, Tensor]:
    return dict(load_tokenizer(tiny_model)(SMILES, padding=True, return_tensors="pt"))


def labels() -> Tensor:
    numbers = np.random.default_rng(0).normal(size=(len(SMILES), 3)) * [2.0, 0.0, 70.0] + [1.0, 0.0, -300.0]
    numbers[:, 1] = [0, 1, 1, 0, 1, 0]
    return torch.as_tensor(numbers, dtype=torch.float32)


def gradients(joint: JointModel, loss: Tensor) -> list[Tensor]:
    parameters = list(joint.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def by_itself(one: RegressionModel, tokens: dict[str, Tensor], known: Tensor, values: Tensor) -> Tensor:
    """The loss of one property's own model on the molecules that have a value."""
    return one(**{name: own[known] for name, own in tokens.items()}, labels=values[known]).loss


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=len(SMILES), max_size=len(SMILES)))
@settings(max_examples=25)
def test_a_gap_influences_neither_loss_nor_gradient(
    joint: JointModel, tokens: dict[str, Tensor], mask: list[list[bool]]
) -> None:
    known = torch.tensor(mask)
    values = labels()
    with_gaps = torch.where(known, values, torch.nan)
    loss = joint(**tokens, labels=with_gaps).loss
    expected = torch.zeros(())
    for at, one in enumerate(joint.members):
        if known[:, at].any():
            own = by_itself(one, tokens, known[:, at], values[:, at])
            expected = expected + WEIGHTS[at] * own * known[:, at].float().mean()
    torch.testing.assert_close(loss, expected)
    if known.any():
        for found, wanted in zip(gradients(joint, loss), gradients(joint, expected), strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    for at, head in enumerate(joint.head):
        if known.any() and not known[:, at].any():
            again = joint(**tokens, labels=with_gaps).loss
            found = torch.autograd.grad(again, list(head.parameters()), allow_unused=True)
            assert all(one is None or not one.any() for one in found)


def test_one_property_is_its_own_model(joint: JointModel, tokens: dict[str, Tensor]) -> None:
    for at, one in enumerate(joint.members):
        alone, values = JointModel([one], equal_weights(labels().numpy()[:, [at]])), labels()[:, at]
        found, wanted = alone(**tokens, labels=values[:, None]), one(**tokens, labels=values)
        assert torch.equal(found.loss, wanted.loss)
        assert torch.equal(found.logits, wanted.logits)


def test_predictions_are_those_of_the_members(joint: JointModel, tokens: dict[str, Tensor]) -> None:
    found = joint(**tokens)
    assert found.loss is None
    for at, one in enumerate(joint.members):
        torch.testing.assert_close(found.logits[:, at : at + 1], one(**tokens).logits)


def test_parameters_are_those_of_one_encoder_and_each_head(joint: JointModel) -> None:
    names = [name for name, _ in joint.named_parameters()]
    assert len(names) == len(set(names))
    encoder = sum(p.numel() for p in joint.encoder.parameters())
    heads = sum(p.numel() for one in joint.members for p in one.head.parameters())
    assert sum(p.numel() for p in joint.parameters()) == encoder + heads
    assert {name.split(".")[0] for name in names} == {"encoder", "head"}


def test_each_property_weighs_the_same(joint: JointModel) -> None:
    values = labels().numpy()
    values[1:, 0] = values[2:5, 2] = np.nan
    weights = equal_weights(values)
    shares = [weight * np.mean(~np.isnan(own)) for weight, own in zip(weights, values.T, strict=True)]
    assert shares == pytest.approx([1 / 3] * 3)
    assert equal_weights(values[:, [1]]) == [1.0]
