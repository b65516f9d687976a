"""Write a table in the format that its extension names, in one step or not at all."""

from __future__ import annotations

import gzip
import io
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moltune.errors import DataError


def write_table(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write ``frame`` without its index as .csv, .tsv, .parquet or .jsonl, or the gzip of a text format.

    The bytes depend on the frame alone. The file is complete or absent: it is written beside its place and moved.

    Returns:
        The path written.

    Raises:
        DataError: unknown extension, or the folder does not exist or cannot be written.
    """
    path = Path(path)
    suffix, packed = _format_of(path)
    content = _WRITERS[suffix](frame)
    write_bytes(gzip.compress(content, mtime=0) if packed else content, path)
    return path


def check_output(path: str | Path, *taken: str | Path) -> None:
    """Find out before any work whether a table can be written to ``path``.

    Args:
        path: where :func:`write_table` shall write.
        taken: files that it must not replace, such as the source; a name that is no file is ignored.

    Raises:
        DataError: unknown extension, a folder that does not exist, or a file that is taken.
    """
    path = Path(path)
    _format_of(path)
    if not path.parent.is_dir():
        raise DataError(f"Cannot write {path}: there is no folder {path.parent}.")
    if any(path.resolve() == Path(other).resolve() for other in taken):
        raise DataError(f"{path} would be written over; choose another name.")


def _format_of(path: Path) -> tuple[str, bool]:
    packed = path.name.lower().endswith(".gz")
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in _WRITERS or (packed and suffix in {".parquet", ".pq"}):
        raise DataError(f"Cannot tell the format of {path.name!r}; use .csv, .tsv, .jsonl (also .gz) or .parquet.")
    return suffix, packed


def write_bytes(content: bytes, path: Path) -> None:
    """Write a file atomically: a temporary file in the same folder, then ``os.replace``.

    Raises:
        DataError: the folder does not exist or cannot be written.
    """
    # Not tempfile: it makes private files, and a result should have the permissions of any new file.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error.strerror or error}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def _delimited(separator: str) -> Callable[[pd.DataFrame], bytes]:
    def write(frame: pd.DataFrame) -> bytes:
        text = frame.to_csv(index=False, sep=separator, lineterminator="\n")
        return text.encode("utf-8", "backslashreplace")

    return write


def _json_lines(frame: pd.DataFrame) -> bytes:
    # DataFrame.to_json rounds floats to 15 decimals, which turns 1e-20 into 0.
    records = frame.to_dict(orient="records")
    lines = [json.dumps({str(key): _plain(value) for key, value in record.items()}) for record in records]
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return value if isinstance(value, str | bool | int | float | dict) else str(value)


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    try:
        frame.to_parquet(buffer, index=False)
    # pyarrow's errors derive from ValueError, TypeError and others, depending on what does not fit a column type.
    except (ValueError, TypeError, NotImplementedError, UnicodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"The table does not fit into Parquet: {reason}; write CSV instead.") from None
    return buffer.getvalue()


_WRITERS: dict[str, Callable[[pd.DataFrame], bytes]] = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
    ".pq": _parquet,
}
