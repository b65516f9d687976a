"""A source piece by piece: tables of any length in constant memory, each piece read as the whole would be."""

from __future__ import annotations

import csv
import gzip
import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np
import pandas as pd

from moltune.config import TableSettings
from moltune.data.reading.delimited import find_separator, read_delimited
from moltune.data.reading.formats import from_frame, read_json, read_sdf, read_smi
from moltune.data.reading.headers import SAMPLE
from moltune.data.reading.read import format_of, kind_of, read_table, refuse_foreign, refuse_mismatch, source_kind
from moltune.data.reading.table import RawTable
from moltune.errors import DataError
from moltune.files import sha256_of

WHOLE = 2**20
"""Files of fewer bytes are read at once."""
_PACKED = 8
_BLOCK = 2**20
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_RECORD_END = re.compile(r"^\$\$\$\$.*\n?", re.MULTILINE)


@dataclass(frozen=True)
class Text:
    """Lines of a text file, and those of its beginning that decide how they are read.

    Attributes:
        kind: csv, tsv, jsonl, smi or sdf.
        label: of the file, for messages.
        head: the file's first lines; "" where ``body`` begins with them.
        skip: number of rows in ``head``.
        body: the lines of the piece.
        header: whether the first line names the columns; None: found out.
    """

    kind: str
    label: str
    head: str
    skip: int
    body: str
    header: bool | None

    def table(self, first: int) -> RawTable:
        """Read the rows of the body and number them from ``first``."""
        raw = _parse(self.kind, self.head + self.body, self.label, self.header)
        keep = raw.rows > self.skip
        bad = raw.bad_rows[raw.bad_rows["row"] > self.skip]
        shift = first - 1 - self.skip
        return replace(
            raw,
            frame=raw.frame[keep].reset_index(drop=True),
            rows=raw.rows[keep] + shift,
            bad_rows=bad.assign(row=bad["row"] + shift).reset_index(drop=True),
        )


@dataclass(frozen=True)
class Piece:
    """Some rows of a source that follow each other; it can be sent to another process.

    Attributes:
        index: 0, 1, 2 ...
        first: number of its first row.
        rows: how many rows it has.
        content: text to be read, or what was read.
    """

    index: int
    first: int
    rows: int
    content: Text | RawTable

    def table(self) -> RawTable:
        """Read it; rows are numbered as in the source. What is to be said aloud was said when the source was opened."""
        if isinstance(self.content, RawTable):
            return self.content
        with _silence():
            return self.content.table(self.first)

    @property
    def records(self) -> list[str] | None:
        """Text of each SDF record, without the line that ends it; None for other formats."""
        if not isinstance(self.content, Text) or self.content.kind != "sdf":
            return None
        found = _RECORD_END.split(self.content.body.replace("\r\n", "\n"))
        return found if found[-1].strip() else found[:-1]


@dataclass(frozen=True)
class Source:
    """A source that was looked through once.

    Attributes:
        label: for messages.
        digest: SHA-256 of its bytes.
        rows: number of data rows.
        notes: what should be said aloud about how it is read.
        pieces: reads it from the beginning.
    """

    label: str
    digest: str
    rows: int
    notes: tuple[str, ...]
    pieces: Callable[[], Iterator[Piece]]


def open_source(
    source: str | Path | pd.DataFrame, settings: TableSettings | None = None, rows: int = 2000, whole: int = WHOLE
) -> Source:
    """Look a source through: its digest, its number of rows, and whether it can be read.

    Large text files and Parquet are read again for every pass over the pieces; other sources (workbooks, bundled and
    hub data sets, data frames, JSON arrays, small files) stay in memory.

    Args:
        source: anything that :func:`moltune.data.reading.read.read_table` takes.
        settings: sheet and header; unset: the defaults.
        rows: of a piece.
        whole: files of fewer bytes are read at once.

    Raises:
        DataError: as ``read_table``.
    """
    settings = settings or TableSettings()
    path = _file(source)
    kind = None if path is None else _streamed_kind(path, settings, whole)
    if path is None or kind is None:
        return _in_memory(source, settings, rows)
    return _parquet(path, rows) if kind == "parquet" else _text(path, kind, settings, rows)


def _file(source: str | Path | pd.DataFrame) -> Path | None:
    if isinstance(source, pd.DataFrame) or (isinstance(source, str) and source_kind(source) != "file"):
        return None
    return Path(source)


def _streamed_kind(path: Path, settings: TableSettings, whole: int) -> str | None:
    """Format of a file that is read piece by piece; None for others, and for what is not readable."""
    try:
        packed = _is_packed(path)
        size = path.stat().st_size * (_PACKED if packed else 1)
        with _open(path) as stream:
            head = stream.read(_BLOCK)
    except (OSError, EOFError):
        return None
    kind = format_of(path.name)
    # SDF records are kept as they are, so that coordinates come out again.
    if (size < whole and kind != "sdf") or settings.sheet is not None or not head.strip():
        return None
    if head.startswith(b"PAR1"):
        return None if packed else "parquet"
    if head.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")) or kind in ("workbook", "parquet"):
        return None
    refuse_foreign(head, str(path))
    text = head.decode("utf-16" if _is_marked(head) else "utf-8-sig", "replace")
    lines = text if len(head) < _BLOCK else text[: text.rfind("\n") + 1] or text
    kind = kind or kind_of(lines)
    refuse_mismatch(lines, kind, str(path))
    return None if kind == "jsonl" and lines.lstrip().startswith("[") else kind


def _is_packed(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _is_marked(head: bytes) -> bool:
    return head.startswith((b"\xff\xfe", b"\xfe\xff"))


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if _is_packed(path) else path.open("rb")


def _lines(path: Path, encoding: str) -> Iterator[str]:
    opened = gzip.open if _is_packed(path) else open
    with cast(IO[str], opened(path, "rt", encoding=encoding, newline="")) as stream:
        yield from stream


def _encoding(path: Path) -> str:
    """Encoding of a whole text file.

    Raises:
        DataError: it is none that we read, or holds control characters.
    """
    with _open(path) as stream:
        marked = _is_marked(stream.read(2))
    for encoding in ("utf-16",) if marked else ("utf-8-sig", "cp1252"):
        try:
            for number, line in enumerate(_lines(path, encoding), start=1):
                if found := _CONTROL.search(line):
                    raise DataError(f"{path} is not a text file: control character {found[0]!r} in line {number}.")
        except UnicodeDecodeError:
            continue
        except (OSError, EOFError) as error:
            raise DataError(f"{path} is a damaged gzip file: {error}.") from None
        if encoding == "cp1252":
            logging.getLogger(__name__).warning(
                "%s is not UTF-8; read as Windows-1252, so look at letters with accents", path
            )
        return encoding
    raise DataError(f"{path} is not a text file that can be read (neither UTF-8, UTF-16 nor Windows-1252).")


def _parse(kind: str, text: str, label: str, header: bool | None) -> RawTable:
    if kind == "sdf":
        return read_sdf(text, label)
    if kind in ("jsonl", "smi"):
        return (read_json if kind == "jsonl" else read_smi)(text, label)
    return read_delimited(text, label, "\t" if kind == "tsv" else None, header)


def _text(path: Path, kind: str, settings: TableSettings, rows: int) -> Source:
    encoding, label = _encoding(path), str(path)
    head, notes, skip = "", [], 0
    if kind != "sdf":
        first = list(islice(_records(path, kind, encoding), SAMPLE + 1))
        head = "".join(first)
        beginning = _parse(kind, head, label, settings.header)
        skip, notes = beginning.rows_in, beginning.provenance.get("notes", [])

    def pieces() -> Iterator[Piece]:
        records = _records(path, kind, encoding)
        row, index = 1, 0
        # The first piece has the header line, too.
        names = len(first) - skip if head else 0
        while body := list(islice(records, rows + (names if index == 0 else 0))):
            more = len(body) - (names if index == 0 else 0)
            text = Text(kind, label, head if index else "", skip if index else 0, "".join(body), settings.header)
            yield Piece(index, row, more, text)
            row, index = row + more, index + 1

    total = 0
    for piece in pieces():
        # A table that cannot be read to its end is refused before any work.
        found = piece.rows if kind == "sdf" else piece.table().rows_in
        if found != piece.rows:
            raise DataError(f"{label}: rows {piece.first} to {piece.first + piece.rows - 1} cannot be told apart.")
        total += found
    return Source(label, sha256_of(path), total, tuple(notes), pieces)


def _records(path: Path, kind: str, encoding: str) -> Iterator[str]:
    """Text of each record with its line ends; blank ones are left out."""
    lines = _lines(path, encoding)
    if kind == "sdf":
        yield from _sdf_records(lines)
    elif kind in ("jsonl", "smi"):
        yield from (line if line.endswith(("\n", "\r")) else f"{line}\n" for line in lines if line.strip())
    else:
        yield from _delimited_records(lines, "\t" if kind == "tsv" else None)


def _sdf_records(lines: Iterator[str]) -> Iterator[str]:
    taken: list[str] = []
    for line in lines:
        taken.append(line)
        if line.startswith("$$$$"):
            yield "".join(taken)
            taken = []
    if "".join(taken).strip():
        yield "".join(taken)


def _delimited_records(lines: Iterator[str], separator: str | None) -> Iterator[str]:
    taken: list[str] = []

    def remembered() -> Iterator[str]:
        for line in lines:
            # A last line without an end would join the next one.
            taken.append(line if line.endswith(("\n", "\r")) else f"{line}\n")
            yield line

    source = remembered()
    before: list[str] = []
    if separator is None:
        before = list(islice((line for line in source if line.strip()), 1))
        separator = find_separator("".join(before))
        taken.clear()
    limit = csv.field_size_limit(10_000_000)
    try:
        reader = csv.reader(_chain(before, source, taken), delimiter=separator, strict=True)
        while True:
            fields: list[str] | None = None
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error:
                pass
            if fields is None or len(fields) > 1 or "".join(fields).strip():
                yield "".join(taken)
            taken.clear()
    finally:
        csv.field_size_limit(limit)


def _chain(before: list[str], source: Iterator[str], taken: list[str]) -> Iterator[str]:
    for line in before:
        taken.append(line)
        yield line
    yield from source


def _parquet(path: Path, rows: int) -> Source:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        total = pq.ParquetFile(path).metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from None

    def pieces() -> Iterator[Piece]:
        row = 1
        for index, batch in enumerate(pq.ParquetFile(path).iter_batches(batch_size=rows)):
            frame = pa.Table.from_batches([batch]).to_pandas(integer_object_nulls=True)
            raw = from_frame(frame, str(path))
            yield Piece(index, row, len(frame), replace(raw, rows=raw.rows + row - 1))
            row += len(frame)

    if not total:
        raise DataError(f"{path} is empty: it has 0 rows.")
    return Source(str(path), sha256_of(path), total, (), pieces)


def _in_memory(source: str | Path | pd.DataFrame, settings: TableSettings, rows: int) -> Source:
    raw = read_table(source, settings)
    label = str(raw.provenance["source"])
    digest = raw.provenance.get("sha256")
    if digest is None:
        digest = hashlib.sha256(raw.frame.to_csv().encode("utf-8", "backslashreplace")).hexdigest()

    def pieces() -> Iterator[Piece]:
        for index, start in enumerate(range(1, raw.rows_in + 1, rows)):
            yield Piece(index, start, min(rows, raw.rows_in + 1 - start), _between(raw, start, start + rows))

    return Source(label, str(digest), raw.rows_in, tuple(raw.provenance.get("notes", ())), pieces)


def _between(raw: RawTable, start: int, end: int) -> RawTable:
    """The rows from number ``start`` on, before number ``end``."""
    left, right = np.searchsorted(raw.rows, [start, end])
    return replace(
        raw,
        frame=raw.frame.iloc[left:right].reset_index(drop=True),
        rows=raw.rows[left:right],
        bad_rows=raw.bad_rows[raw.bad_rows["row"].between(start, end - 1)].reset_index(drop=True),
    )


@contextmanager
def _silence() -> Iterator[None]:
    """Say nothing while a file is read that was read before."""
    room = logging.getLogger(__name__.rpartition(".")[0])
    level: int | Literal[0] = room.level
    room.setLevel(logging.ERROR)
    try:
        yield
    finally:
        room.setLevel(level)
