"""The page's files, read once: no path of a request touches the file system."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from importlib import resources

from fastapi import Request, Response

_PACKED_KINDS = (".js", ".css", ".html", ".svg", ".json")
_YEAR = "public, max-age=31536000, immutable"
MISSING = b"<!doctype html><title>moltune</title><p>The page is not in this installation: install the wheel."


@dataclass(frozen=True)
class Asset:
    """A file of the page.

    Attributes:
        content: as it is.
        packed: with gzip; None: it would not help.
        media_type: of the content.
        tag: for caches.
        lasting: whether its name changes with its content.
    """

    content: bytes
    packed: bytes | None
    media_type: str
    tag: str
    lasting: bool


@cache
def assets() -> dict[str, Asset]:
    """Name → file; the page itself is ``index.html``."""
    folder = resources.files("moltune.service") / "static"
    found = {"index.html": _asset("index.html", MISSING)}
    if folder.is_dir():
        found |= {one.name: _asset(one.name, one.read_bytes()) for one in folder.iterdir() if one.is_file()}
    return found


def _asset(name: str, content: bytes) -> Asset:
    packed = gzip.compress(content, 9, mtime=0) if name.endswith(_PACKED_KINDS) else None
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    if kind.startswith("text/") or kind.endswith("javascript"):
        kind = f"{kind}; charset=utf-8"
    return Asset(content, packed, kind, f'"{hashlib.sha256(content).hexdigest()[:20]}"', name != "index.html")


def answer(request: Request, asset: Asset) -> Response:
    """Send a file, packed where the client takes that."""
    headers = {"ETag": asset.tag, "Vary": "Accept-Encoding", "Cache-Control": _YEAR if asset.lasting else "no-cache"}
    if request.headers.get("if-none-match") == asset.tag:
        return Response(status_code=304, headers=headers)
    if asset.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        return Response(asset.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=asset.media_type)
    return Response(asset.content, headers=headers, media_type=asset.media_type)
