"""Splits that the user brings along: names of parts, and index files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from moltune.data.molecules import Molecules
from moltune.data.reading.columns import is_empty, match_name
from moltune.data.reading.read import read_table
from moltune.errors import DataError

logger = logging.getLogger(__name__)

PARTS = ("train", "validation", "test")
_ALIASES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def part_name(value: Any) -> str | None:
    """``"train"``, ``"validation"`` or ``"test"`` for a usual name of a part, in any case; None for anything else."""
    return None if is_empty(value) else _ALIASES.get(str(value).strip().lower())


def read_index_file(path: Path) -> dict[int, str]:
    """Read which 1-based source row is in which part.

    Formats: JSON ``{"train": [1, 2], "validation": [3], "test": [4]}``, or a table (CSV, TSV ...) with the columns
    ``row`` and ``split``.

    Raises:
        DataError: missing or malformed file, an unknown part, something that is no row number, or a row in two parts.
    """
    pairs = _json_pairs(path) if path.suffix.lower() == ".json" else _table_pairs(path)
    parts: dict[int, str] = {}
    for raw, name in pairs:
        part = part_name(name)
        if part is None:
            raise DataError(f"{path}: {name!r} is no part; use train, validation and test.")
        row = _row_number(raw, path)
        if parts.get(row, part) != part:
            raise DataError(f"{path} puts row {row} into both {parts[row]} and {part}.")
        parts[row] = part
    return parts


def warn_about_merged(molecules: Molecules, part_of: dict[int, str], path: Path) -> None:
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
        raise DataError(f"The index file {path} is not valid JSON: {' '.join(str(error).split())[:200]}.") from None
    if not isinstance(content, dict) or not all(isinstance(rows, list) for rows in content.values()):
        raise DataError(f'The index file {path} must look like {{"train": [1, 2], "validation": [3], "test": [4]}}.')
    return [(row, name) for name, rows in content.items() for row in rows]


def _table_pairs(path: Path) -> list[tuple[Any, Any]]:
    raw = read_table(path)
    if len(raw.bad_rows):
        first = raw.bad_rows.iloc[0]
        raise DataError(f"The index file {path} has a bad row {first['row']}: {first['reason']}.")
    row = match_name(raw.frame.columns, "row", f"column of {path}")
    split = match_name(raw.frame.columns, "split", f"column of {path}")
    return list(zip(raw.frame[row].tolist(), raw.frame[split].tolist(), strict=True))


def _row_number(value: Any, path: Path) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 16) or int(text) < 1:
        raise DataError(f"{path}: {text[:40]!r} is no row number; rows are counted from 1.")
    return int(text)
