"""The nearest training molecules by Tanimoto similarity of packed fingerprints, and by Euclidean distance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rdkit import Chem, DataStructs

from moltune.data.splitting.similarity import BITS, bits_of

_CHUNK = 256


def packed_fingerprints(mols: Sequence[Chem.Mol]) -> np.ndarray:
    """Pack the Morgan fingerprints of the splits and the leakage check: uint64, shape (n, 32), 64 bits to a number."""
    texts = [DataStructs.BitVectToBinaryText(bits) for bits in bits_of(mols)]
    # The words of a fingerprint are little-endian on any machine, so that a saved domain can travel.
    packed = np.frombuffer(b"".join(texts), dtype="<u8")
    return packed.reshape(len(texts), BITS // 64).astype(np.uint64, copy=False)


def nearest_by_tanimoto(
    queries: np.ndarray, references: np.ndarray, k: int, *, leave_out_self: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` most similar references of each query, the most similar first; equal ones in the order of references.

    About 0.1 ms per query and 4,000 references on one core.

    Args:
        queries: packed fingerprints, shape (m, words).
        references: packed fingerprints, shape (n, words), n ≥ k (> k with ``leave_out_self``).
        k: how many.
        leave_out_self: queries and references are the same molecules in the same order; none is its own neighbour.

    Returns:
        Positions in ``references``, int64, and similarities, float64, both of shape (m, k).
    """
    # Words along the first axis: the sum over them then runs over contiguous rows.
    words = np.ascontiguousarray(references.T)
    sizes = np.bitwise_count(references).sum(axis=1, dtype=np.int32)
    common = np.empty_like(words)
    positions, similarities = np.empty((len(queries), k), dtype=np.int64), np.empty((len(queries), k))
    for row, query in enumerate(queries):
        np.bitwise_and(words, query[:, None], out=common)
        shared = np.bitwise_count(common).sum(axis=0, dtype=np.int32)
        union = sizes + np.bitwise_count(query).sum(dtype=np.int32) - shared
        similarity = shared / np.maximum(union, 1)
        if leave_out_self:
            similarity[row] = -1.0
        found = _largest(similarity, k)
        positions[row], similarities[row] = found, similarity[found]
    return positions, similarities


def mean_distance(queries: np.ndarray, references: np.ndarray, k: int, *, leave_out_self: bool = False) -> np.ndarray:
    """Mean Euclidean distance of each query, shape (m, d), to its ``k`` nearest references, shape (n, d); (m,)."""
    references = np.asarray(references, dtype=np.float64)
    squares = (references**2).sum(axis=1)
    result = np.empty(len(queries))
    for start in range(0, len(queries), _CHUNK):
        block = np.asarray(queries[start : start + _CHUNK], dtype=np.float64)
        distances = np.maximum((block**2).sum(axis=1)[:, None] + squares - 2 * block @ references.T, 0.0)
        if leave_out_self:
            distances[np.arange(len(block)), start + np.arange(len(block))] = np.inf
        nearest = np.partition(distances, k - 1, axis=1)[:, :k]
        result[start : start + len(block)] = np.sqrt(nearest).mean(axis=1)
    return result


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Positions of the ``k`` largest values in falling order; of equal ones the first."""
    least = np.partition(values, len(values) - k)[len(values) - k]
    candidates = np.flatnonzero(values >= least)
    return candidates[np.argsort(-values[candidates], kind="stable")[:k]]
