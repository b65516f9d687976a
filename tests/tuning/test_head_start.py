from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from moltune.models.checkpoints import load_tokenizer, make_regression
from moltune.models.inference import embed_smiles, predict_smiles
from moltune.models.regression import RegressionModel
from moltune.tuning.head_start import start_head


def fresh(tiny_model: Path, target: np.ndarray, head: str = "mean") -> RegressionModel:
    torch.manual_seed(0)
    return make_regression(tiny_model, head=head, target_mean=float(target.mean()), target_std=float(target.std()))


@pytest.fixture(scope="module")
def molecules(small_table: pd.DataFrame) -> tuple[list[str], np.ndarray]:
    return small_table["smiles"].tolist(), small_table["hydration_free_energy"].to_numpy(dtype=np.float64)


@pytest.mark.parametrize("head", ["mean", "cls"])
def test_a_fitted_head_starts_below_the_variance_in_the_targets_unit(
    tiny_model: Path, molecules: tuple[list[str], np.ndarray], head: str
) -> None:
    smiles, target = molecules
    model, tokenizer = fresh(tiny_model, target, head), load_tokenizer(tiny_model)
    before = np.mean((predict_smiles(model, tokenizer, smiles) - target) ** 2)
    assert start_head(model, tokenizer, smiles, target)
    after = np.mean((predict_smiles(model, tokenizer, smiles) - target) ** 2)
    assert after < before
    assert after <= target.var() * 1.001


def test_the_head_is_fitted_for_noisy_embeddings(tiny_model: Path, molecules: tuple[list[str], np.ndarray]) -> None:
    """With dropout on, as in training, the loss must not exceed the variance: that is what the noise is there for."""
    smiles, target = molecules
    model, tokenizer = fresh(tiny_model, target), load_tokenizer(tiny_model)
    start_head(model, tokenizer, smiles, target)
    noisy = torch.as_tensor(embed_smiles(model, tokenizer, smiles, noisy=True), dtype=torch.float32)
    with torch.no_grad():
        standardised = model.head.out_proj(noisy).squeeze(-1).numpy()
    expected = (target - model.config.target_mean) / model.config.target_std
    assert np.mean((standardised - expected) ** 2) < 1.05


def test_only_the_head_changes_and_a_seed_gives_it_twice(
    tiny_model: Path, molecules: tuple[list[str], np.ndarray]
) -> None:
    smiles, target = molecules
    tokenizer = load_tokenizer(tiny_model)
    weights = []
    for _ in range(2):
        model = fresh(tiny_model, target)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        start_head(model, tokenizer, smiles, target)
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {"head.out_proj.weight", "head.out_proj.bias"}
        weights.append(model.head.out_proj.weight.detach().clone())
    assert torch.equal(*weights)


def test_a_head_that_is_not_one_linear_layer_stays(tiny_model: Path, molecules: tuple[list[str], np.ndarray]) -> None:
    smiles, target = molecules
    model = fresh(tiny_model, target, "molformer")
    before = model.head.out_proj.weight.detach().clone()
    assert not start_head(model, load_tokenizer(tiny_model), smiles, target)
    assert torch.equal(model.head.out_proj.weight, before)


def test_noisy_embeddings_differ_and_clean_ones_do_not(
    tiny_model: Path, molecules: tuple[list[str], np.ndarray]
) -> None:
    smiles, target = molecules
    model, tokenizer = fresh(tiny_model, target).eval(), load_tokenizer(tiny_model)
    clean = [embed_smiles(model, tokenizer, smiles[:5]) for _ in range(2)]
    noisy = [embed_smiles(model, tokenizer, smiles[:5], noisy=True) for _ in range(2)]
    assert np.array_equal(*clean)
    assert not np.allclose(*noisy)
    assert not model.training
