"""Descriptors and fingerprints of RDKit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from rdkit.Chem import Descriptors, rdFingerprintGenerator

from moltune.data.chemistry import parse_all, rdkit_log

_CHUNK = 64
_LARGEST = float(np.finfo(np.float32).max)


def rdkit_descriptors(smiles: Sequence[str], *, n_jobs: int = 1) -> pd.DataFrame:
    """All two-dimensional descriptors of RDKit (``Descriptors.descList``), about 217 of them.

    Args:
        smiles: n valid SMILES.
        n_jobs: worker processes; -1: one per core. The values do not depend on it. A drug-like molecule takes about
            10 ms of one core, so workers pay off from several hundred molecules on.

    Returns:
        float64, shape (n, number of descriptors), index 0..n-1. A descriptor that RDKit cannot compute, or that is
        not finite, is NaN; values outside the range of float32 (``Ipc`` of large molecules) are clipped to it.

    Raises:
        DataError: a SMILES is not valid; the message names its position.
    """
    names, texts = [name for name, _ in Descriptors.descList], list(smiles)
    tasks = (delayed(_descriptor_block)(texts[start : start + _CHUNK], start) for start in range(0, len(texts), _CHUNK))
    blocks = Parallel(n_jobs=n_jobs if len(texts) > _CHUNK else 1)(tasks)
    return pd.DataFrame(np.concatenate([np.empty((0, len(names))), *blocks]), columns=names)


def _descriptor_block(smiles: list[str], start: int) -> np.ndarray:
    mols = parse_all(smiles, start)
    with rdkit_log():
        rows = [Descriptors.CalcMolDescriptors(mol, missingVal=np.nan, silent=True) for mol in mols]
    values = np.array([[row[name] for name, _ in Descriptors.descList] for row in rows], dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    return np.clip(values, -_LARGEST, _LARGEST)


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
