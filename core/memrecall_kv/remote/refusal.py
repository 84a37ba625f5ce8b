"""What a server says instead of a result, as an error of this library: where possible, that of a local call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from memrecall_kv.errors import (
    AccessDeniedError,
    BankError,
    InputError,
    MemRecallError,
    RemoteError,
    ServerBusyError,
)

BUSY = frozenset({429, 503})
_MEDIA_TYPE = "application/problem+json"
_URN = "urn:memrecall-kv:"
_LONGEST = 2000
_ACCESS = "Pass the key as api_key=, or set MEMRECALL_API_KEY; memrecall-kv key makes one."


def _kinds(kind: type[MemRecallError]) -> dict[str, type[MemRecallError]]:
    found = {kind.__name__: kind} if kind.__init__ is MemRecallError.__init__ else {}
    for more in kind.__subclasses__():
        if more.__module__ == MemRecallError.__module__:
            found |= _kinds(more)
    return found


_LOCAL = _kinds(MemRecallError)
"""Errors by the names that problems have for them."""
_BY_STATUS: dict[int, type[MemRecallError]] = {400: InputError, 404: InputError, 405: BankError, 413: InputError}
"""What the server refuses on its own, as a local call would: unknown names, what is only read, too much at once."""


def problem_in(content_type: str, body: bytes) -> Mapping[str, Any] | None:
    """Return the problem that a response of ours holds; `None` if it is somebody else's."""
    if not content_type.startswith(_MEDIA_TYPE):
        return None
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) and str(found.get("type", "")).startswith(_URN) else None


def refusal(status: int, problem: Mapping[str, Any] | None, *, wait: float | None = None, shown: str) -> MemRecallError:
    """Return the error that a refused request is.

    Args:
        status: Of HTTP.
        problem: What the server says of it; `None` if it was not our server that answered.
        wait: Seconds after which it asks to be asked again.
        shown: Who was asked, for the message.
    """
    if problem is None:
        detail = (
            f"Expected an answer of a memrecall-kv server at {shown}, got HTTP status {status} from something else."
        )
        hint = "Check the URL, and what stands between, such as a proxy."
    else:
        detail, hint = _text(problem, "detail"), _text(problem, "hint")
        kind = str(problem["type"]).removeprefix(_URN)
        if kind in _LOCAL:
            return _LOCAL[kind](detail, hint)
        if kind == "RefusedError" and status in _BY_STATUS:
            return _BY_STATUS[status](detail, hint)
    if status in (401, 403):
        return AccessDeniedError(detail, hint if status == 403 else _ACCESS, status)
    if status in BUSY:
        return ServerBusyError(detail, hint, status, wait)
    return RemoteError(detail, hint, status)


def _text(problem: Mapping[str, Any], name: str) -> str:
    return str(problem.get(name, ""))[:_LONGEST]
