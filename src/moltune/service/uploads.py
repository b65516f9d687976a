"""Files that come in: which kinds are taken, and what their unpacking would cost."""

from __future__ import annotations

import gzip
import re
import zipfile
import zlib
from pathlib import Path
from typing import cast

from moltune.service.problems import Problem

KINDS = ("csv", "tsv", "txt", "smi", "smiles", "sdf", "xlsx")
"""Endings of files that are taken; text may end in .gz, too."""
FORMATS = ("csv", "tsv", "xlsx", "sdf", "smi", "jsonl", "parquet")
"""What results are written as."""
_BLOCK = 2**20
# Tables of text pack to a tenth; nothing honest packs to a two-hundredth.
_RATIO, _HARMLESS = 200, 8 * 2**20


def kind_of(name: str) -> str:
    """Ending of an upload, from the name that the client gave it.

    Raises:
        Problem: no such file is taken.
    """
    lower = name.lower().strip()
    packed = lower.endswith(".gz")
    ending = lower.removesuffix(".gz").rpartition(".")[2] if "." in lower else ""
    if ending not in KINDS or (packed and ending == "xlsx"):
        listed = ", ".join(f".{one}" for one in KINDS)
        raise Problem(422, "unknown-format", f"Send a file that ends in {listed}, or text of these packed as .gz.")
    return f"{ending}.gz" if packed else ending


def output_kind(wanted: str | None, kind: str) -> str:
    """Ending of the result: what is wanted, or that of the upload where such files are written.

    Raises:
        Problem: no such file is written.
    """
    if wanted:
        if wanted not in FORMATS:
            raise Problem(422, "unknown-format", f"A result is written as one of {', '.join(FORMATS)}.")
        return wanted
    own = kind.removesuffix(".gz")
    return own if own in ("tsv", "xlsx", "sdf") else "csv"


def safe_name(name: str) -> str:
    """A name for downloads: what a client may show, and no path."""
    last = re.split(r"[\\/]", name)[-1]
    return re.sub(r"[^\w. ()+-]", "_", last)[:100].strip(" .") or "molecules"


def check_packed(path: Path, limit: int) -> None:
    """Find out by unpacking, and keeping nothing, whether a file stays within a limit.

    Raises:
        Problem: it does not, or cannot be unpacked.
    """
    with path.open("rb") as stream:
        head = stream.read(4)
    try:
        if head.startswith(b"\x1f\x8b"):
            with gzip.open(path) as unpacked:
                _count(unpacked, path.stat().st_size, limit)
        elif head.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
                if len(entries) > 10_000:
                    raise _too_large(limit)
                total = 0
                for entry in entries:
                    # What an entry says of its size need not be true.
                    entry.file_size = limit + 1
                    with archive.open(entry) as member:
                        total += _count(cast(zipfile.ZipExtFile, member), max(entry.compress_size, 1), limit - total)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError):
        raise Problem(422, "damaged", "The file is packed, and cannot be unpacked: make it again.") from None


def _count(stream: gzip.GzipFile | zipfile.ZipExtFile, packed: int, limit: int) -> int:
    size = 0
    while block := stream.read(_BLOCK):
        size += len(block)
        if size > limit or (size > _HARMLESS and size > _RATIO * packed):
            raise _too_large(limit)
    return size


def _too_large(limit: int) -> Problem:
    return Problem(413, "too-large", f"Unpacked, the file would be too large; {limit / 2**20:.0f} MB are taken.")
