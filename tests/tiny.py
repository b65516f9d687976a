"""What tests of runs share: tiny checkpoints, the settings of a small run, and how runs are compared."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rdkit import Chem
from safetensors.torch import load_file
from torch import Tensor

from moltune import datasets
from moltune.models.molformer import MolformerConfig, MolformerModel, MolformerTokenizer
from moltune.overrides import set_nested
from moltune.run import Run


def tiny_config(**changes: Any) -> MolformerConfig:
    """One layer of width 32, with dropout and fresh random features at every step, as the published model."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return MolformerConfig(**{**sizes, "num_random_features": 16, **changes})


def save_tiny_molformer(folder: Path) -> Path:
    torch.manual_seed(0)
    MolformerModel(tiny_config(), add_pooling_layer=False).save_pretrained(folder)
    MolformerTokenizer().save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run of a second, with changes given as dotted names."""

    model: Path
    data: Path

    def __call__(self, output: Path | None = None, **changes: Any) -> dict[str, Any]:
        values: dict[str, Any] = {
            "data": {"source": str(self.data)},
            "model": {"name": str(self.model)},
            "training": {"epochs": 4, "threads": 1, "learning_rate": 1e-3},
            "evaluation": {"baselines": ["mean"], "bootstrap": 10, "figures": False},
        }
        for dotted, value in changes.items():
            set_nested(values, dotted, value)
        if output is not None:
            values["output"] = str(output)
        return values


def weights_of(run: Run) -> dict[str, Tensor]:
    return load_file(run.model_path / "model.safetensors")


def same_weights(first: Run, second: Run) -> bool:
    one, two = weights_of(first), weights_of(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def without_seconds(metrics: Any) -> Any:
    """Metrics without what differs between two equal runs."""
    if isinstance(metrics, dict):
        return {key: without_seconds(value) for key, value in metrics.items() if key not in ("seconds", "cost")}
    return metrics


def metrics_of(folder: Path) -> Any:
    return without_seconds(json.loads((folder / "metrics.json").read_text()))


def assert_same_run(first: Path, second: Path) -> None:
    """Metrics, history, predictions and weights are equal to the last bit."""
    assert metrics_of(first) == metrics_of(second)
    for name in ("history.csv", "predictions.csv", "splits.csv", "rejects.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert same_weights(Run.load(first), Run.load(second))


def said_of(name: str, *more: str) -> list[str]:
    """Columns that a small run adds to a table; with so few validation molecules it has no intervals."""
    suffixes = ("", *more, "_domain", "_reason", "_nearest", "_nearest_measured", "_similarity", "_measured")
    return [*(f"{name}{suffix}" for suffix in suffixes), "note"]


def table_with_gaps(both: int = 50, one: int = 40) -> pd.DataFrame:
    """Hydration (dG) and solubility (logS) of so many molecules with both and with each alone; two classes of dG."""
    sets = {"dG": datasets.load("freesolv"), "logS": datasets.load("esol")}
    for name, own in sets.items():
        own["smiles"] = own["smiles"].map(Chem.CanonSmiles)
        sets[name] = own.rename(columns={"hydration_free_energy": "dG"})[["smiles", name]].drop_duplicates("smiles")
    joined = sets["dG"].merge(sets["logS"], on="smiles", how="outer")
    has = joined[["dG", "logS"]].notna()
    parts = [joined[has.all(axis=1)][:both], joined[~has["logS"]][:one], joined[~has["dG"]][:one]]
    table = pd.concat(parts).sample(frac=1, random_state=0).reset_index(drop=True)
    polar = table["dG"].lt(-4).map({True: "yes", False: "no"})
    return table.assign(polar=polar.where(table["dG"].notna() & (table.index % 5 > 0)))
