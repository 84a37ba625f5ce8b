"""What the server says no to, with the HTTP status of its no."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import HTTPException

from memrecall_kv.errors import MemRecallError


class RefusedError(MemRecallError, HTTPException):
    """A request that is not carried out.

    It is one of FastAPI's own exceptions too, which lets no other one out of the reading of a body.

    Args:
        status: Of HTTP.
        message: What was expected and what was got.
        hint: What to do about it.
        headers: Of the response.
    """

    def __init__(self, status: int, message: str, hint: str, headers: Mapping[str, str] | None = None) -> None:
        MemRecallError.__init__(self, message, hint)
        HTTPException.__init__(self, status, message, dict(headers or {}))


def not_there(kind: str, name: str, hint: str) -> RefusedError:
    """Return what is said of something that is not there, or that the caller is not to know of: the same."""
    return RefusedError(404, f"There is no {kind} {name!r}.", hint)
