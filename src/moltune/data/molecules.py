"""The value that travels: molecules that were kept, rows that were not, and where both came from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from rdkit import Chem

KEPT_COLUMNS = ["row", "input", "smiles", "inchikey", "target"]
REJECT_COLUMNS = ["row", "input", "value", "reason"]
BOUND_COLUMNS = ["row", "input", "smiles", "inchikey", "relation", "value"]


@dataclass(frozen=True)
class Molecules:
    """A cleaned table of molecules.

    Attributes:
        table: one line per molecule, with the columns of ``KEPT_COLUMNS``: ``row`` (the 1-based data row in the
            source, the first one where duplicates were merged), ``input`` (SMILES as given), ``smiles`` (as used),
            ``inchikey``, ``target`` (float; NaN throughout when the source has no target) and any further columns
            of the source. The index is 0..n-1.
        rejected: one line per row that was left out, with the columns of ``REJECT_COLUMNS`` and any further columns of
            the source; rows merged into another one as duplicates are listed here too, with the row that they went
            into.
        conflicts: one line per molecule whose duplicate labels disagree: inchikey, smiles, rows, values, spread.
        rows_in: number of data rows read; always ``len(table) + len(rejected)``.
        provenance: source, format, checksum, how the table was read (``reading``), cleaning steps and their counts.
        bounds: those of the rejected rows that say "more than" or "less than" a number, with the columns of
            ``BOUND_COLUMNS`` and any further columns of the source; ``relation`` is >, <, >= or <=, and ``value`` in
            the unit of the target.
        mols: of each molecule what reading its ``smiles`` gives, None where it must be read; None: nothing was kept.
    """

    table: pd.DataFrame
    rejected: pd.DataFrame
    conflicts: pd.DataFrame
    rows_in: int
    provenance: dict[str, Any] = field(default_factory=dict)
    bounds: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=BOUND_COLUMNS))
    mols: list[Chem.Mol | None] | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def smiles(self) -> list[str]:
        """SMILES as used, in table order."""
        return self.table["smiles"].tolist()

    @property
    def target(self) -> np.ndarray:
        """Targets, float64, shape (n,)."""
        return self.table["target"].to_numpy(dtype=np.float64)

    @property
    def unit(self) -> str:
        """Unit of the target; empty where it is not known."""
        return str(self.provenance.get("unit") or "")

    @property
    def classes(self) -> tuple[str, str] | None:
        """Names of the negative and the positive class, which are 0 and 1 in the target; None: it holds numbers."""
        found = self.provenance.get("classes")
        return None if found is None else (str(found[0]), str(found[1]))

    def labels(self) -> dict[str, Any]:
        """The target as a column ``label``, classes by name, with a ``label_unit`` where the unit is known."""
        if self.classes is not None:
            names = np.array(self.classes, dtype=object)[(self.target > 0.5).astype(int)]
            return {"label": np.where(np.isfinite(self.target), names, None)}
        return {"label": self.target, **({"label_unit": self.unit} if self.unit else {})}

    def named(self) -> pd.DataFrame:
        """The table with the target under its own name, or ``target`` where another column is called so."""
        name = self.provenance.get("target_column")
        if name is None:
            return self.table.drop(columns="target")
        return self.table if name in self.table.columns else self.table.rename(columns={"target": name})

    def further(self, *taken: str) -> pd.DataFrame:
        """The further columns of the source, index 0..n-1; one whose name is ``taken`` is called ``source_<name>``."""
        columns = [name for name in self.table.columns if name not in KEPT_COLUMNS]
        return rename_taken(self.table[columns].reset_index(drop=True), taken)

    def reject(self, reasons: dict[int, str]) -> Molecules:
        """Move table positions to ``rejected``, each with its reason; return the new value."""
        if not reasons:
            return self
        positions = sorted(reasons)
        moved = self.table.iloc[positions][["row", "input"]].assign(
            value=[repr(float(value)) if np.isfinite(value) else "" for value in self.target[positions]],
            reason=[reasons[position] for position in positions],
        )
        further = self.further(*REJECT_COLUMNS).iloc[positions]
        moved = pd.concat([moved.reset_index(drop=True), further.reset_index(drop=True)], axis=1)
        rejected = pd.concat([self.rejected, moved]) if len(self.rejected) else moved
        return replace(
            self,
            table=self.table.drop(index=positions).reset_index(drop=True),
            rejected=rejected.sort_values("row", kind="stable").reset_index(drop=True),
            mols=None if self.mols is None else [mol for at, mol in enumerate(self.mols) if at not in reasons],
        )


def rename_taken(frame: pd.DataFrame, taken: Collection[str]) -> pd.DataFrame:
    """The frame with no column under a name that is taken: such a one becomes ``source_<name>``."""
    used = {*taken, *frame.columns}
    names = {}
    for name in frame.columns:
        new = str(name)
        while new in taken or (new != name and new in used):
            new = f"source_{new}"
        names[name] = new
        used.add(new)
    return frame.rename(columns=names)
