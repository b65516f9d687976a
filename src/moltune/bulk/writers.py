"""Tables written piece by piece, in the format that the file's name says."""

from __future__ import annotations

import gzip
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moltune.data.chemistry import parse_smiles, rdkit_log
from moltune.data.reading.columns import is_empty
from moltune.data.reading.write import as_csv, as_json_lines
from moltune.errors import DataError

_SHEET_ROWS = 1_048_575
_TEXT = {".csv", ".tsv", ".jsonl", ".ndjson", ".smi", ".smiles", ".sdf"}
FULL_PRECISION = {".parquet", ".pq"}
"""Formats for programs: numbers are never rounded in them."""


def format_of(path: Path) -> str:
    """Ending that says the format, without ``.gz``.

    Raises:
        DataError: there is no such format.
    """
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix not in _TEXT and (suffix not in {*FULL_PRECISION, ".xlsx"} or name.endswith(".gz")):
        raise DataError(
            f"Cannot tell the format of {path.name!r}; "
            "use .csv, .tsv, .jsonl, .smi, .sdf (also .gz), .parquet or .xlsx."
        )
    return suffix


def check_place(path: Path, *taken: str | Path) -> None:
    """Find out before any work whether a table can be written to ``path``, and replaces none of those ``taken``.

    Raises:
        DataError: unknown ending, a folder that does not exist, or a file that is taken.
    """
    format_of(path)
    check_folder(path, *taken)


def check_folder(path: Path, *taken: str | Path) -> None:
    """Find out before any work whether there is a folder for a file, and it replaces none of those ``taken``.

    Raises:
        DataError: there is none, or it does.
    """
    if not path.parent.is_dir():
        raise DataError(f"Cannot write {path}: there is no folder {path.parent}.")
    if any(path.resolve() == Path(other).resolve() for other in taken):
        raise DataError(f"{path} would be written over; choose another name.")


class Writer(ABC):
    """Writes rows that come piece by piece; the bytes depend on the rows alone.

    Args:
        path: of the file.
        schema: names and types of all columns.
        structure: which of them holds the structures.
    """

    def __init__(self, path: Path, schema: pa.Schema, structure: str) -> None:
        self.path, self.schema, self.structure = path, schema, structure

    @abstractmethod
    def write(self, frame: pd.DataFrame, records: Sequence[str] | None) -> None:
        """Add rows with all columns of the schema; ``records`` are those of an SDF file that they came from."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_rows(path: Path, rows: int) -> None:
    """Find out before any work whether a file of this format holds so many rows.

    Raises:
        DataError: it does not.
    """
    if format_of(path) == ".xlsx" and rows > _SHEET_ROWS:
        raise DataError(f"A sheet holds {_SHEET_ROWS:,} rows, and there are {rows:,}; write Parquet or CSV.")


def make_writer(path: Path, schema: pa.Schema, structure: str) -> Writer:
    """The writer for a file's ending."""
    suffix = format_of(path)
    if suffix in FULL_PRECISION:
        return _Parquet(path, schema, structure)
    if suffix == ".xlsx":
        return _Workbook(path, schema, structure)
    kinds: dict[str, type[_Text]] = {
        ".sdf": _Sdf,
        ".smi": _Smi,
        ".smiles": _Smi,
        ".jsonl": _JsonLines,
        ".ndjson": _JsonLines,
    }
    kind: Callable[[Path, pa.Schema, str], Writer] = kinds.get(suffix, _Delimited)
    return kind(path, schema, structure)


class _Text(Writer):
    """A text format, packed where the name ends in .gz."""

    def __init__(self, path: Path, schema: pa.Schema, structure: str) -> None:
        super().__init__(path, schema, structure)
        self.file: IO[bytes] = path.open("wb")
        # Neither time nor name go into the packed file: the bytes depend on the rows alone.
        packed = path.name.lower().endswith(".gz")
        self.stream: Any = gzip.GzipFile("", "wb", fileobj=self.file, mtime=0) if packed else self.file
        self.first = True

    @abstractmethod
    def text(self, frame: pd.DataFrame, records: Sequence[str] | None) -> bytes:
        """The rows as they stand in the file."""

    def write(self, frame: pd.DataFrame, records: Sequence[str] | None) -> None:
        self.stream.write(self.text(frame, records))
        self.first = False

    def close(self) -> None:
        self.stream.close()
        self.file.close()


class _Delimited(_Text):
    def text(self, frame: pd.DataFrame, records: Sequence[str] | None) -> bytes:
        separator = "\t" if format_of(self.path) == ".tsv" else ","
        return as_csv(frame, separator, header=self.first)


class _JsonLines(_Text):
    def text(self, frame: pd.DataFrame, records: Sequence[str] | None) -> bytes:
        return as_json_lines(frame)


class _Smi(_Text):
    """The structure first, everything else behind it with tabs between; the first line names the columns."""

    def text(self, frame: pd.DataFrame, records: Sequence[str] | None) -> bytes:
        others = [name for name in frame.columns if name != self.structure]
        lines = [["smiles", *map(str, others)]] if self.first else []
        lines += frame[[self.structure, *others]].values.tolist()
        texts = ["\t".join(re.sub(r"[\t\r\n]+", " ", _plain(cell)) for cell in line) for line in lines]
        return "".join(f"{line}\n" for line in texts).encode("utf-8", "backslashreplace")


class _Sdf(_Text):
    """Records of an SDF file stay as they are; others get a drawing in the plane. Columns are properties."""

    def text(self, frame: pd.DataFrame, records: Sequence[str] | None) -> bytes:
        out = io.StringIO()
        new = self._added if records is not None else frame.columns
        for position, (_, row) in enumerate(frame.iterrows()):
            block = _mol_block(_plain(row[self.structure])) if records is None else records[position]
            block = block.rstrip("\n")
            # An empty line ends a property.
            out.write(f"{block}\n" if block.endswith("M  END") else f"{block}\n\n")
            for name in new:
                if not is_empty(row[name]):
                    value = re.sub(r"\s*\n\s*", " ", _plain(row[name]))
                    out.write(f">  <{name}>\n{value}\n\n")
            out.write("$$$$\n")
        return out.getvalue().encode("utf-8", "backslashreplace")

    @property
    def _added(self) -> list[str]:
        return [field.name for field in self.schema if (field.metadata or {}).get(b"added")]


class _Workbook(Writer):
    """One sheet, written row by row."""

    def __init__(self, path: Path, schema: pa.Schema, structure: str) -> None:
        super().__init__(path, schema, structure)
        import xlsxwriter

        options = {"constant_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
        self.book = xlsxwriter.Workbook(str(path), options)
        self.book.set_properties({"created": datetime(2000, 1, 1)})
        self.sheet = self.book.add_worksheet()
        self.row = 0
        self._line(schema.names)

    def _line(self, cells: Sequence[Any]) -> None:
        for column, cell in enumerate(cells):
            if is_empty(cell):
                continue
            if isinstance(cell, bool | np.bool_):
                self.sheet.write_boolean(self.row, column, bool(cell))
            elif isinstance(cell, int | float | np.number) and abs(float(cell)) < 1e15:
                self.sheet.write_number(self.row, column, float(cell))
            else:
                self.sheet.write_string(self.row, column, str(cell))
        self.row += 1

    def write(self, frame: pd.DataFrame, records: Sequence[str] | None) -> None:
        for line in frame.astype(object).values.tolist():
            self._line(line)

    def close(self) -> None:
        self.book.close()


class _Parquet(Writer):
    def __init__(self, path: Path, schema: pa.Schema, structure: str) -> None:
        super().__init__(path, schema, structure)
        self.file = pq.ParquetWriter(path, schema)

    def write(self, frame: pd.DataFrame, records: Sequence[str] | None) -> None:
        columns = [as_array(frame[field.name], field.type) for field in self.schema]
        self.file.write_table(pa.Table.from_arrays(columns, schema=self.schema))

    def close(self) -> None:
        self.file.close()


def common_schema(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Columns of all, in the order in which they appear, each of a type that holds the values of all."""
    types: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            types[field.name] = _wider(types.get(field.name, pa.null()), field.type)
    return pa.schema([pa.field(name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in types.items()])


def schema_of(frame: pd.DataFrame) -> pa.Schema:
    """Types of a frame's columns; text where there is none for all cells."""
    return pa.schema([pa.field(str(name), as_array(frame[name]).type) for name in frame.columns])


def as_array(column: pd.Series, kind: pa.DataType | None = None) -> pa.Array:
    """The cells in a type; unset: one that fits them all, text where none does."""
    if kind is None or not pa.types.is_string(kind):
        try:
            return pa.array(column, type=kind, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            if kind is not None:
                raise
    return pa.array([None if is_empty(cell) else str(cell) for cell in column], type=pa.string())


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    whole = [pa.types.is_integer(kind) for kind in (one, other)]
    if all(whole):
        return pa.int64()
    if all(is_whole or pa.types.is_floating(kind) for is_whole, kind in zip(whole, (one, other), strict=True)):
        return pa.float64()
    return pa.string()


def _plain(cell: Any) -> str:
    return "" if is_empty(cell) else str(cell)


def _mol_block(smiles: str) -> str:
    """A mol block with coordinates in the plane; without atoms where the structure cannot be read."""
    from rdkit import Chem
    from rdkit.Chem import rdDepictor

    with rdkit_log():
        try:
            mol = parse_smiles(smiles.strip()) if smiles.strip() else Chem.Mol()
        except DataError:
            mol = Chem.Mol()
        rdDepictor.Compute2DCoords(mol)
        return str(Chem.MolToMolBlock(mol)).rstrip("\n")
