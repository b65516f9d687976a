from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.func import functional_call

from moltune.attribution.inputs import Inputs
from moltune.attribution.linearised import Linearised
from moltune.attribution.scope import choose_scope
from moltune.errors import ConfigError, NumericsError
from moltune.models.checkpoints import load_tokenizer
from moltune.models.inference import predict_smiles
from moltune.models.regression import RegressionModel

Make = Callable[..., Linearised]
SCOPES = ["head", "last-1", "all"]


def gradients_by_hand(network: RegressionModel, made: Linearised) -> torch.Tensor:
    """Plain autograd, one molecule at a time, through the whole model."""
    tokens = made.inputs.dataset
    rows = []
    for position in range(len(made)):
        parameters = {name: value.clone().requires_grad_() for name, value in made.scope.parameters.items()}
        ids = torch.tensor([tokens.input_ids[position]])
        logits = functional_call(
            network, parameters, kwargs={"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        ).logits
        standardised = (logits.squeeze() - network.config.target_mean) / network.config.target_std
        found = torch.autograd.grad(standardised, list(parameters.values()), allow_unused=True)
        rows.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).flatten()
                    for g, p in zip(found, parameters.values(), strict=True)
                ]
            )
        )
    return torch.stack(rows).double()


@pytest.mark.parametrize("scope", SCOPES)
def test_products_are_those_of_the_jacobian_by_plain_autograd(
    network: RegressionModel, linearise: Make, scope: str
) -> None:
    made = linearise(scope, 0, 12)
    expected = gradients_by_hand(network, made)
    torch.testing.assert_close(made.jacobian(range(12)).double(), expected, rtol=1e-3, atol=1e-5)
    v = torch.randn(made.scope.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made.jvp(v), expected @ v, rtol=1e-3, atol=1e-4)
    some = [7, 2, 9]
    torch.testing.assert_close(made.jvp(v, some), (expected @ v)[some], rtol=1e-3, atol=1e-4)
    w = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(made.vjp(w, some), w @ expected[some], rtol=1e-3, atol=1e-5)
    along = made.loss_jvp(v)
    torch.testing.assert_close(along, 2 * (made.predicted - made.target) * (expected @ v), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(along.mean(), made.loss_gradient() @ v, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scope", SCOPES)
def test_predictions_are_the_model_s(network: RegressionModel, linearise: Make, scope: str) -> None:
    made = linearise(scope, 0, 12)
    direct = predict_smiles(network, load_tokenizer(network.config.base_model), made.inputs.smiles)
    ours = made.predicted.numpy() * network.config.target_std + network.config.target_mean
    assert abs(ours - direct).max() < 1e-4


def test_hessian_product_is_that_of_two_backward_passes(network: RegressionModel, linearise: Make) -> None:
    made = linearise("last-1", 0, 8)
    v = torch.randn(made.scope.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parameters = {name: value.clone().requires_grad_() for name, value in made.scope.parameters.items()}
    losses = []
    for position in range(8):
        ids = torch.tensor([made.inputs.dataset.input_ids[position]])
        logits = functional_call(network, parameters, kwargs={"input_ids": ids}).logits
        standardised = (logits.squeeze() - network.config.target_mean) / network.config.target_std
        losses.append((standardised - made.target[position].float()) ** 2)
    wanted = list(parameters.values())
    first = torch.autograd.grad(torch.stack(losses).mean(), wanted, create_graph=True)
    along = sum((g * part).sum() for g, part in zip(first, made.scope.unflatten(v).values(), strict=True))
    second = torch.autograd.grad(along, wanted, allow_unused=True)
    expected = torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(second, wanted, strict=True)]
    ).double()
    product = made.loss_hessian_product(v, range(8))
    assert float((product - expected).norm() / expected.norm()) < 1e-3


def test_scopes_nest_and_wrong_ones_are_explained(network: RegressionModel) -> None:
    sizes = [choose_scope(network, scope).size for scope in SCOPES]
    assert sizes[0] == 33
    assert sizes == sorted(sizes)
    assert sizes[-1] == sum(parameter.numel() for parameter in network.parameters())
    assert not any("embeddings" in name for name in choose_scope(network, "last-1").parameters)
    for wrong in ("last-2", "tail", "adapter"):
        with pytest.raises(ConfigError):
            choose_scope(network, wrong)


def test_chunks_hold_every_molecule_once_within_their_bound(linearise: Make) -> None:
    made = linearise("all", 0, 40, 64)
    chunks = made.inputs.chunks(range(40), 64)
    assert sorted(position for chunk in chunks for position in chunk) == list(range(40))
    for chunk in chunks:
        assert len(chunk) == 1 or len(chunk) * max(made.inputs.lengths[i] for i in chunk) <= 64


def test_a_gradient_that_is_not_finite_names_molecule_and_tensor(network: RegressionModel, linearise: Make) -> None:
    import copy

    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken.head.out_proj.weight[0, 3] = float("nan")
    made = linearise("head", 0, 4)
    scope = choose_scope(broken, "head")
    inputs = Inputs(broken, scope, load_tokenizer(network.config.base_model), made.inputs.smiles)
    with pytest.raises(NumericsError, match="not finite"):
        _ = Linearised(inputs, scope, made.target).predicted
    healthy = linearise("head", 0, 4)
    healthy.inputs.prepare(range(len(healthy)))
    healthy.inputs._kept[2][0, 5] = float("inf")
    with pytest.raises(NumericsError, match=r"(?s)gradient of .*head\.out_proj\.weight"):
        healthy.jvp(torch.ones(healthy.scope.size, dtype=torch.float64))
