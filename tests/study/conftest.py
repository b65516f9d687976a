"""A small study that runs in seconds: sixty alcohols and acids, and arms that cost nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="session")
def table() -> pd.DataFrame:
    """Sixty small molecules with a property that grows with the chain, and noise."""
    smiles = [f"{'C' * n}{end}" for n in range(1, 21) for end in ("O", "N", "C(=O)O")]
    noise = np.random.default_rng(0).normal(0, 0.2, len(smiles))
    y = [0.4 * len(text) + (0.5 if text.endswith("N") else 0.0) + e for text, e in zip(smiles, noise, strict=True)]
    return pd.DataFrame({"smiles": smiles, "y": y})


@pytest.fixture
def csv(table: pd.DataFrame, tmp_path: Path) -> Path:
    path = tmp_path / "molecules.csv"
    table.to_csv(path, index=False)
    return path


@pytest.fixture
def values(csv: Path) -> dict[str, Any]:
    """A recipe of two cheap arms on two splits with two seeds."""
    return {
        "name": "small",
        "data": {"source": str(csv)},
        "protocol": {"splits": 3, "seeds": 2, "split": {"bins": 3}},
        "arms": [
            {"name": "ridge", "kind": "baseline", "baseline": "ridge"},
            {"name": "forest", "kind": "baseline", "baseline": "random-forest"},
        ],
    }
