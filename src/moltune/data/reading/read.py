"""One reader for every source: file formats, data frames, bundled tables and Hugging Face data sets."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import logging
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from moltune import datasets as bundled
from moltune.config import TableSettings
from moltune.data.reading.delimited import SEPARATORS, read_delimited
from moltune.data.reading.formats import from_frame, read_json, read_parquet, read_sdf, read_smi
from moltune.data.reading.headers import STRUCTURE_HEADERS, structure_position
from moltune.data.reading.table import RawTable
from moltune.data.reading.workbook import read_workbook
from moltune.datasets.bundled import read_bytes
from moltune.errors import DataError, one_line

logger = logging.getLogger(__name__)

FORMATS = {
    **dict.fromkeys((".csv",), "csv"),
    **dict.fromkeys((".tsv", ".tab"), "tsv"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    **dict.fromkeys((".smi", ".smiles"), "smi"),
    **dict.fromkeys((".sdf", ".sd", ".mol"), "sdf"),
    **dict.fromkeys((".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"), "workbook"),
}
"""Format by extension; any of them may be gzipped."""
_TEXT_PARSERS: dict[str, Callable[[str, str], RawTable]] = {"jsonl": read_json, "smi": read_smi, "sdf": read_sdf}
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_FOREIGN = {
    b"%PDF": "a PDF",
    b"BZh": "bzip2-compressed; unpack it first",
    b"\xfd7zXZ": "xz-compressed; unpack it first",
    b"\x28\xb5\x2f\xfd": "zstd-compressed; unpack it first",
}
_HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def read_table(source: str | Path | pd.DataFrame, settings: TableSettings | None = None) -> RawTable:
    """Read a table of molecules.

    A string is looked up as a bundled name first, then as a file, then (only if it looks like ``owner/name``) as a
    Hugging Face data set. Files: CSV, TSV, Parquet, JSON lines, .smi, .sdf, Excel and OpenDocument workbooks, and gzip
    of these; text is UTF-8, UTF-16 with a byte order mark, or else Windows-1252. Blank lines are not counted as rows;
    rows that cannot be read are in ``bad_rows``. What should be said aloud is in ``provenance["notes"]``.

    Args:
        source: see above.
        settings: sheet and header; unset: the defaults.

    Raises:
        DataError: nothing of that name, an empty or unreadable file, or content that does not fit its extension.
    """
    if isinstance(source, pd.DataFrame):
        return _named(from_frame(source, "the data frame"), "data frame", "dataframe")
    settings = settings or TableSettings()
    if isinstance(source, Path):
        return _read_file(source, settings)
    if not isinstance(source, str):
        raise DataError(f"A source is a path, a name or a pandas DataFrame, not a {type(source).__name__}.")
    kind = source_kind(source)
    if kind == "file":
        return _read_file(Path(source), settings)
    return _read_bundled(source) if kind == "bundled" else _read_hub(source)


def source_kind(source: str) -> Literal["bundled", "file", "hub"]:
    """What a name stands for; nothing is read yet.

    Raises:
        DataError: nothing has that name.
    """
    if source.strip().lower() in bundled.names():
        return "bundled"
    if _exists(source):
        return "file"
    # A name in a folder that exists here is a file that does not, not the id of somebody's data set.
    if _HUB_ID.fullmatch(source) and format_of(source) is None and not Path(source).parent.is_dir():
        return "hub"
    raise DataError(
        f"{source[:200]!r} was not found: it is no bundled dataset ({', '.join(bundled.names())}) and no file"
        f"{'' if Path(source[:200]).is_absolute() else ' in the current folder'}; "
        "a Hugging Face dataset is written owner/name."
    )


def _exists(source: str) -> bool:
    try:
        return bool(source) and Path(source).exists()
    except (OSError, ValueError):
        return False


def format_of(name: str) -> str | None:
    """Format by extension, or None; ``.gz`` is looked through."""
    return FORMATS.get(Path(name.lower().removesuffix(".gz")).suffix)


def _read_bundled(name: str) -> RawTable:
    entry = bundled.info(name)
    table = read_delimited(gzip.decompress(read_bytes(name)).decode("utf-8"), entry.name)
    notes = {"unit": entry.unit, "licence": entry.licence, "citation": entry.citation}
    return _named(table, entry.name, "bundled", entry.sha256, **notes)


def _read_file(path: Path, settings: TableSettings) -> RawTable:
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file in it.")
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}.") from None
    digest, label, kind = hashlib.sha256(content).hexdigest(), str(path), format_of(path.name)
    content = _unpack(content, label)
    if not content.strip():
        raise DataError(f"{label} is empty.")
    if content.startswith(_WORKBOOKS):
        return _named(read_workbook(content, label, settings.sheet, settings.header), label, "workbook", digest)
    if kind == "workbook" or settings.sheet is not None:
        raise DataError(f"{label} is not an Excel or OpenDocument workbook, so it has no sheets.")
    refuse_foreign(content, label)
    if content.startswith(b"PAR1"):
        if kind not in (None, "parquet"):
            logger.warning("%s is a Parquet file in spite of its name; read as Parquet", label)
        return _named(read_parquet(content, label), label, "parquet", digest)
    if kind == "parquet":
        raise DataError(f"{label} is not a Parquet file, in spite of its name.")
    text, encoding = _decode(content, label)
    kind = kind or kind_of(text)
    refuse_mismatch(text, kind, label)
    if kind in _TEXT_PARSERS:
        table = _TEXT_PARSERS[kind](text, label)
    else:
        table = read_delimited(text, label, "\t" if kind == "tsv" else None, settings.header)
    return _named(table, label, kind, digest, encoding=encoding)


def kind_of(text: str) -> str:
    """The format of text whose name does not say it."""
    if _is_sdf(text):
        return "sdf"
    if text.lstrip()[:1] == "{":
        return "jsonl"
    lines = [line for line in text.splitlines() if line.strip()][:20]
    words = [line.split(maxsplit=1) for line in lines]
    # A SMILES and a name, or the other way round, with blanks between them.
    if not lines or any(separator in lines[0] for separator in SEPARATORS) or len(words[0]) < 2:
        return "csv"
    return "smi" if words[0][0].lower() in STRUCTURE_HEADERS or structure_position(words) is not None else "csv"


def _unpack(content: bytes, label: str) -> bytes:
    if not content.startswith(b"\x1f\x8b"):
        if label.lower().endswith(".gz") and content:
            logger.warning("%s is not compressed in spite of its name; read as it is", label)
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{label} is a damaged gzip file: {error}.") from None


def refuse_foreign(content: bytes, label: str) -> None:
    """Refuse what is no table by its first bytes."""
    for signature, what in _FOREIGN.items():
        if content.startswith(signature):
            raise DataError(f"{label} is {what}.")
    if re.match(rb"\s*<(!doctype\s+html|html)", content[:200], re.IGNORECASE):
        raise DataError(f"{label} is a web page, not a table; the download may have failed.")


def _decode(content: bytes, label: str) -> tuple[str, str]:
    marked = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if marked else ("utf-8-sig", "cp1252"):
        try:
            text = content.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    else:
        tried = "not UTF-16 in spite of its byte order mark" if marked else "neither UTF-8 nor Windows-1252"
        raise DataError(f"{label} is not a text file that can be read ({tried}).")
    if encoding == "cp1252":
        logger.warning("%s is not UTF-8; read as Windows-1252, so look at letters with accents", label)
    control = re.search(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]", text)
    if control:
        line = text.count("\n", 0, control.start()) + 1
        raise DataError(f"{label} is not a text file: control character {control.group()!r} in line {line}.")
    return text, encoding.removesuffix("-sig")


def refuse_mismatch(text: str, kind: str, label: str) -> None:
    """Refuse text whose format is another one than its name says."""
    found = "SDF" if _is_sdf(text) else "JSON lines" if re.match(r'\s*\{\s*"', text) else ""
    wanted = {"sdf": "SDF", "jsonl": "JSON lines"}.get(kind, "")
    if found and found != wanted:
        raise DataError(f"{label} holds {found}, not {kind.upper()}; rename it so that its extension says so.")
    if kind == "sdf" and not re.search(r"^(M  END|\$\$\$\$)", text, re.MULTILINE):
        raise DataError(f"{label} is no SDF file: it has no 'M  END' line and no '$$$$' line.")


def _is_sdf(text: str) -> bool:
    # The counts line, fourth of a mol block, ends in the version; a CSV may well hold whole mol blocks in its cells.
    return re.match(r"(?:[^\n]*\n){3}[^\n]*V[23]000\s*$", text, re.MULTILINE) is not None


def _read_hub(name: str) -> RawTable:
    try:
        library = importlib.import_module("datasets")
    except ImportError:
        raise DataError(
            f"{name!r} is no file here; to read it as a Hugging Face dataset, install the extra: "
            "pip install 'moltune[hub]'."
        ) from None
    try:
        loaded = library.load_dataset(name)
        parts = dict(loaded) if isinstance(loaded, dict) else {"": loaded}
        frames = {part: table.to_pandas() for part, table in parts.items()}
    # The library raises errors of many packages (network, authentication, formats) without a common base.
    except Exception as error:
        raise DataError(
            f"{name!r} is no file here, and the Hugging Face dataset of that name could not be loaded "
            f"({type(error).__name__}: {one_line(error)}); check the name and the network."
        ) from None
    if not frames:
        raise DataError(f"The Hugging Face dataset {name!r} has no parts.")
    if len(frames) > 1:
        # The parts that the owner made stay known, so that a column split can use them.
        frames = {
            part: frame.assign(**{"hub_split" if "split" in frame.columns else "split": part})
            for part, frame in frames.items()
        }
    fingerprints = {part: getattr(data, "_fingerprint", None) for part, data in parts.items()}
    table = from_frame(pd.concat(frames.values(), ignore_index=True), name)
    return _named(table, name, "hub", fingerprints=fingerprints)


def _named(table: RawTable, source: str, kind: str, digest: str | None = None, **notes: Any) -> RawTable:
    provenance = {"source": source, "format": kind, "sha256": digest, **table.provenance, **notes}
    return replace(table, provenance=provenance)
