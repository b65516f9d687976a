"""Tanimoto similarity of Morgan fingerprints: nearest neighbours and clusters, without a distance matrix in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.SimDivFilters import rdSimDivPickers

from moltune.data.chemistry import parse_all

BITS = 2048


def morgan_bits(smiles: Sequence[str]) -> list[DataStructs.ExplicitBitVect]:
    """Morgan bit fingerprints, radius 2, 2048 bits, without chirality (Rogers and Hahn 2010, doi:10.1021/ci100050t).

    Raises:
        DataError: a SMILES is not valid; the message names its position.
    """
    return bits_of(parse_all(list(smiles)))


def bits_of(mols: Iterable[Chem.Mol]) -> list[DataStructs.ExplicitBitVect]:
    """The same of molecules that are parsed already."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=BITS)
    return [generator.GetFingerprint(mol) for mol in mols]


def nearest_similarity(
    bits: list[DataStructs.ExplicitBitVect], queries: np.ndarray, references: np.ndarray
) -> np.ndarray:
    """Tanimoto similarity of each query to its nearest reference, float64, shape (len(queries),).

    ``queries`` and ``references`` (not empty) are positions in ``bits``.
    """
    known = [bits[position] for position in references.tolist()]
    return np.array([max(DataStructs.BulkTanimotoSimilarity(bits[position], known)) for position in queries.tolist()])


def cluster_labels(
    smiles: Sequence[str], cutoff: float, algorithm: Literal["butina", "sphere"], rng: np.random.Generator
) -> np.ndarray:
    """Cluster number of each molecule, int64, shape (n,), numbered 0..k-1.

    - ``sphere``: sphere exclusion. Going through the molecules in shuffled order, one that is further than ``cutoff``
      from each leader so far becomes a leader; each molecule then joins its nearest leader.
    - ``butina``: Butina, J. Chem. Inf. Comput. Sci. 39, 747-750 (1999), doi:10.1021/ci9803381. The molecule with
      most neighbours within ``cutoff`` takes them all as a cluster; so on with what is left. Shuffling breaks ties.

    Every member is within ``cutoff`` of the centre of its cluster. Two molecules of different clusters may be closer
    than that; the leakage check tells how close the parts of a split came.
    """
    order = rng.permutation(len(smiles))
    bits = morgan_bits([smiles[position] for position in order])
    found = _sphere(bits, cutoff) if algorithm == "sphere" else _butina(bits, cutoff)
    labels = np.empty(len(smiles), dtype=np.int64)
    labels[order] = np.unique(found, return_inverse=True)[1]
    return labels


def _sphere(bits: list[DataStructs.ExplicitBitVect], cutoff: float) -> np.ndarray:
    picked = rdSimDivPickers.LeaderPicker().LazyBitVectorPick(bits, len(bits), cutoff)
    leaders = [bits[position] for position in picked]
    return np.array([int(np.argmax(DataStructs.BulkTanimotoSimilarity(one, leaders))) for one in bits])


def _butina(bits: list[DataStructs.ExplicitBitVect], cutoff: float) -> np.ndarray:
    similarities = (np.asarray(DataStructs.BulkTanimotoSimilarity(one, bits)) for one in bits)
    neighbours = [np.flatnonzero(1.0 - similarity <= cutoff) for similarity in similarities]
    labels = np.full(len(bits), -1, dtype=np.int64)
    for centre in np.argsort([-len(near) for near in neighbours], kind="stable").tolist():
        if labels[centre] < 0:
            near = neighbours[centre]
            labels[near[labels[near] < 0]] = centre
    return labels
