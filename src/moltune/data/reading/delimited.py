"""Delimited text (CSV, TSV, semicolons), read so that no row can vanish.

``pandas.read_csv`` fills short rows up without a word, so rows are counted here with the standard library's reader.
"""

from __future__ import annotations

import csv
import io
import logging

import pandas as pd

from moltune.data.reading.headers import SAMPLE, names_without_header, no_header_note, structure_position
from moltune.data.reading.table import RawTable, raw_table
from moltune.errors import DataError

logger = logging.getLogger(__name__)

SEPARATORS = (",", ";", "\t", "|")


def read_delimited(text: str, label: str, separator: str | None = None, header: bool | None = None) -> RawTable:
    """Parse delimited text; every cell stays text, an empty cell becomes None.

    The first line names the columns unless it holds a molecule, or ``header`` says otherwise. Blank lines are no data
    rows. A row with too few or too many fields, or with quotes that do not match, is a bad row. ``separator`` unset:
    the candidate that splits the first line most often, or a single column.

    Raises:
        DataError: no line, no data row, or a quote that is never closed.
    """
    separator = separator or find_separator(text)
    limit = csv.field_size_limit(10_000_000)
    try:
        sample = _sample(text, separator)
        missing = header is False or (header is None and structure_position(sample) is not None)
        return _parse(text, label, separator, names_without_header(sample) if missing and sample else None)
    finally:
        csv.field_size_limit(limit)


def find_separator(text: str) -> str:
    """The candidate that splits the first line most often."""
    # The header line alone decides: csv.Sniffer looks at rows, and refuses a table of a single column.
    header = next((line for line in text.splitlines() if line.strip()), "")
    outside = "".join(header.split('"')[::2])
    return max(SEPARATORS, key=outside.count)


def _sample(text: str, separator: str) -> list[list[str]]:
    """The first rows, up to one that cannot be read."""
    rows: list[list[str]] = []
    try:
        for fields in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True):
            if "".join(fields).strip():
                rows.append(fields)
            if len(rows) == SAMPLE:
                break
    except csv.Error:
        pass
    return rows


def _parse(text: str, label: str, separator: str, header: list[str] | None) -> RawTable:
    """Parse all rows; without ``header`` the first one is it."""
    lines = list(io.StringIO(text, newline=""))
    reader = csv.reader(lines, delimiter=separator, strict=True)
    notes, where = ([], "the header has") if header is None else ([no_header_note(header)], "the first has")
    cells: list[list[str | None]] = []
    rows: list[int] = []
    bad: list[tuple[int, str, str, str]] = []
    blank = 0
    while (first := reader.line_num) < len(lines):
        fields, reason = [], ""
        try:
            fields = next(reader)
        except csv.Error as error:
            _refuse_open_quote(str(error), label, first + 1, reader.line_num, header is None)
            reason = f"the row is not valid {'TSV' if separator == chr(9) else 'CSV'}: {error}"
        if not reason and len(fields) <= 1 and not "".join(fields).strip():
            blank += header is not None
            continue
        if header is None:
            header = fields
            continue
        row = len(rows) + len(bad) + 1
        if not reason and len(fields) != len(header):
            _refuse_swallowed_lines(label, first + 1, reader.line_num)
            reason = f"the row has {len(fields)} fields, {where} {len(header)}"
        if reason:
            joined = " ".join(line.strip("\r\n") for line in lines[first : reader.line_num])
            bad.append((row, joined[:500], "", reason))
        else:
            rows.append(row)
            cells.append([cell if cell.strip() else None for cell in fields])
    if header is None:
        raise DataError(f"{label} is empty: it has no header line and no rows.")
    if not rows and not bad:
        raise DataError(f"{label} has a header ({', '.join(header)[:200]}) but no data rows.")
    if blank:
        logger.info("%s: %d blank lines skipped", label, blank)
    frame = pd.DataFrame(cells, columns=header, dtype=object)
    return raw_table(frame, label, rows, bad, separator=separator, blank_lines=blank, notes=notes)


def _refuse_open_quote(message: str, label: str, first_line: int, last_line: int, in_header: bool) -> None:
    spans = last_line > first_line
    if "unexpected end of data" in message or spans or in_header:
        raise DataError(
            f"{label}: the quote opened in line {first_line} does not end properly"
            f"{f' (read up to line {last_line})' if spans else ''}; close it, or double it inside a quoted field."
        )


def _refuse_swallowed_lines(label: str, first_line: int, last_line: int) -> None:
    # A stray quote makes the lines up to the next quote one field: rejecting that one "row" would hide the others.
    if last_line > first_line:
        raise DataError(
            f"{label}: a quoted field joins lines {first_line} to {last_line} and the result does not fit the header; "
            f"look for a stray quote in line {first_line}."
        )
