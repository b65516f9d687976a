"""Files: written so that a killed process leaves the old or the new one, never half of one; and their digests."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from moltune.errors import RunFolderError

MOST_UNPACKED = 16 * 2**30
"""Bytes that a zip file may hold."""


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


def members(path: Path) -> list[str]:
    """Names of the files in a zip file; none where it is no such file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []


def unpacked(path: str | Path) -> Path:
    """The folder that a zip file holds, unpacked once for this process; any other path as it is.

    Raises:
        RunFolderError: the file is damaged, too large when unpacked, or names files outside of its folder.
    """
    path = Path(path)
    if path.suffix.lower() != ".zip" or not path.is_file():
        return path
    about = path.stat()
    return Path(_unpack(path.resolve(), about.st_mtime_ns, about.st_size).name)


@cache
def _unpack(path: Path, changed: int, size: int) -> tempfile.TemporaryDirectory[str]:
    """The folder vanishes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="moltune-")
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                name = PurePosixPath(entry.filename)
                if name.is_absolute() or ".." in name.parts or "\\" in entry.filename:
                    raise RunFolderError(f"{path} names a file outside of its folder ({entry.filename}): do not use it")
            if sum(entry.file_size for entry in archive.infolist()) > MOST_UNPACKED:
                raise RunFolderError(f"{path} would be larger than 16 GB when unpacked")
            archive.extractall(folder.name)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise RunFolderError(f"{path} cannot be unpacked ({error}): copy it again") from None
    return folder


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
