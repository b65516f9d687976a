"""Do the scores of external molecules repeat? What `moltune influence` and `moltune uncertainty` say of it, tried.

    python benchmarks/repeatability.py RUN EXTERNAL [--seeds 5] [--scopes head,last-1] [--jacobian-mb 8192]

RUN is a finished fine-tuning run, EXTERNAL a file of labelled molecules. Influence: the rank correlation of the two
halves of the validation part, for several random halvings. Dropout: what the halves of the passes say another 30
passes would rank, against what other passes did rank; and whether as many passes as it asks for repeat as it says.

Writes benchmarks/results/repeatability.json; no molecule is in it.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine, write_result

from moltune.attribution.influence import influence
from moltune.config import DataSettings, InfluenceSettings, UncertaintySettings
from moltune.data.load import load_molecules
from moltune.data.molecules import Molecules
from moltune.evaluation.repeatability import TRUSTED, lengthened, rank_correlations
from moltune.run import Run
from moltune.uncertainty.estimate import uncertainty

PACKAGES = ("torch", "numpy", "scipy", "moltune")


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "min": min(values), "max": max(values)}


def halvings(run: Run, external: Molecules, scope: str, seeds: int, jacobian_mb: float) -> dict[str, Any]:
    """Rank correlation of halves of the validation part, and of whole scores, which differ in the solver's seed."""
    facts, scores = [], []
    for seed in range(seeds):
        settings = InfluenceSettings.model_validate({"scope": scope, "seed": seed, "jacobian_mb": jacobian_mb})
        found = influence(run, external, settings)
        facts.append(found.facts)
        scores.append(found.table["score"].to_numpy())
    return {
        "solver": facts[0]["solver"],
        "target_molecules": facts[0]["target_molecules"],
        "target_halves_rank_correlation": spread([fact["target_halves_rank_correlation"] for fact in facts]),
        "rank_repeatability": spread([fact["rank_repeatability"] for fact in facts]),
        "same_target_other_seed_rank_correlation": spread(rank_correlations(scores)),
    }


def passes(run: Run, external: Molecules, count: int, seeds: int) -> dict[str, Any]:
    """What so many passes say of their own repeatability, and the rank correlation that seeds have."""
    variances, said = [], []
    for seed in range(seeds):
        found = uncertainty(run.path, external, UncertaintySettings(passes=count, seed=seed))
        variances.append(found.table["variance"].to_numpy())
        said.append(found.facts["rank_repeatability"])
    pairs = rank_correlations(variances)
    return {"passes": count, "said": spread(said), "found": spread(pairs), "pairs": len(pairs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("external")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scopes", default="head,last-1")
    parser.add_argument("--jacobian-mb", type=float, default=8192, help="for gradients, in memory")
    arguments = parser.parse_args()
    # What the two commands warn of is what is measured here.
    logging.getLogger("moltune").setLevel(logging.ERROR)
    run = Run.load(arguments.run)
    external = load_molecules(arguments.external, DataSettings(clean=run.config.data.clean))
    result: dict[str, Any] = {"command": "repeatability.py RUN EXTERNAL", "external_molecules": len(external)}
    result["influence"] = {}
    for scope in arguments.scopes.split(","):
        result["influence"][scope] = halvings(run, external, scope, arguments.seeds, arguments.jacobian_mb)
        print(scope, json.dumps(result["influence"][scope], indent=1), flush=True)
    first = passes(run, external, 30, arguments.seeds)
    print(json.dumps(first, indent=1), flush=True)
    times = lengthened(first["said"]["mean"])
    result["dropout"] = [first]
    if times is not None and times > 1:
        result["dropout"].append({**passes(run, external, round(30 * times), 2), "meant_to_reach": TRUSTED})
        print(json.dumps(result["dropout"][-1], indent=1), flush=True)
    result["machine"] = describe_machine(*PACKAGES)
    print("wrote", write_result("repeatability", result))


if __name__ == "__main__":
    main()
