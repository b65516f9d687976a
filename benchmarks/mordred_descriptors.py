"""Mordred's two-dimensional descriptors beside RDKit's: what they cost, and what they know of lipophilicity.

    pip install mordredcommunity                       # best in an environment of its own
    python benchmarks/mordred_descriptors.py [--molecules 1500]

Candidates for the targets of pretraining (CheMeleon, arXiv:2506.15792, learned Mordred's). For random molecules of
Lipophilicity, one process: molecules per second of processor time of the targets that ``moltune pretrain`` learns, of
RDKit's 217 descriptors, and of Mordred's; how many of them are finite and not constant; and the validation RMSE of
support vectors on each set and on both, over three splits. Test parts are not looked at.
Writes ``benchmarks/results/mordred_descriptors.json``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from machine import describe_machine, write_result
from mordred import Calculator, descriptors
from rdkit import Chem
from svr_validation import svr_validation

from moltune.config import SplitSettings
from moltune.data.load import load_molecules
from moltune.data.splitting.split import make_split
from moltune.features.descriptors import rdkit_descriptors
from moltune.features.physchem import physchem

SPLITS = (0, 1, 2)
PENALTIES = (2.0, 5.0, 10.0)
CLIP = 10.0


def mordred(smiles: list[str]) -> np.ndarray:
    """Mordred's 2-D descriptors, float64, (n, 1613); NaN where one does not exist."""
    calculate = Calculator(descriptors, ignore_3D=True)
    rows = [calculate(Chem.MolFromSmiles(one)).fill_missing(np.nan) for one in smiles]
    return np.array([list(row) for row in rows], dtype=np.float64)


def usable(values: np.ndarray) -> np.ndarray:
    """Columns that are finite everywhere and not constant."""
    with np.errstate(all="ignore"):
        return values[:, np.isfinite(values).all(axis=0) & (np.nanstd(values, axis=0) > 1e-9)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=int, default=1500, help="so many at random")
    count = parser.parse_args().molecules
    warnings.filterwarnings("ignore")
    molecules = load_molecules("lipophilicity")
    kept = set(np.random.default_rng(0).choice(len(molecules), min(count, len(molecules)), replace=False).tolist())
    molecules = molecules.reject({i: "not drawn" for i in range(len(molecules)) if i not in kept})
    smiles = list(molecules.smiles)
    sets: dict[str, Callable[[list[str]], np.ndarray]] = {
        "targets of pretraining": lambda given: np.asarray(physchem(given), dtype=np.float64),
        "RDKit": lambda given: rdkit_descriptors(given, n_jobs=1).to_numpy(dtype=np.float64),
        "Mordred": mordred,
    }
    found: dict[str, Any] = {}
    values: dict[str, np.ndarray] = {}
    for name, make in sets.items():
        started = time.process_time()
        raw = make(smiles)
        seconds = time.process_time() - started
        values[name] = usable(raw)
        found[name] = {
            "descriptors": raw.shape[1],
            "usable": values[name].shape[1],
            "molecules_per_second": round(len(smiles) / seconds, 1),
        }
        print(name, found[name], flush=True)
    values["RDKit and Mordred"] = np.hstack([values["RDKit"], values["Mordred"]])
    splits = [make_split(molecules, SplitSettings(), seed) for seed in SPLITS]
    target = np.asarray(molecules.target, dtype=np.float64)
    for name, features in values.items():
        found.setdefault(name, {})["validation_rmse"] = svr_validation(features, target, splits, PENALTIES, clip=CLIP)
        print(name, found[name], flush=True)
    machine = describe_machine("rdkit", "mordredcommunity", "scikit-learn", "numpy", "moltune")
    write_result("mordred_descriptors", {"machine": machine, "molecules": len(smiles), "sets": found})


if __name__ == "__main__":
    main()
