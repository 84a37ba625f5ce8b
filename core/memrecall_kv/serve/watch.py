"""What is told of every request: a line in the log and counts, neither with a text of the client's."""

from __future__ import annotations

import logging
import secrets
import time

from opentelemetry.trace import Span
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memrecall_kv.serve.meters import Meters
from memrecall_kv.serve.spans import request_span, told

logger = logging.getLogger(__name__)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_UNKNOWN = "unknown"


class Watch:
    """Middleware that counts, times and logs.

    Args:
        app: What is behind it.
        meters: Are told.
    """

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self._app, self._meters = app, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and tell of it when its last byte was sent."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, number = time.perf_counter(), 500, secrets.token_hex(8)

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", number.encode())]}
            await send(message)

        with request_span(Headers(scope=scope)) as span:
            try:
                await self._app(scope, receive, marked)
            finally:
                self._tell(scope, span, number, status, time.perf_counter() - began)

    def _tell(self, scope: Scope, span: Span, number: str, status: int, seconds: float) -> None:
        # the route, not the path: paths hold what clients write into them, and so do methods
        route = getattr(scope.get("route"), "path", _UNKNOWN)
        method = scope["method"] if scope["method"] in _METHODS else _UNKNOWN
        told(span, method=method, route=route, status=status)
        self._meters.requests.labels(route, method, status).inc()
        self._meters.request_seconds.labels(route).observe(seconds)
        caller = getattr(scope.get("state", {}).get("caller"), "name", "")
        fields = {"request": number, "route": route, "method": method, "status": status, "key": caller}
        logger.info("request", extra={"fields": {**fields, "seconds": round(seconds, 4)}})
