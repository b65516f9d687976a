"""Splits that the user brings along: a column that names parts, or an index file."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from moltune.data.molecules import KEPT_COLUMNS, Molecules
from moltune.data.reading.columns import is_empty, match_name
from moltune.data.reading.read import read_table
from moltune.errors import DataError, one_line

logger = logging.getLogger(__name__)

PARTS = ("train", "validation", "test")
_ALIASES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def labels_of_column(molecules: Molecules, column: str) -> np.ndarray:
    """Part of each molecule as a column of the source names it: positions in ``PARTS``, shape (n,).

    Raises:
        DataError: there is no such column, or it does not name a part in each row.
    """
    name = match_name([name for name in molecules.table.columns if name not in KEPT_COLUMNS], column, "split column")
    parts = [_part_name(value) for value in molecules.table[name]]
    wrong = [
        f"row {row} {'is empty' if is_empty(value) else f'has {value!r}'}"
        for row, value, part in zip(molecules.table["row"], molecules.table[name], parts, strict=True)
        if part is None
    ]
    if wrong:
        raise DataError(
            f"Split column {name!r} must say train, validation or test in each row; {'; '.join(wrong[:5])}"
            f"{f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''}."
        )
    return np.array([PARTS.index(str(part)) for part in parts], dtype=np.int64)


def labels_of_index_file(molecules: Molecules, path: Path) -> np.ndarray:
    """Part of each molecule as a file names it: positions in ``PARTS``, shape (n,).

    Formats: JSON ``{"train": [1, 2], "validation": [3], "test": [4]}`` with 1-based source rows, or a table (CSV, TSV
    ...) with the columns ``row`` and ``split``.

    Raises:
        DataError: missing or malformed file, an unknown part, something that is no row number, a row in two parts, or
            a molecule in none.
    """
    part_of = rows_of_index_file(path, molecules.rows_in)
    rows = molecules.table["row"].tolist()
    missing = [row for row in rows if row not in part_of]
    if missing:
        shown = ", ".join(map(str, missing[:10]))
        raise DataError(f"{path} gives no part to {len(missing)} of the molecules, first rows {shown}; add them.")
    _warn_about_merged(molecules, part_of, path)
    return np.array([PARTS.index(part_of[row]) for row in rows], dtype=np.int64)


def rows_of_index_file(path: Path, rows_in: int) -> dict[int, str]:
    """Source row → part, of the rows that a file names; formats and errors as of :func:`labels_of_index_file`."""
    part_of: dict[int, str] = {}
    for raw, name in _json_pairs(path) if path.suffix.lower() == ".json" else _table_pairs(path):
        part = _part_name(name)
        if part is None:
            raise DataError(f"{path}: {name!r} is no part; use train, validation and test.")
        row = _row_number(raw, path)
        if row > rows_in:
            raise DataError(f"{path} names row {row}, but the source has rows 1 to {rows_in}.")
        if part_of.setdefault(row, part) != part:
            raise DataError(f"{path} puts row {row} into both {part_of[row]} and {part}.")
    return part_of


def _part_name(value: Any) -> str | None:
    """``"train"``, ``"validation"`` or ``"test"`` for a usual name of a part, in any case; None for anything else."""
    return None if is_empty(value) else _ALIASES.get(str(value).strip().lower())


def _warn_about_merged(molecules: Molecules, part_of: dict[int, str], path: Path) -> None:
    """Log when rows that were merged into one molecule are in different parts: one label then comes from both."""
    merged = molecules.provenance.get("merged_rows", {})
    torn = [(row, kept) for row, kept in merged.items() if part_of.get(row, part_of.get(kept)) != part_of.get(kept)]
    if torn:
        row, kept = torn[0]
        logger.warning(
            "%s: %d duplicate rows are in another part than the row they were merged into (row %d is in %s, row %d "
            "in %s); the part of the row that was kept counts",
            *(path, len(torn), row, part_of[row], kept, part_of.get(kept)),
        )


def _json_pairs(path: Path) -> list[tuple[Any, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"Cannot read the index file {path}: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"The index file {path} is not valid JSON: {one_line(error)}.") from None
    if not isinstance(content, dict) or not all(isinstance(rows, list) for rows in content.values()):
        raise DataError(f'The index file {path} must look like {{"train": [1, 2], "validation": [3], "test": [4]}}.')
    return [(row, name) for name, rows in content.items() for row in rows]


def _table_pairs(path: Path) -> list[tuple[Any, Any]]:
    raw = read_table(path)
    if len(raw.bad_rows):
        first = raw.bad_rows.iloc[0]
        raise DataError(f"The index file {path} has a bad row {first['row']}: {first['reason']}.")
    row, split = (match_name(raw.frame.columns, name, f"column of {path}") for name in ("row", "split"))
    return list(zip(raw.frame[row].tolist(), raw.frame[split].tolist(), strict=True))


def _row_number(value: Any, path: Path) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 16) or int(text) < 1:
        raise DataError(f"{path}: {text[:40]!r} is no row number; rows are counted from 1.")
    return int(text)
