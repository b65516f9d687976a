"""Errors as RFC 9457 problem details: the one place that turns them into responses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class ProblemDetails(BaseModel):
    """What an error answers."""

    type: str = Field(description="a URN that programs can compare")
    title: str
    status: int
    detail: str = Field(description="what happened, and what to do")
    errors: list[dict[str, str]] = Field(default_factory=list, description="wrong fields of a request, if any")


class Problem(HTTPException):
    """An error with a kind that programs can compare and a sentence that people can read.

    Args:
        status: of HTTP.
        kind: such as ``busy``; ``urn:moltune:busy`` is its type.
        detail: what happened, and what to do.
        headers: of the response.
    """

    def __init__(self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)
        self.kind = kind


def busy(seconds: int) -> Problem:
    """The queue is full."""
    wait = str(max(1, seconds))
    return Problem(503, "busy", f"The service is busy: ask again in {wait} seconds.", headers={"Retry-After": wait})


def response(
    status: int,
    kind: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
    errors: list[dict[str, str]] | None = None,
) -> JSONResponse:
    """A problem as a response."""
    found = ProblemDetails(
        type=f"urn:moltune:{kind}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        errors=errors or [],
    )
    return JSONResponse(found.model_dump(), status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error with problem details."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses in the OpenAPI document of a route."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    kind = error.kind if isinstance(error, Problem) else HTTPStatus(error.status_code).name.lower().replace("_", "-")
    return response(error.status_code, kind, str(error.detail), error.headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # What was sent is not repeated: it may be long, and it may be secret.
    errors = [
        {"at": ".".join(map(str, one["loc"]))[:200], "message": str(one["msg"]).removeprefix("Value error, ")[:500]}
        for one in error.errors()[:20]
    ]
    detail = "; ".join(f"{one['at']}: {one['message']}" for one in errors[:3])
    return response(422, "invalid", f"The request cannot be used: {detail}.", errors=errors)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return response(500, "internal", "The service made a mistake; its log says which.")
