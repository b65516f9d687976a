"""The ready-made models in the package: what they promise, and predictions without a run, torch or network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from moltune import datasets
from moltune.predictors.predictor import Predictor
from moltune.ready import catalogue
from moltune.run import Run

SETS = {"lipophilicity": "lipophilicity", "solubility": "esol", "hydration": "freesolv"}
MOST_BYTES = 6_000_000


@pytest.mark.parametrize("name", [f"{name}{end}" for name in SETS for end in ("", catalogue.FAST)])
def test_card_and_files_say_the_same(name: str) -> None:
    card, folder = catalogue.cards()[name], catalogue.path_of(name)
    assert folder is not None
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= MOST_BYTES
    crossed = Run.load(folder).metrics["cross_validation"]
    assert card.error["rmse"] == pytest.approx(crossed["rmse"]["value"], abs=1e-4)
    assert card.molecules == crossed["n"] == len(Run.load(folder).splits)
    assert 0.88 <= card.intervals["coverage"] <= 0.92


def test_each_property_has_a_best_and_a_fast_model() -> None:
    assert sorted(catalogue.names()) == sorted(SETS)
    assert sorted(catalogue.names(fast=True)) == sorted(f"{name}{catalogue.FAST}" for name in SETS)
    for name in SETS:
        best, fast = catalogue.cards()[name], catalogue.cards()[f"{name}{catalogue.FAST}"]
        assert best.error["rmse"] < fast.error["rmse"]
        assert fast.features == ["embedding"]


@pytest.mark.parametrize("name", SETS)
def test_training_molecules_are_known_and_near_their_values(name: str) -> None:
    table = datasets.load(SETS[name]).iloc[::60]
    target = datasets.info(SETS[name]).target
    found = Predictor.load(name).predict(table["smiles"].tolist())
    assert found["predicted_measured"].notna().mean() > 0.95
    spread = table[target].std()
    assert np.sqrt(np.mean((found["predicted"].to_numpy() - table[target].to_numpy()) ** 2)) < 0.4 * spread
    assert (found["predicted_domain"] == "in").mean() > 0.8


def test_no_run_is_needed_and_torch_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import contextlib, sys; from moltune.cli.app import app\n"
        "with contextlib.suppress(SystemExit): app(['predict', 'CC(=O)Oc1ccccc1C(=O)O', 'CCO', '-q'])\n"
        "print([name for name in ('torch', 'transformers', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    head, aspirin, ethanol, heavy = done.stdout.strip().splitlines()
    assert heavy == "[]", done.stderr
    columns = head.split(",")
    for value in ("logD", "logS (mol/L)", "hydration_free_energy (kcal/mol)"):
        assert np.isfinite(float(aspirin.split(",")[columns.index(value)]))
    assert "OUTSIDE OF THE DOMAIN: 1 for logD" in done.stderr
    assert ",out," in ethanol
