"""Whether the first line of a table names its columns, or is a molecule already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moltune.data.chemistry import rdkit_log
from moltune.data.reading.columns import looks_like_structure

STRUCTURE_HEADERS = {"smiles", "smile", "canonical_smiles", "isomeric_smiles", "inchi"}
SAMPLE = 20


def structure_position(rows: Sequence[Sequence[Any]]) -> int | None:
    """Where the structures stand in the first rows of a table without a header; None where the first row names columns.

    The first row must hold a structure in a column in which most of the others do, too.
    """
    if not rows or any(str(cell).strip().lower() in STRUCTURE_HEADERS for cell in rows[0]):
        return None
    with rdkit_log():
        for position, first in enumerate(rows[0]):
            cells = [row[position] for row in rows if len(row) > position]
            if looks_like_structure(first) and sum(map(looks_like_structure, cells)) > len(cells) / 2:
                return position
    return None


def names_without_header(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Names for the columns of a table without a header: ``smiles`` or ``inchi``, ``id`` before it, ``column 3``."""
    width, position = len(rows[0]), structure_position(rows)
    names = [f"column {number}" for number in range(1, width + 1)]
    if position is not None:
        names[position] = "inchi" if str(rows[0][position]).strip().startswith("InChI=") else "smiles"
        if (width, position) == (2, 1):
            names[0] = "id"
    return names


def no_header_note(names: Sequence[str]) -> str:
    """What to say where a table was read so."""
    listed = ", ".join(map(repr, names))
    return f"The first line is data, since it holds a molecule; the columns are called {listed} (--header: it is not)."
