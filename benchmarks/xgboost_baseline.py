"""The XGBoost baseline's settings beside their neighbours, and what the shipped ones reach on Lipophilicity.

Candidates are compared by their mean RMSE on the validation parts of random 70/10/20 splits; only the settings that
moltune ships are evaluated on the test parts. Seconds depend on what else the machine
does meanwhile. Writes ``benchmarks/results/xgboost_baseline.json``.

    python benchmarks/xgboost_baseline.py --seeds 3
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from moltune.baselines.classical import XGBoostBaseline
from moltune.config import SplitSettings
from moltune.data.load import load_molecules
from moltune.data.splitting.split import make_split
from moltune.evaluation.metrics import rmse
from moltune.features.registry import CLASSICAL, FeatureTable

CANDIDATES: list[dict[str, Any]] = [
    {},
    {"learning_rate": 0.05},
    {"max_bin": 256},
    {"max_depth": 5},
    {"max_depth": 8},
    {"min_child_weight": 6},
    {"reg_lambda": 5},
    {"colsample_bytree": 0.15},
    {"subsample": 0.6},
]
RESULT = Path(__file__).parent / "results" / "xgboost_baseline.json"


def run_one(changes: dict[str, Any], parts: dict[str, Any], features: FeatureTable, seed: int) -> dict[str, Any]:
    baseline = XGBoostBaseline(features)
    baseline.settings = {**XGBoostBaseline.settings, **changes}
    start = time.perf_counter()
    baseline.fit(parts["train"], parts["validation"], seed)
    result = {"seconds": time.perf_counter() - start, "rounds": int(baseline.model_.best_iteration) + 1}
    # The test part is looked at for the shipped settings alone.
    for part in ("validation", "test") if not changes else ("validation",):
        smiles, target = parts[part]
        result[part] = float(rmse(target, baseline.predict(smiles)))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=len(CANDIDATES))
    arguments = parser.parse_args()
    molecules = load_molecules("lipophilicity")
    features, start = FeatureTable(), time.perf_counter()
    features.get(CLASSICAL, molecules.smiles)
    report: dict[str, Any] = {
        "data": "lipophilicity",
        "molecules": len(molecules),
        "split": "random 70/10/20",
        "seeds": arguments.seeds,
        "feature_seconds": time.perf_counter() - start,
        "shipped": dict(XGBoostBaseline.settings),
        "candidates": [],
    }
    smiles, target = np.array(molecules.smiles), molecules.target
    for changes in CANDIDATES[: arguments.candidates]:
        runs = []
        for seed in range(arguments.seeds):
            split = make_split(molecules, SplitSettings(method="random"), seed)
            parts = {part: (smiles[rows].tolist(), target[rows]) for part, rows in split.parts().items()}
            runs.append(run_one(changes, parts, features, seed))
        means = {f"mean_{key}": float(np.mean([run[key] for run in runs])) for key in runs[0]}
        report["candidates"].append({"changes": changes, **means, "runs": runs})
        print(changes or "shipped", {key: round(value, 4) for key, value in means.items()}, flush=True)
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
