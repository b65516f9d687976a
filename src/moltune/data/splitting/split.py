"""Divide molecules into training, validation and test parts."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moltune.config import SplitSettings
from moltune.data.chemistry import parse_all, scaffold_smiles
from moltune.data.molecules import Molecules
from moltune.data.splitting.given import PARTS, labels_of_column, labels_of_index_file
from moltune.data.splitting.similarity import cluster_labels
from moltune.errors import DataError
from moltune.files import write_text

Parts = dict[str, tuple[list[str], np.ndarray]]
"""Part -> its SMILES, and their targets, shape (n,)."""


@dataclass(frozen=True)
class Split:
    """Positions in ``Molecules.table``, sorted, int64; each molecule is in exactly one part.

    Attributes:
        train: positions of the training part; never empty.
        validation: positions of the validation part; may be empty.
        test: positions of the test part; may be empty.
        method: how it was made.
        seed: the seed that was used.
        settings: the split settings and what came of them (sizes, number of groups ...), ready for JSON.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    method: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)

    def parts(self) -> dict[str, np.ndarray]:
        """``{"train": ..., "validation": ..., "test": ...}``."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def to_frame(self, molecules: Molecules) -> pd.DataFrame:
        """One line per molecule in table order: row, smiles, inchikey, split; reads back as an index file."""
        labels = np.empty(len(molecules), dtype=object)
        for name, positions in self.parts().items():
            labels[positions] = name
        return molecules.table[["row", "smiles", "inchikey"]].assign(split=labels)


def parts_of(molecules: Molecules, split: Split) -> Parts:
    """SMILES and targets of each part that has molecules."""
    smiles, target = np.array(molecules.smiles, dtype=object), molecules.target
    return {name: (smiles[at].tolist(), target[at]) for name, at in split.parts().items() if len(at)}


def make_split(molecules: Molecules, settings: SplitSettings, seed: int) -> Split:
    """Divide molecules as ``settings.method`` says.

    - ``random``: a permutation drawn with the seed.
    - ``stratified``: the molecules are sorted by target and cut into ``bins`` quantile groups; each is shuffled with
      the seed and dealt out in the ratios. Fewer bins are used where a bin would be too small to reach each part.
      Where the target holds classes, they are the groups.
    - ``scaffold``: Bemis-Murcko scaffolds without stereochemistry; acyclic molecules share one scaffold. Whole
      groups, the largest first, go to the first of training, validation and test that still has room. The seed acts
      on the order of groups of the same size only, so large scaffolds are always in training.
    - ``cluster``: as ``scaffold``, with clusters of Morgan fingerprints as groups
      (see :mod:`moltune.data.splitting.similarity`). The seed shuffles the molecules before clustering, too.
    - ``column``: the parts named in a column of the source. ``index``: the parts named in a file.

    A zero ratio gives an empty part; any other part gets at least one molecule. ``settings.seed`` wins over ``seed``.

    Raises:
        DataError: fewer molecules (or groups) than parts, no targets to stratify by, or a column or file that does
            not give each molecule exactly one part.
    """
    seed = seed if settings.seed is None else settings.seed
    if len(molecules) == 0:
        raise DataError("There are no molecules to split.")
    notes: dict[str, Any] = {}
    if settings.method == "column":
        labels = labels_of_column(molecules, str(settings.column))
    elif settings.method == "index":
        labels = labels_of_index_file(molecules, Path(str(settings.index_file)))
    else:
        sizes = part_sizes(len(molecules), settings.ratios)
        rng = np.random.default_rng(seed)
        if settings.method == "random":
            labels = np.repeat(np.arange(3), sizes)[np.argsort(rng.permutation(len(molecules)))]
        elif settings.method == "stratified":
            labels = _stratified(molecules, settings, sizes, rng, notes)
        else:
            labels = _grouped(_groups(molecules, settings, rng), sizes, rng, settings.method, notes)
    train, validation, test = (np.flatnonzero(labels == part).astype(np.int64) for part in range(3))
    if len(train) == 0:
        raise DataError("The split leaves the training part empty.")
    record = settings.model_dump(mode="json")
    record.update(seed=seed, sizes={"train": len(train), "validation": len(validation), "test": len(test)}, **notes)
    return Split(train, validation, test, method=settings.method, seed=seed, settings=record)


def part_sizes(n: int, ratios: tuple[float, float, float]) -> np.ndarray:
    """Sizes of the three parts, int64: the ratios of ``n`` by largest remainder, at least 1 where a ratio is not 0.

    Raises:
        DataError: fewer molecules than non-empty parts.
    """
    wanted = np.asarray(ratios, dtype=np.float64)
    used = wanted > 0
    if n < used.sum():
        names = ", ".join(name for name, use in zip(PARTS, used, strict=True) if use)
        raise DataError(f"{n} molecules are too few for {used.sum()} parts ({names}); each needs at least one.")
    exact = wanted / wanted.sum() * n
    sizes = np.floor(exact + 1e-9).astype(np.int64)
    # Rounded, so that equal remainders are a tie (which the earlier part wins) whatever the last bits say.
    order = np.argsort(-np.round(exact - sizes, 9), kind="stable")
    sizes[order[: n - sizes.sum()]] += 1
    for part in np.flatnonzero(used & (sizes == 0)):
        sizes[int(np.argmax(sizes))] -= 1
        sizes[part] = 1
    return sizes


def _stratified(
    molecules: Molecules, settings: SplitSettings, sizes: np.ndarray, rng: np.random.Generator, notes: dict[str, Any]
) -> np.ndarray:
    target = molecules.target
    if not np.isfinite(target).all():
        raise DataError("A stratified split needs a target for each molecule; choose random, scaffold or cluster.")
    n = len(target)
    per_bin = math.ceil(n / sizes[sizes > 0].min())
    bins = max(1, min(settings.bins, n // per_bin))
    notes["bins_used"] = bins
    # Shuffling before a stable sort breaks ties between equal targets at random.
    shuffled = rng.permutation(n)
    ranked = shuffled[np.argsort(target[shuffled], kind="stable")]
    groups = np.array_split(ranked, bins)
    if molecules.classes is not None:
        groups = [np.flatnonzero(target == label) for label in np.unique(target)]
        notes["bins_used"] = len(groups)
    order = np.concatenate([rng.permutation(group) for group in groups])
    labels = np.empty(n, dtype=np.int64)
    labels[order] = _dealt(sizes)
    return labels


def _dealt(sizes: np.ndarray) -> np.ndarray:
    """Labels of length ``sizes.sum()`` of which every stretch is close to the ratios: the part most behind is next."""
    n = int(sizes.sum())
    given = np.zeros(3)
    labels = np.empty(n, dtype=np.int64)
    for position in range(n):
        behind = np.where(given < sizes, sizes * (position + 1) / n - given, -np.inf)
        labels[position] = int(np.argmax(behind))
        given[labels[position]] += 1
    return labels


def _groups(molecules: Molecules, settings: SplitSettings, rng: np.random.Generator) -> np.ndarray:
    if settings.method == "cluster":
        return cluster_labels(molecules.smiles, settings.cutoff, settings.algorithm, rng)
    return np.unique([scaffold_smiles(mol) for mol in parse_all(molecules.smiles)], return_inverse=True)[1]


def _grouped(
    groups: np.ndarray, sizes: np.ndarray, rng: np.random.Generator, method: str, notes: dict[str, Any]
) -> np.ndarray:
    counts = np.bincount(groups)
    needed = int((sizes > 0).sum())
    if len(counts) < needed:
        raise DataError(
            f"A {method} split into {needed} parts needs at least {needed} groups, and these {len(groups)} molecules "
            f"form {len(counts)}; choose another method, or fewer parts."
        )
    shuffled = rng.permutation(len(counts))
    order = shuffled[np.argsort(-counts[shuffled], kind="stable")]
    part_of = _fill(counts, order, sizes)
    notes.update(groups=len(counts), largest_group=int(counts.max()))
    return part_of[groups]


def _fill(counts: np.ndarray, order: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Part of each group: the first with room for all of it, else the one that lacks most."""
    room = sizes.astype(np.int64).copy()
    part_of = np.empty(len(counts), dtype=np.int64)
    for group in order.tolist():
        fits = np.flatnonzero(room >= counts[group])
        part = int(fits[0]) if len(fits) else int(np.argmax(np.where(sizes > 0, room, np.iinfo(np.int64).min)))
        part_of[group] = part
        room[part] -= counts[group]
    for part in np.flatnonzero(sizes > 0).tolist():
        if not (part_of == part).any():
            # Groups too large for the small parts: give the empty part the smallest group of the part with most groups.
            donor = int(np.argmax(np.bincount(part_of, minlength=3)))
            part_of[next(group for group in order[::-1].tolist() if part_of[group] == donor)] = part
    return part_of


def write_index_file(molecules: Molecules, split: Split, path: str | Path) -> Path:
    """Write the split as an index file (JSON) that ``make_split`` reads back; return its path."""
    rows = molecules.table["row"].to_numpy()
    content = {name: rows[positions].tolist() for name, positions in split.parts().items()}
    return write_text(path, json.dumps(content) + "\n")
