"""Numbers that tell a user what a data set is like before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from rdkit import Chem

from moltune.data.chemistry import parse_all, scaffold_smiles
from moltune.data.load import reason_counts
from moltune.data.molecules import Molecules
from moltune.data.splitting.split import Split

_QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}


def describe(molecules: Molecules, split: Split | None = None) -> dict[str, Any]:
    """Counts, target, sizes, elements, scaffolds and special cases, ready for JSON.

    Keys: ``columns`` (structure, target and unit; None where there is none), ``rows_in``, ``kept``, ``rejected``
    (with counts by reason), ``bounds``, ``duplicates``, ``conflicts``, ``target`` (None without targets; standard
    deviation with ddof 1), ``smiles_length`` (characters), ``heavy_atoms``, ``elements`` (molecules that contain
    each), ``scaffolds``, ``acyclic``, ``stereo`` (molecules with a stereocentre or stereo double bond),
    ``stereo_open`` (those where one is not specified), ``charged`` (net charge), ``with_charged_atoms``,
    ``multi_fragment``; with a split, ``parts`` gives size and target summary of each part.
    """
    mols = parse_all(molecules.smiles)
    scaffolds = Counter(scaffold_smiles(mol) for mol in mols)
    acyclic = scaffolds.pop("", 0)
    stereo = [[info.specified for info in Chem.FindPotentialStereo(mol)] for mol in mols]
    summary: dict[str, Any] = {
        "columns": {
            "structure": molecules.provenance.get("smiles_column"),
            "target": molecules.provenance.get("target_column"),
            "unit": molecules.unit or None,
        },
        "rows_in": molecules.rows_in,
        "kept": len(molecules),
        "rejected": len(molecules.rejected),
        "rejected_by_reason": reason_counts(molecules),
        "bounds": len(molecules.bounds),
        "duplicates": molecules.provenance.get("duplicates"),
        "conflicts": len(molecules.conflicts),
        "target": _numbers(molecules.target),
        "smiles_length": _numbers(np.array([len(text) for text in molecules.smiles], dtype=np.float64)),
        "heavy_atoms": _numbers(np.array([mol.GetNumHeavyAtoms() for mol in mols], dtype=np.float64)),
        "elements": _elements(mols),
        "scaffolds": len(scaffolds),
        "singleton_scaffolds": sum(count == 1 for count in scaffolds.values()),
        "largest_scaffold": max(scaffolds.values(), default=0),
        "acyclic": acyclic,
        "stereo": sum(len(found) > 0 for found in stereo),
        "stereo_open": sum(Chem.StereoSpecified.Unspecified in found for found in stereo),
        "charged": sum(Chem.GetFormalCharge(mol) != 0 for mol in mols),
        "with_charged_atoms": sum(any(atom.GetFormalCharge() for atom in mol.GetAtoms()) for mol in mols),
        "multi_fragment": sum(len(Chem.GetMolFrags(mol)) > 1 for mol in mols),
    }
    if split is not None:
        summary["parts"] = {
            name: {"n": len(positions), "target": _numbers(molecules.target[positions])}
            for name, positions in split.parts().items()
        }
    return summary


def _numbers(values: np.ndarray) -> dict[str, float] | None:
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return None
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    quantiles = np.quantile(values, list(_QUANTILES.values())).tolist()
    shape = dict(zip(_QUANTILES, quantiles, strict=True))
    return {"n": len(values), "mean": float(values.mean()), "sd": spread, **shape}


def _elements(mols: list[Chem.Mol]) -> dict[str, int]:
    counts = Counter(symbol for mol in mols for symbol in {atom.GetSymbol() for atom in mol.GetAtoms()})
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
