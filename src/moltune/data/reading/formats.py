"""Parsers of the other formats: JSON lines, Parquet, .smi and SDF."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import pandas as pd
from rdkit import Chem

from moltune.data.chemistry import rdkit_log
from moltune.data.reading.delimited import Parsed, unique_names
from moltune.errors import DataError

SMILES_HEADERS = {"smiles", "smile", "canonical_smiles", "isomeric_smiles"}


def read_json(text: str, label: str) -> Parsed:
    """JSON lines (one object per line), or one JSON array of objects; a broken line is a bad row.

    Raises:
        DataError: there are no rows, or not one of them is a JSON object.
    """
    records: list[dict[str, Any]] = []
    rows: list[int] = []
    bad: list[tuple[int, str, str, str]] = []
    for row, (raw, value, reason) in enumerate(_json_values(text), start=1):
        if reason or not isinstance(value, dict):
            bad.append((row, raw[:500], "", reason or f"a JSON {_json_kind(value)} instead of an object"))
        else:
            rows.append(row)
            records.append(value)
    if not records:
        if bad:
            raise DataError(f"{label} has no row that is a JSON object; row 1: {bad[0][3]}.")
        raise DataError(f"{label} is empty: it has no rows.")
    names = list(dict.fromkeys(key for record in records for key in record))
    columns = [[record.get(name) for record in records] for name in names]
    frame = pd.DataFrame(dict(enumerate(columns)), index=range(len(records)), dtype=object)
    frame.columns = pd.Index(unique_names(names, label), dtype=object)
    return Parsed(frame, rows, bad)


def _json_values(text: str) -> Iterator[tuple[str, Any, str]]:
    if text.lstrip().startswith("["):
        value, reason = _load_json(text)
        if isinstance(value, list):
            yield from ((json.dumps(item)[:500], item, "") for item in value)
            return
        if reason and "\n" not in text.strip():
            yield text.strip(), None, reason
            return
    for line in text.split("\n"):
        if line.strip():
            yield (line.strip(), *_load_json(line))


def _load_json(text: str) -> tuple[Any, str]:
    try:
        value = json.loads(text)
        # An escaped half of a surrogate pair is legal JSON, but no text that could be written anywhere again.
        return (_writable(value) if "\\ud" in text.lower() else value), ""
    except json.JSONDecodeError as error:
        return None, f"not valid JSON: {error.msg} at character {error.pos + 1}"
    except (ValueError, RecursionError) as error:
        return None, f"not readable JSON: {' '.join(str(error).split())[:120]}"


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_writable(key): _writable(item) for key, item in value.items()}
    return [_writable(item) for item in value] if isinstance(value, list) else value


def _json_kind(value: Any) -> str:
    return {list: "array", str: "string", type(None): "null", bool: "boolean"}.get(type(value), "number")


def read_parquet(content: bytes, label: str) -> Parsed:
    """Parquet through pyarrow; dtypes are kept.

    Raises:
        DataError: not Parquet, damaged, or without rows.
    """
    import pyarrow as pa

    try:
        frame = pd.read_parquet(io.BytesIO(content))
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, MemoryError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{label} is not a readable Parquet file: {reason}") from None
    return from_frame(frame, label)


def from_frame(frame: pd.DataFrame, label: str) -> Parsed:
    """Take over a frame: a named index becomes a column, column names become text, rows are numbered from 1.

    Raises:
        DataError: the frame has no rows or no columns.
    """
    if any(name is not None for name in frame.index.names):
        clash = [name for name in frame.index.names if name in frame.columns]
        frame = frame.reset_index(drop=bool(clash))
    if frame.shape[1] == 0 or len(frame) == 0:
        raise DataError(f"{label} is empty: it has {len(frame)} rows and {frame.shape[1]} columns.")
    frame = frame.reset_index(drop=True)
    frame.columns = pd.Index(unique_names([str(name) for name in frame.columns], label), dtype=object)
    return Parsed(frame, list(range(1, len(frame) + 1)))


def read_smi(text: str, label: str) -> Parsed:
    """One ``SMILES [blank name]`` per line; a first line that starts with the word SMILES is a header.

    A ChemAxon extension (``SMILES |...| name``) stays with its SMILES.

    Raises:
        DataError: the file has no rows.
    """
    lines = [line for line in re.split(r"\r\n|\n|\r", text) if line.strip()]
    if lines and lines[0].split()[0].strip('"').lower() in SMILES_HEADERS:
        lines = lines[1:]
    if not lines:
        raise DataError(f"{label} is empty: it has no molecules.")
    pairs = [_split_smi(line) for line in lines]
    frame = pd.DataFrame(pairs, columns=["smiles", "name"], dtype=object)
    return Parsed(frame, list(range(1, len(pairs) + 1)))


def _split_smi(line: str) -> tuple[str, str | None]:
    smiles, _, rest = line.strip().replace("\t", " ").partition(" ")
    rest = rest.strip()
    if rest.startswith("|") and "|" in rest[1:]:
        extension, _, rest = rest[1:].partition("|")
        smiles = f"{smiles} |{extension}|"
    return smiles, rest.strip() or None


def read_sdf(text: str, label: str) -> Parsed:
    """SDF records: column ``smiles`` from the mol block, ``name`` from the title line, one column per property.

    A property that is itself called ``smiles`` (or ``name``) is kept as ``smiles (property)``. A record that RDKit
    cannot read is a bad row with RDKit's reason.

    Raises:
        DataError: the file has no records.
    """
    records = list(_sdf_records(text))
    if not records:
        raise DataError(f"{label} is empty: it has no records.")
    good: list[dict[str, Any]] = []
    rows: list[int] = []
    bad: list[tuple[int, str, str, str]] = []
    for row, record in enumerate(records, start=1):
        title = record.split("\n", 1)[0].strip()
        values, reason = _read_record(record)
        if reason:
            bad.append((row, title or f"record {row}", "", reason))
        else:
            rows.append(row)
            good.append({**values, "name": title or None})
    names = list(dict.fromkeys(["smiles", "name", *(key for record in good for key in record)]))
    frame = pd.DataFrame({name: [record.get(name) for record in good] for name in names}, dtype=object)
    if frame["name"].isna().all():
        frame = frame.drop(columns="name")
    return Parsed(frame, rows, bad)


def _sdf_records(text: str) -> Iterator[str]:
    record: list[str] = []
    for line in text.split("\n"):
        if line.startswith("$$$$"):
            yield "\n".join(record)
            record = []
        else:
            record.append(line.rstrip("\r"))
    if any(line.strip() for line in record):
        yield "\n".join(record)


def _read_record(record: str) -> tuple[dict[str, Any], str]:
    with rdkit_log() as log:
        try:
            supplier = Chem.SDMolSupplier()
            supplier.SetData(record.rstrip("\n") + "\n\n$$$$\n")
            mol = supplier[0]
        except (RuntimeError, ValueError, IndexError, OSError, UnicodeError) as error:
            return {}, f"the SDF record cannot be read: {' '.join(str(error).split())[:200]}"
    if mol is None:
        return {}, f"the SDF record cannot be read: {log.reason or 'RDKit gives no reason'}"
    values: dict[str, Any] = {"smiles": Chem.MolToSmiles(mol)}
    for name in mol.GetPropNames():
        key = f"{name} (property)" if name in ("smiles", "name") else name
        values[key] = mol.GetProp(name).strip() or None
    return values, ""
