"""Molecules that two tables share, and what their labels say about each other."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp

from moltune.data.molecules import Molecules
from moltune.errors import DataError

logger = logging.getLogger(__name__)

LEVELS = ("smiles", "inchikey", "connectivity")
"""The same canonical SMILES; the same InChIKey (blind to most tautomers); the same first block of the InChIKey (blind
to stereochemistry and isotopes, too). Each level contains the one before it."""


def connectivity(inchikeys: pd.Series) -> pd.Series:
    """First block of each InChIKey: the skeleton without stereochemistry and isotopes."""
    return inchikeys.str.split("-").str[0]


def shared_molecules(external: Molecules, known: Molecules) -> pd.DataFrame:
    """Every pair of an external and a known molecule with the same connectivity block.

    Returns:
        Columns ``level`` (the narrowest of ``LEVELS`` at which the two are the same), ``position`` and
        ``known_position`` (in the tables), ``row``, ``known_row``, ``smiles``, ``known_smiles``, ``inchikey``,
        ``label``, ``known_label``, ``difference`` (external minus known). Ordered by level, then position.
    """
    left, right = _keyed(external), _keyed(known)
    pairs = left.merge(right.add_prefix("known_"), left_on="connectivity", right_on="known_connectivity")
    same_key = pairs["inchikey"] == pairs["known_inchikey"]
    same_smiles = same_key & (pairs["smiles"] == pairs["known_smiles"])
    pairs["level"] = np.select([same_smiles, same_key], LEVELS[:2], LEVELS[2])
    pairs["difference"] = pairs["label"] - pairs["known_label"]
    pairs = pairs.assign(rank=pairs["level"].map(LEVELS.index)).sort_values(["rank", "position", "known_position"])
    columns = ["level", "position", "known_position", "row", "known_row", "smiles", "known_smiles", "inchikey"]
    return pairs[[*columns, "label", "known_label", "difference"]].reset_index(drop=True)


def disagreement(pairs: pd.DataFrame, level: str) -> dict[str, Any]:
    """How far the labels of shared molecules differ, pairs of ``level`` and of every narrower level together.

    Returns:
        ``molecules`` (external ones), ``pairs``, and over the pairs with both labels ``rmse``, ``mean`` (external minus
        known) and ``largest`` absolute difference; None where there is no such pair. ``shifted`` says whether the
        mean is a shift of all: the differences have one sign and spread by less than half of their mean, or a t test
        finds the mean (p < 0.01).
    """
    within = pairs[pairs["level"].isin(LEVELS[: LEVELS.index(level) + 1])]
    difference = within["difference"].dropna().to_numpy(dtype=np.float64)
    some = len(difference) > 0
    return {
        "molecules": int(within["position"].nunique()),
        "pairs": len(within),
        "rmse": float(np.sqrt(np.mean(difference**2))) if some else None,
        "mean": float(difference.mean()) if some else None,
        "largest": float(np.abs(difference).max()) if some else None,
        "shifted": _is_shift(difference),
    }


def _is_shift(difference: np.ndarray) -> bool:
    if len(difference) < 2 or not difference.any():
        return False
    mean, spread = abs(difference.mean()), difference.std(ddof=1)
    one_way = (difference > 0).all() or (difference < 0).all()
    return bool((one_way and spread < mean / 2) or (spread > 0 and ttest_1samp(difference, 0).pvalue < 0.01))


def exclude_held_out(molecules: Molecules, known: Molecules, parts: np.ndarray) -> tuple[Molecules, list[str]]:
    """Leave out molecules whose connectivity block is in the validation or test part; returns them, too.

    Raises:
        DataError: both targets have a unit, and it is not the same.
    """
    if molecules.unit and known.unit and molecules.unit != known.unit:
        source = molecules.provenance.get("source")
        raise DataError(
            f"The target of {source} is in {molecules.unit}, that of the others in {known.unit}; "
            "bring both to one unit with --unit (data.clean.unit)."
        )
    shared = shared_molecules(molecules, known)
    held_out = np.isin(parts[shared["known_position"].to_numpy(dtype=np.int64)], ["validation", "test"])
    positions = sorted(set(shared.loc[held_out, "position"].tolist()))
    if not positions:
        return molecules, []
    names = [molecules.smiles[position] for position in positions]
    logger.warning(
        "%d molecules excluded that the validation or test part holds, too, such as %s", len(names), names[0]
    )
    return molecules.reject(dict.fromkeys(positions, "in the validation or test part")), names


def _keyed(molecules: Molecules) -> pd.DataFrame:
    table = molecules.table[["row", "smiles", "inchikey", "target"]].rename(columns={"target": "label"})
    return table.assign(position=np.arange(len(table)), connectivity=connectivity(table["inchikey"]))
