"""Descriptors and fingerprints of RDKit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
from rdkit import Chem
from rdkit.Chem import Descriptors, rdFingerprintGenerator

from moltune.data.chemistry import parse_all, rdkit_log
from moltune.features.processes import of_parts

_CHUNK = 64
_SLOW = ("qed", "SPS", "BertzCT", "Ipc", "AvgIpc", "BCUT2D")
_LARGEST = float(np.finfo(np.float32).max)


def rdkit_descriptors(smiles: Sequence[str], *, n_jobs: int = 1, fast: bool = False) -> pd.DataFrame:
    """All two-dimensional descriptors of RDKit (``Descriptors.descList``), about 217 of them.

    Args:
        smiles: n valid SMILES.
        n_jobs: worker processes; -1: one per core. The values do not depend on it. A drug-like molecule takes about
            8 ms of one core, so workers pay off from several hundred molecules on.
        fast: leave out those that take half of the time (QED, SPS, BertzCT, Ipc, AvgIpc and BCUT2D), about 13.

    Returns:
        float64, shape (n, number of descriptors), index 0..n-1. A descriptor that RDKit cannot compute, or that is
        not finite, is NaN; values outside the range of float32 (``Ipc`` of large molecules) are clipped to it.

    Raises:
        DataError: a SMILES is not valid; the message names its position.
    """
    names, texts = [name for name, _ in _functions(fast)], list(smiles)
    parts = [(texts[start : start + _CHUNK], start, fast) for start in range(0, len(texts), _CHUNK)]
    blocks = of_parts(_descriptor_block, parts, n_jobs)
    return pd.DataFrame(np.concatenate([np.empty((0, len(names))), *blocks]), columns=names)


def _functions(fast: bool) -> list[tuple[str, Callable[[Chem.Mol], float]]]:
    # Without force, RDKit computes the electrotopological states of a molecule once.
    return [
        (name, partial(function, force=False) if "EStateIndex" in name else function)
        for name, function in Descriptors.descList
        if not (fast and name.startswith(_SLOW))
    ]


def _descriptor_block(smiles: list[str], start: int, fast: bool) -> np.ndarray:
    functions = _functions(fast)
    with rdkit_log():
        rows = [[_value(function, mol) for _, function in functions] for mol in parse_all(smiles, start)]
    values = np.array(rows, dtype=np.float64).reshape(len(rows), len(functions))
    values[~np.isfinite(values)] = np.nan
    return np.clip(values, -_LARGEST, _LARGEST)


def _value(function: Callable[[Chem.Mol], float], mol: Chem.Mol) -> float:
    # What RDKit's functions raise is not documented, and one of them must not cost the others.
    try:
        return function(mol)
    except Exception:
        return np.nan


def morgan_counts(smiles: Sequence[str], radius: int = 2, size: int = 2048) -> np.ndarray:
    """Morgan count fingerprints (Rogers and Hahn 2010, doi:10.1021/ci100050t), uint8, shape (n, size).

    Counts above 255 are set to 255.

    Raises:
        DataError: a SMILES is not valid; the message names its position.
    """
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=size)
    counts = np.zeros((len(smiles), size), dtype=np.uint8)
    for position, mol in enumerate(parse_all(list(smiles))):
        counts[position] = np.minimum(generator.GetCountFingerprintAsNumPy(mol), 255)
    return counts
