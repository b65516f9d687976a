"""Write a table in the format that its extension names, in one step or not at all."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moltune.errors import DataError, one_line
from moltune.files import replacing


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
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error.strerror or error}.") from None
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


def as_csv(frame: pd.DataFrame, separator: str = ",", header: bool = True) -> bytes:
    """The frame as delimited text, without its index."""
    if frame.columns.is_unique:
        floats = [name for name in frame.columns if pd.api.types.is_float_dtype(frame[name])]
        frame = frame.assign(**{name: _texts(frame[name]) for name in floats})
    return frame.to_csv(index=False, header=header, sep=separator, lineterminator="\n").encode(
        "utf-8", "backslashreplace"
    )


def _texts(numbers: pd.Series) -> pd.Series:
    """Floats as text; "1.234" gets a zero behind it, since with a decimal comma it is a thousand and more."""
    texts = numbers.astype(str).str.replace(r"^-?[1-9]\d{0,2}\.\d{3}$", r"\g<0>0", regex=True)
    return texts.where(numbers.notna(), None)


def as_json_lines(frame: pd.DataFrame) -> bytes:
    """The frame as one JSON object per row."""
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
        raise DataError(f"The table does not fit into Parquet: {one_line(error)}; write CSV instead.") from None
    return buffer.getvalue()


_WRITERS: dict[str, Callable[[pd.DataFrame], bytes]] = {
    ".csv": as_csv,
    ".tsv": lambda frame: as_csv(frame, "\t"),
    ".jsonl": as_json_lines,
    ".ndjson": as_json_lines,
    ".parquet": _parquet,
    ".pq": _parquet,
}
