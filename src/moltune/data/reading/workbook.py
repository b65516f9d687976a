"""Sheets of Excel and OpenDocument workbooks (.xlsx, .xlsm, .xlsb, .xls, .ods), read with calamine."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd

from moltune.data.reading.headers import SAMPLE, names_without_header, no_header_note, structure_position
from moltune.data.reading.table import RawTable, raw_table
from moltune.errors import DataError, one_line


def read_workbook(content: bytes, label: str, sheet: str | None = None, header: bool | None = None) -> RawTable:
    """Read one sheet; numbers stay numbers, whole ones become integers, an empty cell becomes None.

    Formulas give the value that the program stored. Rows without any cell are no data rows.

    Args:
        content: of the file.
        label: for messages.
        sheet: name; None: the only one that is not empty.
        header: whether the first row names the columns; None: it does unless it holds a molecule.

    Raises:
        DataError: no workbook, no such sheet, several that may be meant, or nothing in it.
    """
    # It takes a tenth of a second that other formats need not pay.
    import python_calamine

    try:
        book = python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(content))
        found = {name: _rows(book.get_sheet_by_name(name).to_python()) for name in book.sheet_names}
    # The library raises errors of its own and of zip archives without a common base.
    except Exception as error:
        raise DataError(f"{label} is not a readable Excel or OpenDocument workbook: {one_line(error)}") from None
    name, rows = _choose(found, label, sheet)
    notes = [f"Sheet {name!r} is read."] if len(found) > 1 else []
    if header is False or (header is None and structure_position(rows[:SAMPLE]) is not None):
        columns = names_without_header(rows[:SAMPLE])
        notes.append(no_header_note(columns))
    else:
        columns, rows = ["" if cell is None else str(cell) for cell in rows[0]], rows[1:]
    if not rows:
        raise DataError(f"{label}, sheet {name!r}, has a header ({', '.join(columns)[:200]}) but no data rows.")
    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    filled = [position for position, column in enumerate(columns) if column or any(row[position] for row in rows)]
    return raw_table(frame.iloc[:, filled], label, sheet=name, notes=notes)


def _rows(rows: list[list[Any]]) -> list[list[Any]]:
    made = [[_cell(value) for value in row] for row in rows]
    return [row for row in made if any(value is not None for value in row)]


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.strip() else None
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _choose(found: dict[str, list[list[Any]]], label: str, sheet: str | None) -> tuple[str, list[list[Any]]]:
    listed = ", ".join(map(repr, found))
    if sheet is not None:
        name = next((name for name in found if name.casefold() == sheet.strip().casefold()), None)
        if name is None:
            raise DataError(f"{label} has no sheet {sheet!r}; the sheets are {listed}.")
        if not found[name]:
            raise DataError(f"{label}, sheet {name!r}, is empty.")
        return name, found[name]
    filled = [name for name, rows in found.items() if rows]
    if not filled:
        raise DataError(f"{label} is empty: no sheet has a row.")
    if len(filled) > 1:
        raise DataError(f"{label} has several sheets: {', '.join(map(repr, filled))}; name one with --sheet.")
    return filled[0], found[filled[0]]
