"""Measurements that give a bound ("> 10"): which of them may join the training part of a split."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moltune.config import SplitSettings
from moltune.data.chemistry import parse_all, scaffold_smiles
from moltune.data.molecules import BOUND_COLUMNS, Molecules
from moltune.data.overlap import connectivity
from moltune.data.splitting.given import labels_of_column, rows_of_index_file
from moltune.data.splitting.similarity import morgan_bits, nearest_similarity
from moltune.data.splitting.split import Split

REASON = "the target is a bound"
_SIDES = {">": 1, ">=": 1, "<": -1, "<=": -1}


@dataclass(frozen=True)
class Bounds:
    """Bounds that a training part uses, at most two of each molecule: the tightest from below and from above.

    Attributes:
        table: the columns of ``BOUND_COLUMNS``.
        left_out: number of other bounds, by reason.
    """

    table: pd.DataFrame
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def smiles(self) -> list[str]:
        """SMILES as used, in table order."""
        return self.table["smiles"].tolist()

    @property
    def value(self) -> np.ndarray:
        """The bounds in the target's unit, float64, shape (n,)."""
        return self.table["value"].to_numpy(dtype=np.float64)

    @property
    def side(self) -> np.ndarray:
        """1 where the measurement is above its bound, -1 where it is below, int64, shape (n,)."""
        return sides_of(self.table["relation"].tolist())

    def to_dict(self) -> dict[str, Any]:
        """Counts, ready for JSON: used, of these above and below, and left out by reason."""
        above = int((self.side > 0).sum())
        return {"used": len(self), "above": above, "below": len(self) - above, "left_out": self.left_out}


def sides_of(relations: list[str]) -> np.ndarray:
    """1 for > and >=, -1 for < and <=, 0 for anything else; int64, shape (n,)."""
    return np.array([_SIDES.get(relation, 0) for relation in relations], dtype=np.int64)


def training_bounds(
    molecules: Molecules, split: Split, settings: SplitSettings, unfit: dict[int, str]
) -> tuple[Molecules, Bounds]:
    """Choose the bounds that may join the training part, and take them off the list of rejected rows.

    Left out are bounds of molecules that the validation or test part holds (by the first block of the InChIKey), of
    molecules that share a group with one of these parts where the split goes by groups, of rows that a given split puts
    there, of molecules that are measured exactly, and all but the tightest one of a molecule to each side.

    Args:
        molecules: with their ``bounds``.
        split: of the exact measurements.
        settings: how it was made.
        unfit: position in ``molecules.bounds`` → why the model cannot read this molecule.

    Raises:
        DataError: a split column does not name a part for each bound.
    """
    table = molecules.bounds.reset_index(drop=True)
    keys, own = molecules.table["inchikey"], table["inchikey"]
    held_out = np.concatenate([split.validation, split.test])
    reasons = {at: f"{REASON}, and the model cannot read the molecule: {why}" for at, why in unfit.items()}

    def leave_out(which: np.ndarray, why: str) -> None:
        reasons.update({at: f"{REASON} {why}" for at in np.flatnonzero(which).tolist() if at not in reasons})

    leave_out(
        connectivity(own).isin(connectivity(keys.iloc[held_out])).to_numpy(dtype=bool),
        "of a molecule in the validation or test part",
    )
    leave_out(_beside_held_out(molecules, table, held_out, settings), "that the split keeps away from training")
    leave_out(own.isin(keys).to_numpy(dtype=bool), "of a molecule that is measured exactly")
    # The tightest bound from below is the largest one, and from above the smallest.
    side = sides_of(table["relation"].tolist())
    tightness = pd.DataFrame({"key": own, "side": side, "value": side * table["value"].to_numpy(dtype=np.float64)})
    ranked = tightness.drop(index=list(reasons)).sort_values("value", ascending=False, kind="stable")
    wider = np.isin(np.arange(len(table)), ranked.index[ranked.duplicated(["key", "side"])])
    leave_out(wider, "wider than another one of the same molecule")
    used = table.drop(index=list(reasons))[BOUND_COLUMNS].reset_index(drop=True)
    why = {int(table["row"].iloc[at]): reason for at, reason in reasons.items()}
    rejected = molecules.rejected[~molecules.rejected["row"].isin(used["row"])].reset_index(drop=True)
    now = [why.get(row, reason) for row, reason in zip(rejected["row"], rejected["reason"], strict=True)]
    counts = Counter(reason.removeprefix(REASON).strip(" ,").partition(":")[0] for reason in reasons.values())
    return replace(molecules, rejected=rejected.assign(reason=now)), Bounds(used, dict(counts.most_common()))


def _beside_held_out(
    molecules: Molecules, table: pd.DataFrame, held_out: np.ndarray, settings: SplitSettings
) -> np.ndarray:
    """Which bounds the split itself would not have in training, shape (n,)."""
    none = np.zeros(len(table), dtype=bool)
    if not len(table):
        return none
    if settings.method == "column":
        listed = replace(molecules, table=table.assign(target=table["value"]).drop(columns=["relation", "value"]))
        return labels_of_column(listed, str(settings.column)) > 0
    if settings.method == "index":
        part_of = rows_of_index_file(Path(str(settings.index_file)), molecules.rows_in)
        return np.array([part_of.get(row, "train") != "train" for row in table["row"].tolist()])
    if settings.method not in ("scaffold", "cluster") or not len(held_out):
        return none
    smiles = [molecules.smiles[position] for position in held_out.tolist()]
    if settings.method == "scaffold":
        scaffolds = {scaffold_smiles(mol) for mol in parse_all(smiles)}
        return np.array([scaffold_smiles(mol) in scaffolds for mol in parse_all(table["smiles"].tolist())])
    bits = morgan_bits([*table["smiles"], *smiles])
    nearest = nearest_similarity(bits, np.arange(len(table)), np.arange(len(table), len(bits)))
    return nearest >= 1 - settings.cutoff
