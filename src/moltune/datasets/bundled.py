"""Bundled benchmark tables: what there is, where it comes from, and a loader that verifies each file."""

from __future__ import annotations

import difflib
import gzip
import hashlib
import io
import json
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

import pandas as pd

from moltune.errors import DataError


@dataclass(frozen=True)
class DatasetInfo:
    """One bundled table of ``n`` rows.

    Attributes:
        target, unit: column that was measured, and its unit; 0 and 1 of two classes have none.
        licence: of the data, as far as known; DATA-LICENCES.md beside the tables says more.
        source, source_sha256: where this copy was taken from.
        sha256: of the bundled file.
    """

    name: str
    n: int
    target: str
    unit: str
    description: str
    licence: str
    citation: str
    source: str
    source_sha256: str
    sha256: str

    @property
    def file(self) -> Traversable:
        """The gzipped CSV file inside the package."""
        return _folder() / f"{self.name}.csv.gz"


def _folder() -> Traversable:
    return resources.files("moltune.datasets")


@cache
def _index() -> dict[str, DatasetInfo]:
    known = {field.name for field in fields(DatasetInfo)}
    entries = json.loads((_folder() / "index.json").read_text(encoding="utf-8"))
    return {entry["name"]: DatasetInfo(**{key: entry[key] for key in known}) for entry in entries}


def names() -> list[str]:
    """Names of the bundled tables."""
    return list(_index())


def info(name: str) -> DatasetInfo:
    """Describe a bundled table; upper and lower case are the same.

    Raises:
        DataError: there is no such table; the message lists those that exist.
    """
    index = _index()
    key = name.strip().lower()
    if key in index:
        return index[key]
    close = difflib.get_close_matches(key, index, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise DataError(f"There is no bundled dataset {name!r}; the bundled ones are {', '.join(index)}.{hint}")


def read_bytes(name: str) -> bytes:
    """The verified bytes of a bundled gzipped CSV file.

    Raises:
        DataError: no such table, or its file is missing or is not the one that was shipped.
    """
    entry = info(name)
    try:
        content = entry.file.read_bytes()
    except OSError:
        raise DataError(f"The bundled file {entry.name}.csv.gz is missing; reinstall moltune.") from None
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise DataError(
            f"The bundled file {entry.name}.csv.gz is damaged: its SHA-256 is {found[:12]}..., "
            f"not {entry.sha256[:12]}...; reinstall moltune."
        )
    return content


def load(name: str) -> pd.DataFrame:
    """Load a bundled table: ``"lipophilicity"``, ``"esol"``, ``"freesolv"`` or ``"b3db"``.

    Returns:
        A frame of ``info(name).n`` rows in the order of the source, with the columns ``id`` (text), ``smiles`` (as
        in the source, not canonicalised) and the target (float64) under the name ``info(name).target``.

    Raises:
        DataError: no such table, or its file does not have the checksum that it was shipped with.
    """
    entry = info(name)
    text = gzip.decompress(read_bytes(name))
    frame = pd.read_csv(io.BytesIO(text), dtype=str, keep_default_na=False)
    return frame.astype({entry.target: "float64"})
