"""What stands before every request: limits of its size, who may ask, headers of the answer, and counting."""

from __future__ import annotations

import secrets
import time
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moltune.service.metrics import Metrics
from moltune.service.problems import Problem, response
from moltune.service.settings import ServiceSettings

BODY = 16 * 2**20
"""Bytes of a request that is no upload."""
UPLOADS = "/v1/jobs"
_FORM = 64 * 2**10
_HERE = {"localhost", "127.0.0.1", "::1"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Middleware around the whole application.

    Args:
        app: the application.
        settings: of the service.
        metrics: that are counted.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, begun, status = Headers(scope=scope), time.perf_counter(), 500

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    own.setdefault(name, value)
                if scope["path"].startswith("/v1"):
                    own.setdefault("Cache-Control", "no-store")
            await send(message)

        limit = self._limit(scope)
        try:
            problem = self._refusal(scope, headers, limit)
            if problem is not None:
                answer = response(problem.status_code, problem.kind, str(problem.detail), problem.headers)
                await answer(scope, receive, tell)
            else:
                await self.app(scope, _counted(receive, limit), tell)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - begun)

    def _limit(self, scope: Scope) -> int:
        upload = scope["method"] == "POST" and scope["path"] == UPLOADS
        return self.settings.limits.upload + _FORM if upload else BODY

    def _refusal(self, scope: Scope, headers: Headers, limit: int) -> Problem | None:
        token, path = self.settings.token, str(scope["path"])
        if token and path.startswith(("/v1", "/metrics")):
            sent = headers.get("authorization", "").encode("latin-1", "replace")
            if not secrets.compare_digest(sent, f"Bearer {token}".encode("latin-1", "replace")):
                detail = "This service asks for a token: send it as 'Authorization: Bearer TOKEN'."
                return Problem(401, "token", detail, {"WWW-Authenticate": "Bearer"})
        host = _name(headers.get("host", ""))
        # Without a token, a web page that makes its own name point here must not be answered.
        if not token and host not in _HERE:
            return Problem(403, "host", "Without a token, this service answers to localhost only.")
        origin = headers.get("origin")
        if origin is not None and scope["method"] != "GET" and _name(urlsplit(origin).netloc) != host:
            return Problem(403, "origin", "Requests from pages of other sites are not answered.")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return Problem(400, "invalid", "The length of the request is no number.")
        return _too_large(limit) if int(length) > limit else None


def _name(host: str) -> str:
    """A host without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _counted(receive: Receive, limit: int) -> Receive:
    size = 0

    async def counted() -> Message:
        nonlocal size
        message: Any = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise _too_large(limit)
        return dict(message)

    return counted


def _too_large(limit: int) -> Problem:
    return Problem(413, "too-large", f"The request is too large; {limit / 2**20:.0f} MB are taken.")
