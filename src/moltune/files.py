"""Files: written so that a killed process leaves the old or the new one, never half of one; and their digests."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moltune.errors import RunFolderError


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name in the folder of ``path``; what was written there takes its place at the end.

    The temporary file keeps the suffix of ``path``, since some writers choose their format by it. When the block
    raises, ``path`` stays as it was.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    # Not tempfile: it makes private files, and a result should have the permissions of any new file.
    temporary = path.with_name(f".{secrets.token_hex(6)}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_free(folder: str | Path) -> None:
    """Refuse a folder that holds something already.

    Raises:
        RunFolderError: it does, or is a file.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(f"{folder} exists already; choose another folder")


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file as UTF-8 with Unix line ends, atomically; return its path."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def write_json(path: str | Path, values: Any) -> Path:
    """Write a JSON file atomically; return its path.

    Raises:
        ValueError: a number is not finite.
    """
    return write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")
