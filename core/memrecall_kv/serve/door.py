"""Who may come in, and with how much: keys, rate, size and pace, before a request is read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from fastapi.security.utils import get_authorization_scheme_param
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memrecall_kv.serve.keys import ANYBODY, Caller, KeyFile
from memrecall_kv.serve.problems import explained, problem_response
from memrecall_kv.serve.refused import RefusedError
from memrecall_kv.serve.settings import ServeSettings

OPEN = frozenset({"/", "/healthz"})
"""Paths that need no key."""
_MINUTE = 60.0
_ZEROS = 20
"""Of a number's digits, those that may stand in front for nothing."""


class Door:
    """Middleware that turns away who has no key, comes too often, brings too much, or is too slow.

    Args:
        app: What is behind it.
        keys: Who may come in; `None` lets everybody in.
        settings: Limits.
    """

    def __init__(self, app: ASGIApp, keys: KeyFile | None, settings: ServeSettings) -> None:
        self._app, self._keys, self._settings = app, keys, settings
        self._rate = None if settings.requests_per_minute is None else Rate(settings.requests_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            headers = Headers(scope=scope)
            scope.setdefault("state", {})["caller"] = self._admit(scope["path"], headers)
            self._check_length(headers.get("content-length"))
            await self._app(scope, Body(receive, self._settings).receive, watched)
        except RefusedError as refusal:
            if has_begun:
                raise
            await problem_response(explained(refusal, {}), refusal.headers)(scope, receive, send)

    def _admit(self, path: str, headers: Mapping[str, str]) -> Caller:
        if self._keys is None or path in OPEN:
            return ANYBODY
        scheme, key = get_authorization_scheme_param(headers.get("authorization"))
        caller = self._keys.caller(key) if scheme.lower() == "bearer" else None
        if caller is None:
            raise RefusedError(
                401,
                "Expected an API key that this server knows, got none or another one.",
                "Send it as: Authorization: Bearer KEY.",
                {"WWW-Authenticate": "Bearer"},
            )
        wait = self._rate.wait(caller.name) if self._rate else 0.0
        if wait:
            raise RefusedError(
                429,
                f"Expected at most {self._settings.requests_per_minute} requests a minute, got more.",
                "Ask again later.",
                {"Retry-After": str(int(wait) + 1)},
            )
        return caller

    def _check_length(self, length: str | None) -> None:
        # what is no number is the server's to refuse, and Python reads none of thousands of digits
        if length is not None and length.isdecimal():
            most = self._settings.max_request_bytes
            if len(length) > len(str(most)) + _ZEROS or int(length) > most:
                raise _too_large(self._settings)


class Body:
    """A request's body on its way in: counted, and not waited for longer than a body may take.

    Args:
        receive: Of ASGI.
        settings: Limits.
    """

    def __init__(self, receive: Receive, settings: ServeSettings) -> None:
        self._receive, self._settings = receive, settings
        self._end = asyncio.get_running_loop().time() + settings.body_seconds
        self._bytes = 0
        self._is_whole = False

    async def receive(self) -> Message:
        """Return the next message of the client's.

        Raises:
            RefusedError: If the body is too large, or does not come.
        """
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError as error:
            raise RefusedError(
                408,
                f"Expected the whole body within {self._settings.body_seconds:g} seconds.",
                "Send less at a time.",
                {"Connection": "close"},
            ) from error
        self._bytes += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._bytes > self._settings.max_request_bytes:
            raise _too_large(self._settings)
        return message


class Rate:
    """Counts requests by the name of who asks; a bucket that fills up again.

    Args:
        per_minute: Requests of one name, and how many may come at once.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._left: dict[str, tuple[float, float]] = {}

    def wait(self, name: str) -> float:
        """Count a request, and return 0.0; or return the seconds after which one is welcome."""
        now = time.monotonic()
        left, seen = self._left.get(name, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - seen) * self._per_minute / _MINUTE)
        self._left[name] = (left - 1.0 if left >= 1.0 else left, now)
        return 0.0 if left >= 1.0 else (1.0 - left) * _MINUTE / self._per_minute


def _too_large(settings: ServeSettings) -> RefusedError:
    return RefusedError(
        413,
        f"Expected a body of at most {settings.max_request_bytes} bytes, got more.",
        "Send fewer documents at a time.",
        {"Connection": "close"},
    )
