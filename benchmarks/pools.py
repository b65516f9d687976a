"""Fine-tuned models of Lipophilicity for the benchmarks of influence, with a pool held out of each training part.

    python benchmarks/pools.py FOLDER [--splits 5]

FOLDER/full is a run on all 2,940 training molecules of split 0; FOLDER/split-K on those of split K less a pool of 600.
Runs that are there already are kept.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import moltune
from moltune.config import SplitSettings
from moltune.data.load import load_molecules, molecules_from_lists
from moltune.data.molecules import Molecules
from moltune.data.splitting.split import make_split
from moltune.run import Run

POOL, CORRUPTED = 600, 0.3


@dataclass(frozen=True)
class Pool:
    """Molecules held out of a run's training part, with some labels permuted among themselves.

    Attributes:
        molecules: with the labels to score.
        corrupted: whose label was permuted, bool, shape (n,).
        clean: their true labels, shape (n,).
    """

    molecules: Molecules
    corrupted: np.ndarray
    clean: np.ndarray


def held_out(train: np.ndarray, split: int, pool: int = POOL) -> np.ndarray:
    """Positions of the pool among those of a training part."""
    return np.sort(np.random.default_rng(split).choice(train, pool, replace=False))


def tuned(folder: Path, split: int, *, pool: int = POOL) -> tuple[Run, Molecules]:
    """The run of a split without its pool, and the pool's molecules with their true labels.

    The run is made where it is not there.
    """
    everything = load_molecules("lipophilicity")
    parts = make_split(everything, SplitSettings(), split)
    held = held_out(parts.train, split, pool)
    others = np.setdiff1d(np.arange(len(everything)), held)
    apart = everything.reject(dict.fromkeys(others.tolist(), "not in the pool"))
    path = folder / (f"split-{split}" if pool else "full")
    if (path / "metrics.json").is_file():
        return Run.load(path), apart
    rest = everything.reject(dict.fromkeys(held.tolist(), "held out as a pool"))
    rows = everything.table["row"].to_numpy()
    outside = set(held.tolist())
    index = {
        name: [int(rows[position]) for position in positions if position not in outside]
        for name, positions in parts.parts().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / f"{path.name}.json"
    listed.write_text(json.dumps(index))
    run = moltune.finetune(
        {
            "data": {"source": "lipophilicity"},
            "model": {"name": "moltune/mini"},
            "split": {"method": "index", "index_file": str(listed)},
            "training": {"threads": 1},
            "evaluation": {"baselines": ["mean"], "figures": False},
            "seed": split,
            "output": str(path),
        },
        molecules=rest,
        overwrite=path.exists(),
    )
    return run, apart


def corrupt(pool: Molecules, seed: int, share: float = CORRUPTED) -> Pool:
    """Permute the labels of a share of the molecules among these."""
    rng = np.random.default_rng([seed, 1])
    chosen = rng.choice(len(pool), round(share * len(pool)), replace=False)
    labels = pool.target.copy()
    labels[chosen] = labels[rng.permutation(chosen)]
    corrupted = np.zeros(len(pool), dtype=bool)
    corrupted[chosen] = True
    return Pool(molecules_from_lists(pool.smiles, labels.tolist()), corrupted, pool.target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--splits", type=int, default=5)
    arguments = parser.parse_args()
    for split, pool in [(0, 0), *((number, POOL) for number in range(arguments.splits))]:
        run, _ = tuned(arguments.folder, split, pool=pool)
        print(run.path.name, run.metrics["test"]["rmse"], flush=True)


if __name__ == "__main__":
    main()
