"""Which molecules to add: one contract, candidates in, positions out, the best first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from rdkit import DataStructs
from rdkit.SimDivFilters import rdSimDivPickers
from sklearn.cluster import KMeans

from moltune.config import SelectSettings
from moltune.data.splitting.similarity import nearest_similarity
from moltune.errors import ConfigError, DataError
from moltune.features.descriptors import morgan_bits

EMBEDDING = "embedding"


@dataclass(frozen=True)
class Candidates:
    """Molecules to choose from, and what is known of them.

    Attributes:
        smiles: n molecules.
        columns: name → numbers, shape (n,): ``score`` (influence), ``variance`` (uncertainty), ``residual``.
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
            raise DataError(f"the molecules have no column {name!r}; `moltune {made_by}` writes one")
        values = np.asarray(self.columns[name], dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            # Sorting such values would return some order all the same, and nobody would notice.
            raise DataError(f"{name} of molecule {bad[0] + 1} ({self.smiles[bad[0]]}) is not finite; compute it again")
        return values


@dataclass(frozen=True)
class Ranking:
    """Candidates in order of preference.

    Attributes:
        order: positions, the best first, int64.
        goodness: of each candidate in table order, higher is better; None where the order is all there is.
        sign: 1, or -1 where low numbers are good.
    """

    order: np.ndarray
    goodness: np.ndarray | None = None
    sign: float = 1.0


class Strategy(ABC):
    """Ranks candidates."""

    name: str
    description: str

    @abstractmethod
    def rank(self, candidates: Candidates, settings: SelectSettings) -> Ranking:
        """Put the candidates in order.

        Raises:
            DataError: what the strategy needs of them is missing.
        """


def _by_goodness(goodness: np.ndarray, sign: float = 1.0) -> Ranking:
    return Ranking(np.argsort(-goodness, kind="stable").astype(np.int64), goodness, sign)


class ByInfluence(Strategy):
    """Scores of ``moltune influence``, most helpful first."""

    name = "influence"
    description = "the most helpful by influence"
    reverse = False

    def rank(self, candidates: Candidates, settings: SelectSettings) -> Ranking:
        """Lowest first under negative-helps, highest first under positive-helps; or the other way round."""
        scores = candidates.column("score", "influence")
        sign = -1.0 if (settings.convention == "negative-helps") != self.reverse else 1.0
        return _by_goodness(sign * scores, sign)


class ByReversedInfluence(ByInfluence):
    """The control that a claim for influence needs: most harmful first."""

    name = "influence-reversed"
    description = "the most harmful by influence, a control"
    reverse = True


class ByUncertainty(Strategy):
    """Variances of ``moltune uncertainty``, least sure first."""

    name = "uncertainty"
    description = "the least sure"

    def rank(self, candidates: Candidates, settings: SelectSettings) -> Ranking:
        """Highest variance first."""
        return _by_goodness(candidates.column("variance", "uncertainty"))


class ByResidual(Strategy):
    """Molecules that the model predicts well: |residual| lowest first, which leaves out contradicting labels."""

    name = "residual"
    description = "those that the model predicts best already"

    def rank(self, candidates: Candidates, settings: SelectSettings) -> Ranking:
        """Smallest absolute residual first; a threshold is the largest |residual| taken."""
        return _by_goodness(-np.abs(candidates.column("residual", "influence")), -1.0)


class AtRandom(Strategy):
    """A random order: the control of every selection."""

    name = "random"
    description = "at random, a control"

    def rank(self, candidates: Candidates, settings: SelectSettings) -> Ranking:
        """Permutation drawn with the seed."""
        return Ranking(np.random.default_rng(settings.seed).permutation(len(candidates)).astype(np.int64))


class BySimilarity(Strategy):
    """Similarity to the nearest molecule of the validation part: Tanimoto, or cosine of embeddings."""

    name = "similarity"
    description = "the most similar to the validation part"

    def rank(self, candidates: Candidates, settings: SelectSettings) -> Ranking:
        """Most similar first."""
        if settings.space == EMBEDDING:
            own, other = candidates.embeddings, candidates.reference_embeddings
            if own is None or other is None:
                raise DataError("similarity of embeddings needs a run; name one with --run")
            cosine = _unit(own) @ _unit(other).T
            return _by_goodness(cosine.max(axis=1))
        if not len(candidates.reference):
            raise DataError("similarity needs the validation part of a run; name one with --run")
        n = len(candidates)
        bits = [*candidates.bits, *morgan_bits(list(candidates.reference))]
        return _by_goodness(nearest_similarity(bits, np.arange(n), np.arange(n, len(bits))))


class ByDiversity(Strategy):
    """MaxMin picking (Ashton et al. 2002): each next molecule is the one furthest from those taken."""

    name = "diversity"
    description = "far from each other (MaxMin)"

    def rank(self, candidates: Candidates, settings: SelectSettings) -> Ranking:
        """Picking order on Tanimoto distances, from a molecule drawn with the seed."""
        n = len(candidates)
        if n == 0:
            return Ranking(np.empty(0, dtype=np.int64))
        first = int(np.random.default_rng(settings.seed).integers(n))
        picked = rdSimDivPickers.MaxMinPicker().LazyBitVectorPick(candidates.bits, n, n, [first], settings.seed)
        return Ranking(np.array(list(picked), dtype=np.int64))


class ByCluster(Strategy):
    """One molecule of each k-means cluster in turn, nearest to its centre first: covers the candidates evenly."""

    name = "cluster"
    description = "from each cluster in turn"

    def rank(self, candidates: Candidates, settings: SelectSettings) -> Ranking:
        """Round robin over clusters, the largest first."""
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
        distance = np.linalg.norm(points - found.cluster_centers_[found.labels_], axis=1)
        place = np.empty(n, dtype=np.int64)
        sizes = np.bincount(found.labels_)
        for cluster in range(len(sizes)):
            members = np.flatnonzero(found.labels_ == cluster)
            place[members[np.argsort(distance[members], kind="stable")]] = np.arange(len(members))
        order = np.lexsort((np.arange(n), -sizes[found.labels_], place))
        return Ranking(order.astype(np.int64))


class Everything(Strategy):
    """All candidates: the control that asks whether selecting helps at all."""

    name = "all"
    description = "all, a control"

    def rank(self, candidates: Candidates, settings: SelectSettings) -> Ranking:
        """Table order."""
        return Ranking(np.arange(len(candidates), dtype=np.int64))


class Nothing(Everything):
    """No candidate: the control that asks whether adding helps at all."""

    name = "none"
    description = "none, a control"


STRATEGIES: dict[str, type[Strategy]] = {
    strategy.name: strategy
    for strategy in (
        ByInfluence,
        ByReversedInfluence,
        ByUncertainty,
        AtRandom,
        BySimilarity,
        ByDiversity,
        ByCluster,
        ByResidual,
        Everything,
        Nothing,
    )
}


def choose(candidates: Candidates, settings: SelectSettings) -> np.ndarray:
    """Positions of the selected candidates, the best first, int64.

    A count above the number of candidates takes all. A percentile takes that share of them, rounded half up. A
    threshold is in the units of the strategy's number, and the number must be at least as good as it.

    Raises:
        DataError: the candidates lack what the strategy needs.
        ConfigError: a threshold where the strategy has no number.
    """
    ranking = STRATEGIES[settings.strategy]().rank(candidates, settings)
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
        for name in ("score", "variance", "residual")
        if name in table
    }
    return Candidates(table["smiles"].tolist(), columns, **known)  # type: ignore[arg-type]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
