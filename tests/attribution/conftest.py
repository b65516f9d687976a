"""A tiny regression model and molecules, linearised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from moltune.attribution.inputs import Inputs
from moltune.attribution.linearised import Linearised
from moltune.attribution.scope import choose_scope
from moltune.models.checkpoints import load_tokenizer, make_regression
from moltune.models.regression import RegressionModel


@pytest.fixture(scope="session")
def network(tiny_model: Path, small_table: pd.DataFrame) -> RegressionModel:
    torch.manual_seed(3)
    target = small_table["hydration_free_energy"]
    model = make_regression(
        tiny_model, head="mean", target_mean=float(target.mean()), target_std=float(target.std(ddof=0))
    )
    return model.eval()


@pytest.fixture(scope="session")
def linearise(network: RegressionModel, tiny_model: Path, small_table: pd.DataFrame) -> Callable[..., Linearised]:
    """``linearise(scope, start, stop)``: some rows of the small table."""
    tokenizer = load_tokenizer(tiny_model)

    def make(scope: str, start: int = 0, stop: int = 80, tokens: int = 256) -> Linearised:
        chosen = choose_scope(network, scope)
        rows = small_table.iloc[start:stop]
        inputs = Inputs(network, chosen, tokenizer, rows["smiles"].tolist())
        target = (rows["hydration_free_energy"].to_numpy(dtype=np.float64) - network.config.target_mean) / (
            network.config.target_std
        )
        return Linearised(inputs, chosen, torch.as_tensor(target), tokens)

    return make
