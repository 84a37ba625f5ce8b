"""Errors as a client is told of them: problem JSON (RFC 9457), and in it the form that OpenAI's clients read."""

from __future__ import annotations

import http
import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from memrecall_kv.errors import (
    BankFullError,
    BankLockedError,
    ConfigError,
    ContextOverflowError,
    InputError,
    MemRecallError,
)
from memrecall_kv.serve.refused import RefusedError

_STATUS: tuple[tuple[type[MemRecallError], int], ...] = (
    (InputError, 422),
    (ConfigError, 422),
    (ContextOverflowError, 422),
    (BankLockedError, 409),
    (BankFullError, 507),
)
"""Of all others it is 500: what is wrong is on our side of the wire."""
_LONGEST = 500
"""Characters of what a client sent that it is told of again."""
MEDIA_TYPE = "application/problem+json"


def explained(error: BaseException, places: Mapping[str, str]) -> dict[str, Any]:
    """Return the problem that an error is; one that is none of ours says nothing of itself.

    Args:
        error: What was raised.
        places: Directories of banks, by name, in whose stead the names are told.
    """
    if isinstance(error, MemRecallError):
        message, hint = error.message, error.hint
        for name, place in places.items():
            message, hint = message.replace(place, name), hint.replace(place, name)
        return _problem(status_of(error), type(error).__name__, message, hint)
    return _problem(500, "InternalError", "The server failed.", "Tell whoever runs it; its log says where.")


def status_of(error: MemRecallError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, RefusedError):
        return error.status_code
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def problem_response(problem: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """Return a problem as a response; what no UTF-8 can hold is escaped."""
    return Response(json.dumps(problem), problem["status"], dict(headers or {}), MEDIA_TYPE)


def explain_on(app: FastAPI, places: Mapping[str, str]) -> None:
    """Make an app answer every error with a problem."""

    @app.exception_handler(MemRecallError)
    async def ours(request: Request, error: MemRecallError) -> Response:
        return problem_response(explained(error, places), error.headers if isinstance(error, RefusedError) else None)

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> Response:
        rules = [f"{_place(item['loc'])}: {item['msg']}, got {_shown(item.get('input'))}" for item in error.errors()]
        return problem_response(
            _problem(422, "InputError", f"Expected another request: {'; '.join(rules[:10])}.", "See /openapi.json.")
        )

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> Response:
        problem = _problem(
            error.status_code, "RequestError", f"{error.detail}.", "See /openapi.json for what there is."
        )
        return problem_response(problem, error.headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        return problem_response(explained(error, places))


def _problem(status: int, kind: str, detail: str, hint: str) -> dict[str, Any]:
    return {
        "type": f"urn:memrecall-kv:{kind}",
        "title": http.HTTPStatus(status).phrase if status in set(http.HTTPStatus) else kind,
        "status": status,
        "detail": detail,
        "hint": hint,
        "error": {"message": f"{detail} {hint}", "type": kind, "param": None, "code": None},
    }


def _place(parts: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in parts)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
