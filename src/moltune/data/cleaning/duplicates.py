"""One molecule measured several times: merge, drop or refuse, and list what disagrees."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from moltune.config import CleanSettings
from moltune.data.molecules import REJECT_COLUMNS, Molecules
from moltune.errors import DataError

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
    groups = _groups(table["inchikey"].tolist())
    tolerance = _tolerance(molecules.target, settings)
    provenance = {
        **molecules.provenance,
        "duplicates": {
            "policy": settings.duplicates,
            "molecules": len(groups),
            "rows": int(sum(map(len, groups))),
            "tolerance": tolerance,
        },
    }
    if groups and settings.duplicates == "error":
        raise DataError(_refusal(table, groups))
    targets = molecules.target
    conflicting = [positions for positions in groups if np.ptp(targets[positions]) > tolerance]
    outcome = _Outcome(targets.copy(), {}, {})
    dropped = conflicting if settings.duplicates == "drop-conflicting" else []
    drop_first = {int(positions[0]) for positions in dropped}
    for positions in groups:
        if int(positions[0]) in drop_first:
            outcome.drop(table, positions, targets)
        else:
            outcome.merge(table, positions, settings.duplicates)
    if len(outcome.reasons) == len(table) and len(table):
        raise DataError("Every molecule has conflicting labels: dropping them leaves none; raise the tolerance.")
    provenance["duplicates"]["conflicts"] = len(conflicting)
    provenance["merged_rows"] = outcome.merged
    merged = _reject(molecules, outcome.reasons)
    positions_left = np.setdiff1d(np.arange(len(table)), np.fromiter(outcome.reasons, dtype=np.int64))
    merged_table = merged.table.assign(target=outcome.targets[positions_left])
    return dataclasses.replace(
        merged, table=merged_table, conflicts=_conflicts(table, conflicting), provenance=provenance
    )


@dataclasses.dataclass
class _Outcome:
    targets: np.ndarray
    reasons: dict[int, str]
    merged: dict[int, int]

    def drop(self, table: pd.DataFrame, positions: np.ndarray, targets: np.ndarray) -> None:
        """Every row of the molecule goes; each names the others."""
        rows = table["row"].to_numpy()
        for position in positions.tolist():
            others = ", ".join(f"{rows[other]} ({targets[other]:g})" for other in positions if other != position)
            self.reasons[position] = f"dropped: its label conflicts with that of the same molecule in row {others}"

    def merge(self, table: pd.DataFrame, positions: np.ndarray, policy: str) -> None:
        """The first row stays; the others name it."""
        first = int(positions[0])
        how = "the first was kept"
        if policy != "first":
            statistic = np.median if policy == "median" else np.mean
            self.targets[first] = statistic(self.targets[positions])
            how = f"merged by {'median' if policy == 'median' else 'mean'}"
        row = int(table["row"].iloc[first])
        for position in positions[1:].tolist():
            self.reasons[position] = f"duplicate of row {row}, {how}"
            self.merged[int(table["row"].iloc[position])] = row


def _groups(inchikeys: list[str]) -> list[np.ndarray]:
    """Positions of each InChIKey that occurs more than once, in table order."""
    found: dict[str, list[int]] = {}
    for position, inchikey in enumerate(inchikeys):
        found.setdefault(inchikey, []).append(position)
    return [np.array(positions) for positions in found.values() if len(positions) > 1]


def _tolerance(targets: np.ndarray, settings: CleanSettings) -> float:
    if settings.conflict_tolerance is not None:
        return float(settings.conflict_tolerance)
    return float(np.std(targets, ddof=1) / 2) if len(targets) > 1 else 0.0


def _reject(molecules: Molecules, reasons: dict[int, str]) -> Molecules:
    # Not Molecules.reject: it prints labels in short form, and a merged label should be seen as it was measured.
    if not reasons:
        return molecules
    positions = sorted(reasons)
    out = molecules.table.iloc[positions]
    moved = pd.DataFrame(
        {
            "row": out["row"].to_numpy(),
            "input": out["input"].to_numpy(),
            "value": [repr(float(value)) for value in out["target"]],
            "reason": [reasons[position] for position in positions],
        },
        columns=REJECT_COLUMNS,
    )
    rejected = pd.concat([molecules.rejected, moved], ignore_index=True) if len(molecules.rejected) else moved
    return dataclasses.replace(
        molecules,
        table=molecules.table.drop(index=positions).reset_index(drop=True),
        rejected=rejected.sort_values("row", kind="stable").reset_index(drop=True),
    )


def _conflicts(table: pd.DataFrame, groups: list[np.ndarray]) -> pd.DataFrame:
    lines: list[dict[str, Any]] = []
    for positions in groups:
        part = table.iloc[positions]
        lines.append(
            {
                "inchikey": part["inchikey"].iloc[0],
                "smiles": part["smiles"].iloc[0],
                "rows": part["row"].tolist(),
                "values": part["target"].tolist(),
                "spread": float(np.ptp(part["target"].to_numpy())),
            }
        )
    return pd.DataFrame(lines, columns=["inchikey", "smiles", "rows", "values", "spread"])


def _refusal(table: pd.DataFrame, groups: list[np.ndarray]) -> str:
    rows = table["row"].to_numpy()
    shown = ["rows " + " and ".join(map(str, rows[positions].tolist())) for positions in groups[:_SHOWN]]
    more = f" and {len(groups) - _SHOWN} more" if len(groups) > _SHOWN else ""
    return (
        f"{len(groups)} molecules appear more than once (same InChIKey): {'; '.join(shown)}{more}. "
        "Remove the duplicates, or choose how to merge them with data.clean.duplicates."
    )
