"""One encoder for three properties against one for each: logD, logS and hydration free energy of the bundled sets.

    python benchmarks/several_properties.py [--splits 2] [--folder runs/several-properties]

The three sets are joined by canonical SMILES. moltune/mini is fine-tuned with the usual settings, on all properties
together (``finetune_several``) and on each alone, with the same molecules in the same parts; test RMSE of the tuned
model by itself, without a blend. Finished runs in the folder are not repeated.

Writes benchmarks/results/several_properties.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
from machine import describe_machine, write_result
from rdkit import Chem

from moltune import datasets
from moltune.run import Run
from moltune.tuning.finetune import finetune
from moltune.tuning.several import finetune_several

SETS = {"logD": "lipophilicity", "logS": "esol", "dG": "freesolv"}
USUAL: dict[str, Any] = {
    "training": {"threads": 1},
    "evaluation": {"baselines": [], "bootstrap": 0, "figures": False, "training_part": False},
    "prediction": {"blend": []},
}


def joined_table() -> pd.DataFrame:
    """Columns ``smiles`` and one of each property, with gaps."""
    table: pd.DataFrame | None = None
    for name, source in SETS.items():
        own = datasets.load(source).rename(columns={"hydration_free_energy": "dG"})[["smiles", name]]
        own = own.assign(smiles=own["smiles"].map(Chem.CanonSmiles)).drop_duplicates("smiles")
        table = own if table is None else table.merge(own, on="smiles", how="outer")
    assert table is not None
    return table


def run_split(folder: Path, seed: int) -> dict[str, Any]:
    """RMSE on test and validation part of both arms on one split."""
    data = {"source": str(folder / "all.csv"), "target": list(SETS)}
    together = finetune_several({**USUAL, "data": data, "seed": seed, "output": folder / f"joint-{seed}"}, resume=True)
    row: dict[str, Any] = {"split": seed}
    for name, run in together.items():
        own = run.predictions.rename(columns={"true": name})[["smiles", name, "split"]]
        source = folder / f"{name}-{seed}.csv"
        own.to_csv(source, index=False)
        settings = {
            "data": {"source": str(source), "target": name},
            "split": {"method": "column", "column": "split"},
            "seed": seed,
            "output": folder / f"alone-{name}-{seed}",
        }
        alone = finetune({**USUAL, **settings}, resume=True)
        row[name] = {"joint": facts(run), "alone": facts(alone)}
    return row


def facts(run: Run) -> dict[str, Any]:
    """Errors, and the epoch that was kept."""
    metrics = run.metrics
    errors = {part: round(metrics[part]["rmse"]["value"], 4) for part in ("test", "validation")}
    return {**errors, "molecules": metrics["test"]["n"], "epoch": metrics["best_epoch"], "of": metrics["epochs"]}


def main() -> None:
    """Run every split and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/several-properties"))
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    table = joined_table()
    table.to_csv(folder / "all.csv", index=False)
    rows = []
    for seed in range(arguments.splits):
        rows.append(run_split(folder, seed))
        print(rows[-1], flush=True)
        write_result(
            "several_properties",
            {
                "machine": describe_machine("torch", "numpy", "scikit-learn"),
                "molecules": {"all": len(table), **table[list(SETS)].notna().sum().to_dict()},
                "splits": rows,
            },
        )


if __name__ == "__main__":
    main()
