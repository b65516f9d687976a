"""Applicability domain of a model: fitted on its training molecules, it flags new ones as in, near or out.

Nothing of it is learned from targets. Needs NumPy and RDKit only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from rdkit import Chem

from moltune.data.chemistry import parse_all
from moltune.domain.nearest import mean_distance, nearest_by_tanimoto, packed_fingerprints
from moltune.domain.traits import amino_acids, describe, telling, traits
from moltune.errors import CheckpointError, DataError, NumericsError

FLAGS = ("in", "near", "out")
IN, NEAR, OUT = range(3)

NEIGHBOURS = 3
"""Training molecules that a report names, and over which the distance of fingerprints is averaged."""
LEVELS = (0.05, 0.01)
"""Share of training molecules that lie beyond near and beyond out when each is left out in turn."""
RARE = (0.003, 0.001)
"""A trait that no more than this share of the training molecules has makes a molecule near, and out."""

_EMBEDDING_NEIGHBOURS = 5
_COMPONENTS = 16
_VERSION = 1
_DISTANCE, _LARGE, _SMALL, _PEPTIDE, _EMBEDDING = range(5)
# Differences in the last bits are no reason to flag one molecule and not another.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class DomainReport:
    """What a domain says of n molecules.

    Attributes:
        flag: 0 (in), 1 (near) or 2 (out), int64, shape (n,).
        reasons: of each molecule, in words; empty where the flag is in.
        nearest: positions of the nearest training molecules, the most similar first, int64, shape (n, 3).
        similarity: their Tanimoto similarities, float64, shape (n, 3).
        distance: mean Tanimoto distance to them, float64, shape (n,).
        embedding_distance: mean distance to the five nearest embeddings, float64, shape (n,); None without embeddings.
    """

    flag: np.ndarray
    reasons: list[tuple[str, ...]]
    nearest: np.ndarray
    similarity: np.ndarray
    distance: np.ndarray
    embedding_distance: np.ndarray | None

    @property
    def names(self) -> list[str]:
        """Flags in words."""
        return [FLAGS[value] for value in self.flag.tolist()]


@dataclass(frozen=True)
class Domain:
    """The training molecules of a model, and how far from them is far.

    Make one with :meth:`fit` or :meth:`from_arrays`.

    Attributes:
        smiles: training molecules.
        fingerprints: packed, uint64, shape (n, 32).
        cutoffs: of each measure (distance of fingerprints, size, smallness, amides of amino acids, distance of
            embeddings), the value above which a molecule is near, and that above which it is out; float64, shape
            (5, 2).
        counts: trait -> how many training molecules have it.
        projection: ``center`` and ``axes`` (columns), which turn embeddings into coordinates; empty without embeddings.
        coordinates: of the training molecules, float16, shape (n, components).
    """

    smiles: list[str]
    fingerprints: np.ndarray
    cutoffs: np.ndarray
    counts: dict[str, int]
    projection: dict[str, np.ndarray]
    coordinates: np.ndarray

    @classmethod
    def fit(cls, smiles: Sequence[str], embeddings: np.ndarray | None = None) -> Self:
        """Learn from training molecules what is usual among them.

        A molecule beyond a cutoff in one measure is flagged, and the same share of training molecules lies beyond
        each, so chosen that 5 % (near) and 1 % (out) of them lie beyond some cutoff when each is left out in turn.
        The distances come from leaving out, too: no molecule is its own neighbour.

        Args:
            smiles: n ≥ 5 training molecules, as the model gets them. A molecule twice is its own neighbour: leave
                duplicates out.
            embeddings: of the same molecules, shape (n, d); :meth:`check` then needs those of new molecules.

        Raises:
            DataError: too few molecules, a SMILES that RDKit cannot read, or another number of embeddings.
            NumericsError: an embedding is not finite.
        """
        smiles = list(smiles)
        if len(smiles) <= NEIGHBOURS + 1:
            raise DataError(f"a domain needs at least {NEIGHBOURS + 2} training molecules; there are {len(smiles)}")
        mols = parse_all(smiles)
        fingerprints = packed_fingerprints(mols)
        _, similarity = nearest_by_tanimoto(fingerprints, fingerprints, NEIGHBOURS, leave_out_self=True)
        projection, coordinates = {}, np.zeros((len(smiles), 0), dtype=np.float16)
        embedding_distance = None
        if embeddings is not None:
            values = _checked(embeddings, len(smiles))
            projection = _principal_axes(values)
            coordinates = _project(values, projection).astype(np.float16)
            k = min(_EMBEDDING_NEIGHBOURS, len(smiles) - 1)
            embedding_distance = mean_distance(coordinates, coordinates, k, leave_out_self=True)
        measures = _measures(mols, 1 - similarity.mean(axis=1), embedding_distance)
        counts = Counter(trait for mol in mols for trait in traits(mol))
        return cls(smiles, fingerprints, _cutoffs(measures), dict(sorted(counts.items())), projection, coordinates)

    def check(self, molecules: Sequence[str | Chem.Mol], embeddings: np.ndarray | None = None) -> DomainReport:
        """Compare n molecules with the training molecules, whatever their order.

        About 0.2 ms per molecule on one core with 4,000 training molecules, and as much again where RDKit has to read
        its SMILES.

        Args:
            molecules: SMILES, or molecules of RDKit, which spares reading them again.
            embeddings: shape (n, d), where the domain was fitted with embeddings; otherwise not used.

        Raises:
            DataError: a SMILES is not valid (the message names its position), or embeddings are missing or of another
                shape.
            NumericsError: an embedding is not finite.
        """
        mols = [mol if isinstance(mol, Chem.Mol) else parse_all([mol], at)[0] for at, mol in enumerate(molecules)]
        nearest, similarity = nearest_by_tanimoto(packed_fingerprints(mols), self.fingerprints, NEIGHBOURS)
        embedding_distance = None
        if self.projection:
            if embeddings is None:
                raise DataError("this domain was fitted with embeddings and needs those of new molecules")
            coordinates = _project(_checked(embeddings, len(mols), len(self.projection["center"])), self.projection)
            k = min(_EMBEDDING_NEIGHBOURS, len(self.smiles) - 1)
            embedding_distance = mean_distance(coordinates, self.coordinates, k)
        distance = 1 - similarity.mean(axis=1)
        measures = _measures(mols, distance, embedding_distance)
        level = (measures[:, :, None] > self.cutoffs[None] + _ROUNDING).sum(axis=2)
        # Most molecules of a list have the traits of another one.
        judged: dict[frozenset[str], tuple[int, list[str]]] = {}
        found = []
        for mol in mols:
            own = frozenset(traits(mol))
            if own not in judged:
                judged[own] = self._judge(own)
            found.append(judged[own])
        flag = np.maximum(level.max(axis=1, initial=0), np.array([most for most, _ in found], dtype=np.int64))
        reasons = [
            tuple(words + self._beyond(measures[row], level[row], similarity[row]))
            for row, (_, words) in enumerate(found)
        ]
        return DomainReport(flag.astype(np.int64), reasons, nearest, similarity, distance, embedding_distance)

    def _judge(self, own: Collection[str]) -> tuple[int, list[str]]:
        """The worst flag of a molecule's traits, and those traits in words."""
        n, worst, words = len(self.smiles), IN, []
        for trait in sorted(own, key=telling):
            count = self.counts.get(trait, 0)
            flag = OUT if count <= RARE[1] * n else NEAR if count <= RARE[0] * n else IN
            if flag:
                worst = max(worst, flag)
                seen = f"seen in {count} of {n:,} training molecules" if count else "never seen in training"
                words.append(f"{describe(trait)}, {seen}")
        return worst, words

    def _beyond(self, measures: np.ndarray, level: np.ndarray, similarity: np.ndarray) -> list[str]:
        """Measures beyond a cutoff in words."""
        words = []
        for measure in np.flatnonzero(level).tolist():
            value, cutoff = float(measures[measure]), float(self.cutoffs[measure, level[measure] - 1])
            if measure == _DISTANCE:
                words.append(
                    f"its nearest training molecules are not similar (mean Tanimoto similarity {1 - value:.2f}, "
                    f"usual are at least {1 - cutoff:.2f})"
                )
            elif measure == _LARGE:
                words.append(f"is large ({value:.0f} heavy atoms; usual are at most {cutoff:.0f})")
            elif measure == _SMALL:
                words.append(f"is small ({-value:.0f} heavy atoms; usual are at least {-cutoff:.0f})")
            elif measure == _PEPTIDE:
                words.append(f"is like a peptide ({value:.0f} amides of amino acids; usual are at most {cutoff:.0f})")
            else:
                words.append("its embedding is far from those of training molecules")
        return words

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything as plain arrays of numbers, for .npz or safetensors; texts as UTF-8 bytes, one per line."""
        arrays = {
            "version": np.array([_VERSION]),
            "smiles": _bytes(self.smiles),
            "fingerprints": self.fingerprints,
            "cutoffs": self.cutoffs,
            "traits": _bytes(list(self.counts)),
            "trait_counts": np.array(list(self.counts.values()), dtype=np.int64),
        }
        if self.projection:
            arrays.update(self.projection, coordinates=self.coordinates)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The domain that :meth:`to_arrays` wrote; it flags exactly as that one.

        Raises:
            CheckpointError: an array is missing or does not fit the others, or the format is of a later version.
        """
        needed = {"version", "smiles", "fingerprints", "cutoffs", "traits", "trait_counts"}
        if missing := needed - set(arrays):
            raise CheckpointError(f"the domain lacks {', '.join(sorted(missing))}")
        if int(arrays["version"][0]) > _VERSION:
            raise CheckpointError("the domain was written by a later version of moltune; update moltune")
        smiles, names = _texts(arrays["smiles"]), _texts(arrays["traits"])
        projection = {name: np.asarray(arrays[name]) for name in ("center", "axes") if name in arrays}
        coordinates = np.asarray(arrays.get("coordinates", np.zeros((len(smiles), 0), dtype=np.float16)))
        fingerprints, cutoffs = np.asarray(arrays["fingerprints"]), np.asarray(arrays["cutoffs"])
        fits = len(fingerprints) == len(coordinates) == len(smiles) and cutoffs.shape == (5, 2)
        if not fits or len(names) != len(arrays["trait_counts"]) or len(projection) == 1:
            raise CheckpointError("the arrays of the domain do not fit together")
        counts = dict(zip(names, arrays["trait_counts"].tolist(), strict=True))
        return cls(smiles, fingerprints, cutoffs, counts, projection, coordinates)


def _measures(mols: list[Chem.Mol], distance: np.ndarray, embedding: np.ndarray | None) -> np.ndarray:
    """What is compared with the cutoffs, all so that much is unusual: float64, shape (n, 5)."""
    size = np.array([mol.GetNumHeavyAtoms() for mol in mols], dtype=np.float64)
    chain = np.array([amino_acids(mol) for mol in mols], dtype=np.float64)
    far = np.full(len(mols), -np.inf) if embedding is None else embedding
    return np.stack([distance, size, -size, chain, far], axis=1)


def _cutoffs(measures: np.ndarray) -> np.ndarray:
    """Cutoffs near and out of each measure: float64, shape (5, 2).

    The cutoff of rank k leaves at most k molecules beyond it in its measure; the largest k counts with which no more
    than the wanted share lies beyond some cutoff. With few molecules that is 0: beyond all of them.
    """
    falling = -np.sort(-measures, axis=0)
    chosen = []
    for share in LEVELS:
        low, high = 0, len(measures) - 1
        while low < high:
            rank = (low + high + 1) // 2
            beyond = (measures > falling[rank] + _ROUNDING).any(axis=1).mean()
            low, high = (rank, high) if beyond <= share else (low, rank - 1)
        chosen.append(falling[low])
    return np.stack(chosen, axis=1)


def _principal_axes(values: np.ndarray) -> dict[str, np.ndarray]:
    """Center and main axes of embeddings; columns are standardised first, and the axes keep their variances."""
    center, spread = values.mean(axis=0), values.std(axis=0)
    scale = np.where(spread > 1e-12 * np.maximum(1.0, np.abs(center)), spread, np.inf)
    covariance = np.cov((values - center) / scale, rowvar=False, bias=True).reshape(len(center), len(center))
    vectors = np.linalg.eigh(covariance)[1][:, ::-1][:, :_COMPONENTS]
    return {"center": center.astype(np.float32), "axes": (vectors / scale[:, None]).astype(np.float32)}


def _project(values: np.ndarray, projection: Mapping[str, np.ndarray]) -> np.ndarray:
    return (values - projection["center"]) @ projection["axes"]


def _checked(embeddings: np.ndarray, n: int, width: int | None = None) -> np.ndarray:
    values = np.asarray(embeddings, dtype=np.float64)
    if values.ndim != 2 or len(values) != n or (width is not None and values.shape[1] != width):
        shape = f"({n}, {'d' if width is None else width})"
        raise DataError(f"embeddings must have the shape {shape}, one row per molecule; they have {values.shape}")
    if not np.isfinite(values).all():
        raise NumericsError(f"the embedding of molecule {int(np.argwhere(~np.isfinite(values))[0, 0])} is not finite")
    return values


def _bytes(texts: list[str]) -> np.ndarray:
    return np.frombuffer("\n".join(texts).encode(), dtype=np.uint8)


def _texts(values: np.ndarray) -> list[str]:
    return np.asarray(values, dtype=np.uint8).tobytes().decode().split("\n")
