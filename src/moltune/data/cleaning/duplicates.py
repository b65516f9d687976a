"""One molecule measured several times: merge, drop or refuse, and list what disagrees."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from moltune.config import CleanSettings
from moltune.data.molecules import Molecules
from moltune.errors import DataError

CONFLICT_COLUMNS = ["inchikey", "smiles", "rows", "values", "spread"]
_SHOWN = 5


def merge_duplicates(molecules: Molecules, settings: CleanSettings) -> Molecules:
    """Make each InChIKey unique, as ``settings.duplicates`` says.

    The standard InChIKey is blind to most tautomers, so tautomers of one molecule are duplicates too.

    - ``mean``, ``median``: the first row of a molecule stays, with the mean or median of all its labels.
    - ``first``: the first row stays as it is.
    - ``drop-conflicting``: a molecule whose labels conflict is dropped; the labels of the others are averaged.
    - ``error``: any duplicate is an error.

    Labels conflict when the largest and the smallest differ by more than ``settings.conflict_tolerance`` (unset: half
    the standard deviation of all labels, ddof 1). Conflicts are listed under every policy. Rows that do not stay are
    in ``rejected`` with the row that they went into; ``provenance["merged_rows"]`` maps row to row.

    Raises:
        DataError: duplicates under the policy ``error``, or nothing is left after dropping.
    """
    table = molecules.table
    policy, rows, targets = settings.duplicates, table["row"].to_numpy(), molecules.target
    by_molecule = [np.sort(positions) for positions in table.groupby("inchikey").indices.values()]
    groups = sorted((positions for positions in by_molecule if len(positions) > 1), key=lambda found: int(found[0]))
    if groups and policy == "error":
        raise DataError(_refusal(rows, groups))
    tolerance = settings.conflict_tolerance
    if tolerance is None:
        tolerance = float(np.std(targets, ddof=1) / 2) if len(targets) > 1 else 0.0
    conflicting = [bool(np.ptp(targets[positions]) > tolerance) for positions in groups]
    labels, reasons, merged = targets.copy(), dict[int, str](), dict[int, int]()
    for positions, conflict in zip(groups, conflicting, strict=True):
        if conflict and policy == "drop-conflicting":
            for position in positions.tolist():
                others = ", ".join(f"{rows[other]} ({targets[other]:g})" for other in positions if other != position)
                reasons[position] = f"dropped: its label conflicts with that of the same molecule in row {others}"
            continue
        first, how = positions[0], "the first was kept"
        if policy != "first":
            labels[first] = (np.median if policy == "median" else np.mean)(targets[positions])
            how = f"merged by {'median' if policy == 'median' else 'mean'}"
        for position in positions[1:].tolist():
            reasons[position] = f"duplicate of row {rows[first]}, {how}"
            merged[int(rows[position])] = int(rows[first])
    if len(reasons) == len(table) and len(table):
        raise DataError("Every molecule has conflicting labels: dropping them leaves none; raise the tolerance.")
    counts = {"policy": policy, "molecules": len(groups), "rows": sum(map(len, groups)), "tolerance": tolerance}
    kept = molecules.reject(reasons)
    return dataclasses.replace(
        kept,
        table=kept.table.assign(target=np.delete(labels, list(reasons))),
        conflicts=_conflicts(table, [group for group, conflict in zip(groups, conflicting, strict=True) if conflict]),
        provenance={
            **molecules.provenance,
            "duplicates": {**counts, "conflicts": sum(conflicting)},
            "merged_rows": merged,
        },
    )


def _conflicts(table: pd.DataFrame, groups: list[np.ndarray]) -> pd.DataFrame:
    parts = [table.iloc[positions] for positions in groups]
    lines = [
        (
            *part.iloc[0][["inchikey", "smiles"]],
            part["row"].tolist(),
            part["target"].tolist(),
            float(np.ptp(part["target"])),
        )
        for part in parts
    ]
    return pd.DataFrame(lines, columns=CONFLICT_COLUMNS)


def _refusal(rows: np.ndarray, groups: list[np.ndarray]) -> str:
    shown = ["rows " + " and ".join(map(str, rows[positions].tolist())) for positions in groups[:_SHOWN]]
    more = f" and {len(groups) - _SHOWN} more" if len(groups) > _SHOWN else ""
    return (
        f"{len(groups)} molecules appear more than once (same InChIKey): {'; '.join(shown)}{more}. "
        "Remove the duplicates, or choose how to merge them with data.clean.duplicates."
    )
