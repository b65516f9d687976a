"""Parsers of the other formats: JSON lines, Parquet, .smi and SDF.

Each takes the content and a label for messages.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import pandas as pd
from rdkit import Chem

from moltune.data.chemistry import rdkit_log
from moltune.data.reading.headers import SAMPLE, STRUCTURE_HEADERS, structure_position
from moltune.data.reading.table import RawTable, raw_table
from moltune.errors import DataError, one_line


def read_json(text: str, label: str) -> RawTable:
    """JSON lines (one object per line), or one JSON array of objects; a broken line is a bad row.

    Raises:
        DataError: there are no rows, or not one of them is a JSON object.
    """
    good: dict[int, dict[str, Any]] = {}
    bad: list[tuple[int, str, str, str]] = []
    for row, (raw, value) in enumerate(_json_values(text), start=1):
        if isinstance(value, dict):
            good[row] = value
        else:
            bad.append((row, raw[:500], "", _why_no_object(value)))
    if not good:
        found = f"has no row that is a JSON object; row 1: {bad[0][3]}" if bad else "is empty: it has no rows"
        raise DataError(f"{label} {found}.")
    return raw_table(_frame(list(good.values())), label, list(good), bad)


def _frame(records: list[dict[str, Any]], first: tuple[str, ...] = ()) -> pd.DataFrame:
    names = list(dict.fromkeys([*first, *(key for record in records for key in record)]))
    return pd.DataFrame([[record.get(name) for name in names] for record in records], columns=names, dtype=object)


def _json_values(text: str) -> Iterator[tuple[str, Any]]:
    """Text and value of each row; the value of one that is no JSON is the error."""
    if text.lstrip().startswith("["):
        value = _load_json(text)
        if isinstance(value, list):
            yield from ((json.dumps(item)[:500], item) for item in value)
            return
        if "\n" not in text.strip():
            yield text.strip(), value
            return
    for line in text.split("\n"):
        if line.strip():
            yield line.strip(), _load_json(line)


def _load_json(text: str) -> Any:
    try:
        value = json.loads(text)
        # An escaped half of a surrogate pair is legal JSON, but no text that could be written anywhere again.
        return _writable(value) if "\\ud" in text.lower() else value
    except (ValueError, RecursionError) as error:
        return error


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_writable(key): _writable(item) for key, item in value.items()}
    return [_writable(item) for item in value] if isinstance(value, list) else value


def _why_no_object(value: Any) -> str:
    if isinstance(value, json.JSONDecodeError):
        return f"not valid JSON: {value.msg} at character {value.pos + 1}"
    if isinstance(value, Exception):
        return f"not readable JSON: {one_line(value)}"
    kinds = {list: "array", str: "string", type(None): "null", bool: "boolean"}
    return f"a JSON {kinds.get(type(value), 'number')} instead of an object"


def read_parquet(content: bytes, label: str) -> RawTable:
    """Parquet through pyarrow; dtypes are kept.

    Raises:
        DataError: not Parquet, damaged, or without rows.
    """
    import pyarrow as pa

    try:
        frame = pd.read_parquet(io.BytesIO(content))
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, MemoryError, pa.ArrowException) as error:
        raise DataError(f"{label} is not a readable Parquet file: {one_line(error)}") from None
    return from_frame(frame, label)


def from_frame(frame: pd.DataFrame, label: str) -> RawTable:
    """Take over a frame: a named index becomes a column, column names become text, rows are numbered from 1.

    Raises:
        DataError: the frame has no rows or no columns.
    """
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index(drop=any(name in frame.columns for name in frame.index.names))
    if frame.shape[1] == 0 or len(frame) == 0:
        raise DataError(f"{label} is empty: it has {len(frame)} rows and {frame.shape[1]} columns.")
    return raw_table(frame, label)


def read_smi(text: str, label: str) -> RawTable:
    """One ``SMILES [blank name]`` per line, or ``identifier blank SMILES``.

    A first line with the word SMILES is a header. A ChemAxon extension (``SMILES |...| name``) stays with its SMILES.

    Raises:
        DataError: the file has no rows.
    """
    lines = [line.strip() for line in re.split(r"\r\n|\n|\r", text) if line.strip()]
    if lines and any(word.strip('"').lower() in STRUCTURE_HEADERS for word in lines[0].split()):
        del lines[0]
    if not lines:
        raise DataError(f"{label} is empty: it has no molecules.")
    words = [line.split(maxsplit=1) for line in lines[:SAMPLE]]
    columns, rows, notes = ["smiles", "name"], [_split_smi(line) for line in lines], []
    if structure_position(words) == 1:
        columns, notes = ["id", "smiles"], ["Each line is an identifier and a SMILES."]
        rows = [
            (first, second.strip() or None)
            for first, _, second in (re.split(r"(\s+|$)", line, maxsplit=1) for line in lines)
        ]
    return raw_table(pd.DataFrame(rows, columns=columns, dtype=object), label, notes=notes)


def _split_smi(line: str) -> tuple[str, str | None]:
    smiles, _, rest = line.replace("\t", " ").partition(" ")
    if extension := re.match(r"\s*(\|[^|]*\|)", rest):
        smiles, rest = f"{smiles} {extension[1]}", rest[extension.end() :]
    return smiles, rest.strip() or None


def read_sdf(text: str, label: str) -> RawTable:
    """SDF records: column ``smiles`` from the mol block, ``name`` from the title line, one column per property.

    A property that is itself called ``smiles`` (or ``name``) is kept as ``smiles (property)``. A record that RDKit
    cannot read is a bad row with RDKit's reason.

    Raises:
        DataError: the file has no records.
    """
    records = re.split(r"^\$\$\$\$.*\n?", text.replace("\r\n", "\n"), flags=re.MULTILINE)
    if not records[-1].strip():
        del records[-1]
    if not records:
        raise DataError(f"{label} is empty: it has no records.")
    good: dict[int, dict[str, Any]] = {}
    bad: list[tuple[int, str, str, str]] = []
    for row, record in enumerate(records, start=1):
        title = record.split("\n", 1)[0].strip()
        try:
            good[row] = {**_read_record(record), "name": title or None}
        except DataError as error:
            bad.append((row, title or f"record {row}", "", f"the SDF record cannot be read: {error}"))
    frame = _frame(list(good.values()), ("smiles", "name"))
    return raw_table(frame if frame["name"].notna().any() else frame.drop(columns="name"), label, list(good), bad)


def _read_record(record: str) -> dict[str, Any]:
    with rdkit_log() as log:
        try:
            supplier = Chem.SDMolSupplier()
            supplier.SetData(record.rstrip("\n") + "\n\n$$$$\n")
            mol = supplier[0]
        except (RuntimeError, ValueError, IndexError, OSError, UnicodeError) as error:
            raise DataError(one_line(error)) from None
    if mol is None:
        raise DataError(log.reason or "RDKit gives no reason")
    values: dict[str, Any] = {"smiles": Chem.MolToSmiles(mol)}
    for name in mol.GetPropNames():
        key = f"{name} (property)" if name in ("smiles", "name") else name
        values[key] = mol.GetProp(name).strip() or None
    return values
