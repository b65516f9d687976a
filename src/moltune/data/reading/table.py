"""A table as read, before any chemistry."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from moltune.data.molecules import REJECT_COLUMNS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RawTable:
    """Good and bad rows of a source.

    Attributes:
        frame: the good rows, index 0..n-1. Cells of text formats stay text; an empty cell is None.
        rows: 1-based data row number in the source of each row of ``frame``, int64, shape (n,).
        bad_rows: rows that could not be read at all, with the columns of ``REJECT_COLUMNS``.
        provenance: source, format, sha256 of the bytes as stored (None without a file), columns, further notes.
    """

    frame: pd.DataFrame
    rows: np.ndarray
    bad_rows: pd.DataFrame
    provenance: dict[str, Any]

    @property
    def rows_in(self) -> int:
        """Number of data rows of the source, good and bad."""
        return len(self.frame) + len(self.bad_rows)

    @property
    def all_rows(self) -> pd.DataFrame:
        """Every row in the order of the source, indexed by its number; one that could not be read has empty cells."""
        frame = self.frame.set_axis(self.rows, axis=0)
        if len(self.bad_rows):
            numbers = np.sort(np.concatenate([self.rows, self.bad_rows["row"].to_numpy(dtype=np.int64)]))
            frame = frame.astype(object).reindex(numbers)
            frame = frame.where(frame.notna(), None)
        return frame


def raw_table(
    frame: pd.DataFrame,
    label: str,
    rows: Sequence[int] | None = None,
    bad: Sequence[tuple[Any, ...]] = (),
    **notes: Any,
) -> RawTable:
    """Put together what a parser found, its columns named (see :func:`unique_names`).

    Args:
        frame: the good rows.
        label: of the source, for messages.
        rows: their numbers; unset: 1 to n.
        bad: bad rows as (number, input, value, reason).
        notes: for the provenance.
    """
    names = unique_names([str(name) for name in frame.columns], label)
    frame = frame.set_axis(pd.Index(names, dtype=object), axis=1).reset_index(drop=True)
    numbers = np.asarray(range(1, len(frame) + 1) if rows is None else rows, dtype=np.int64)
    return RawTable(frame, numbers, pd.DataFrame(bad, columns=REJECT_COLUMNS), {"columns": names, **notes})


def unique_names(names: Sequence[str], label: str) -> list[str]:
    """Column names with surrounding blanks removed, unnamed ones numbered, repeated ones suffixed (``y``, ``y.1``)."""
    result: list[str] = []
    for position, raw in enumerate(names, start=1):
        base = name = raw.strip() or f"column {position}"
        copy = 0
        while name in result:
            copy += 1
            name = f"{base}.{copy}"
        if copy:
            logger.warning("%s has more than one column %r; number %d is now called %r", label, base, copy + 1, name)
        result.append(name)
    return result
