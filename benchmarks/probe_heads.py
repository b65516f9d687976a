"""Heads of a probe on protocol P: support vectors beside a Gaussian process that weighs each block of features.

    python benchmarks/probe_heads.py

Five stratified splits of the bundled sets, frozen embeddings of the bundled checkpoint alone and with other features;
the settings of both heads are their defaults. Writes ``results/probe_heads.json``.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from frozen_features import frozen_features
from machine import describe_machine, write_result

from moltune.baselines.classical import Part
from moltune.config import ProbeSettings, SplitSettings
from moltune.data.splitting.split import make_split
from moltune.evaluation.metrics import rmse
from moltune.features.registry import FeatureTable
from moltune.predictors.gaussian_process import GpHead
from moltune.predictors.probe import Probe

SETS = ("lipophilicity", "esol", "freesolv")
READS = (["embedding"], ["embedding", "rdkit-fast"], ["embedding", "rdkit-fast", "ionisation"])
SPLITS = 5


def measure(name: str) -> dict[str, Any]:
    """RMSE of each head on the parts of each split, by what it reads."""
    molecules, values = frozen_features(name)
    row = {text: at for at, text in enumerate(molecules.smiles)}
    table = FeatureTable(
        {one: lambda smiles, of=of: of[[row[text] for text in smiles]] for one, of in values.items()}, remember=False
    )
    splits = [make_split(molecules, SplitSettings(), seed) for seed in range(SPLITS)]

    def part(places: np.ndarray) -> Part:
        return [molecules.smiles[at] for at in places], np.asarray(molecules.target, dtype=np.float64)[places]

    result: dict[str, Any] = {}
    for reads in READS:
        for head in ("svr", "gp"):
            found: dict[str, Any] = {"validation": [], "test": [], "cpu_seconds": [], "weights": []}
            for seed, split in enumerate(splits):
                started = time.process_time()
                probe = Probe(ProbeSettings(head=head, features=reads), table).fit(part(split.train), seed=seed)
                found["cpu_seconds"].append(round(time.process_time() - started, 2))
                for name_of_part in ("validation", "test"):
                    smiles, true = part(getattr(split, name_of_part))
                    found[name_of_part].append(round(float(rmse(true, probe.predict(smiles))), 4))
                if isinstance(probe.head, GpHead):
                    found["weights"].append(probe.head.weights.round(4).tolist())
            label = f"{head}:{'+'.join(reads)}"
            result[label] = {**found, "mean_test": round(float(np.mean(found["test"])), 4)}
            print(name, label, np.mean(found["validation"]).round(4), result[label]["mean_test"], flush=True)
    return result


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sets = {name: measure(name) for name in SETS}
    machine = describe_machine("scikit-learn", "scipy", "numpy", "moltune")
    write_result("probe_heads", {"machine": machine, "splits": SPLITS, "sets": sets})


if __name__ == "__main__":
    main()
