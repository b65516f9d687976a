"""Which molecules to add: every strategy puts candidates in order, and ``choose`` takes the best of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import pandas as pd
from rdkit import DataStructs
from rdkit.SimDivFilters import rdSimDivPickers
from sklearn.cluster import KMeans

from moltune.config import SelectSettings
from moltune.data.splitting.similarity import morgan_bits, nearest_similarity
from moltune.errors import ConfigError, DataError

EMBEDDING = "embedding"


@dataclass(frozen=True)
class Candidates:
    """Molecules to choose from, and what is known of them.

    Attributes:
        smiles: n molecules.
        columns: name → numbers, shape (n,): ``score`` (influence), ``variance`` (uncertainty), ``residual``, and of
            classes ``entropy`` and ``mutual_information`` (uncertainty).
        reference: SMILES of the validation part, for similarity.
        embeddings: of the candidates, shape (n, d).
        reference_embeddings: of the validation part, shape (m, d).
    """

    smiles: Sequence[str]
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    reference: Sequence[str] = ()
    embeddings: np.ndarray | None = None
    reference_embeddings: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.smiles)

    @cached_property
    def bits(self) -> list[DataStructs.ExplicitBitVect]:
        """Morgan fingerprints."""
        return morgan_bits(list(self.smiles))

    def column(self, name: str, made_by: str) -> np.ndarray:
        """Numbers of a column.

        Raises:
            DataError: it is not there, or holds a value that is not finite.
        """
        if name not in self.columns:
            raise DataError(f"the molecules have no column {name!r}; `moltune {made_by} writes one")
        values = np.asarray(self.columns[name], dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise DataError(f"{name} of molecule {bad[0] + 1} ({self.smiles[bad[0]]}) is not finite; compute it again")
        return values


@dataclass(frozen=True)
class Ranking:
    """Candidates in order of preference.

    Attributes:
        order: positions, the best first, int64.
        goodness: of each candidate in table order, higher is better; None for a strategy that has only an order.
        sign: 1, or -1 where low numbers are good.
    """

    order: np.ndarray
    goodness: np.ndarray | None = None
    sign: float = 1.0


Strategy = Callable[[Candidates, SelectSettings], Ranking]
"""Puts candidates in order; raises DataError where something that it needs of them is missing."""


def _by_goodness(goodness: np.ndarray, sign: float = 1.0) -> Ranking:
    return Ranking(np.argsort(-goodness, kind="stable"), goodness, sign)


def by_influence(candidates: Candidates, settings: SelectSettings, *, reverse: bool = False) -> Ranking:
    """Scores of ``moltune influence``, the most helpful first; or the most harmful first, as a control."""
    sign = -1.0 if (settings.convention == "negative-helps") != reverse else 1.0
    return _by_goodness(sign * candidates.column("score", "influence`"), sign)


def by_uncertainty(candidates: Candidates, settings: SelectSettings) -> Ranking:
    """Variances of ``moltune uncertainty``, the highest first."""
    return _by_goodness(candidates.column("variance", "uncertainty`"))


def by_entropy(candidates: Candidates, settings: SelectSettings) -> Ranking:
    """Classes that are the most open first, for whatever reason: entropies of ``moltune uncertainty``."""
    return _by_goodness(candidates.column("entropy", "uncertainty` of a classifier"))


def by_disagreement(candidates: Candidates, settings: SelectSettings) -> Ranking:
    """Classes about which the passes or models contradict each other first (BALD), for more data to settle.

    Mutual information of ``moltune uncertainty``; Houlsby et al. 2011, arXiv:1112.5745.
    """
    return _by_goodness(candidates.column("mutual_information", "uncertainty` of a classifier"))


def by_residual(candidates: Candidates, settings: SelectSettings) -> Ranking:
    """Smallest absolute residual first, which leaves out contradicting labels; a threshold is the largest taken."""
    return _by_goodness(-np.abs(candidates.column("residual", "influence`")), -1.0)


def at_random(candidates: Candidates, settings: SelectSettings) -> Ranking:
    """A permutation drawn with the seed, the control of every selection."""
    return Ranking(np.random.default_rng(settings.seed).permutation(len(candidates)))


def by_similarity(candidates: Candidates, settings: SelectSettings) -> Ranking:
    """Most similar to a molecule of the validation part first: Tanimoto similarity, or cosine of embeddings."""
    if settings.space == EMBEDDING:
        own, other = candidates.embeddings, candidates.reference_embeddings
        if own is None or other is None:
            raise DataError("similarity of embeddings needs a run; name one with --run")
        return _by_goodness((_unit(own) @ _unit(other).T).max(axis=1))
    if not len(candidates.reference):
        raise DataError("similarity needs the validation part of a run; name one with --run")
    n = len(candidates)
    bits = [*candidates.bits, *morgan_bits(list(candidates.reference))]
    return _by_goodness(nearest_similarity(bits, np.arange(n), np.arange(n, len(bits))))


def by_diversity(candidates: Candidates, settings: SelectSettings) -> Ranking:
    """MaxMin picking (Ashton et al. 2002) on Tanimoto distances, from a molecule drawn with the seed.

    Each next molecule is the one furthest from those already taken.
    """
    n = len(candidates)
    if n == 0:
        return Ranking(np.empty(0, dtype=np.int64))
    first = int(np.random.default_rng(settings.seed).integers(n))
    picked = rdSimDivPickers.MaxMinPicker().LazyBitVectorPick(candidates.bits, n, n, [first], settings.seed)
    return Ranking(np.array(list(picked), dtype=np.int64))


def by_cluster(candidates: Candidates, settings: SelectSettings) -> Ranking:
    """One molecule of each k-means cluster in turn, the largest cluster and those nearest to its centre first."""
    n = len(candidates)
    if settings.space == EMBEDDING:
        if candidates.embeddings is None:
            raise DataError("clusters of embeddings need a run; name one with --run")
        points = np.asarray(candidates.embeddings, dtype=np.float64)
    else:
        points = np.array([list(bits) for bits in candidates.bits], dtype=np.float64).reshape(n, -1)
    if n == 0:
        return Ranking(np.empty(0, dtype=np.int64))
    found = KMeans(min(settings.clusters, n), n_init=4, random_state=settings.seed).fit(points)
    distances = pd.Series(np.linalg.norm(points - found.cluster_centers_[found.labels_], axis=1))
    place = distances.groupby(found.labels_).rank(method="first")
    size = np.bincount(found.labels_)[found.labels_]
    return Ranking(np.lexsort((-size, place)))


def in_table_order(candidates: Candidates, settings: SelectSettings) -> Ranking:
    """Table order, for the controls that take all candidates or none."""
    return Ranking(np.arange(len(candidates)))


STRATEGIES: dict[str, Strategy] = {
    "influence": by_influence,
    "influence-reversed": partial(by_influence, reverse=True),
    "uncertainty": by_uncertainty,
    "entropy": by_entropy,
    "bald": by_disagreement,
    "random": at_random,
    "similarity": by_similarity,
    "diversity": by_diversity,
    "cluster": by_cluster,
    "residual": by_residual,
    "all": in_table_order,
    "none": in_table_order,
}


def choose(candidates: Candidates, settings: SelectSettings) -> np.ndarray:
    """Positions of the selected candidates, the best first, int64.

    A count above the number of candidates takes all. A percentile takes that share of them, rounded half up. A
    threshold is in the units of the strategy's number, and the number must be at least as good as it.

    Raises:
        DataError: the candidates lack what the strategy needs.
        ConfigError: a threshold where the strategy has no number.
    """
    ranking = STRATEGIES[settings.strategy](candidates, settings)
    if settings.strategy == "all":
        return ranking.order
    if settings.strategy == "none":
        return ranking.order[:0]
    if settings.count is not None:
        return ranking.order[: settings.count]
    if settings.percentile is not None:
        return ranking.order[: int(np.floor(settings.percentile / 100 * len(candidates) + 0.5))]
    if ranking.goodness is None:
        raise ConfigError(f"the strategy {settings.strategy!r} has no scores for a threshold; take count or percentile")
    assert settings.threshold is not None
    return ranking.order[ranking.goodness[ranking.order] >= ranking.sign * settings.threshold]


def candidates_from(table: pd.DataFrame, **known: object) -> Candidates:
    """Candidates from a table with a ``smiles`` column and any of the number columns."""
    columns = {
        name: pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64)
        for name in ("score", "variance", "residual", "entropy", "mutual_information")
        if name in table
    }
    return Candidates(table["smiles"].tolist(), columns, **known)  # type: ignore[arg-type]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
