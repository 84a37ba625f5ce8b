"""Spans of OpenTelemetry: one of a request, and in it those of a question's stages. No attribute holds a text.

Without an SDK that is set up they cost nothing and go nowhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.datastructures import Headers

_NAME = "memrecall_kv"
_NANO = 1_000_000_000


@contextmanager
def request_span(headers: Headers) -> Iterator[Span]:
    """Open the span of a request, below that of its caller if there is one; `told` names it."""
    context = propagate.extract(dict(headers))
    tracer = trace.get_tracer(_NAME)
    with tracer.start_as_current_span(
        "request", context, SpanKind.SERVER, record_exception=False, set_status_on_exception=False
    ) as span:
        yield span


def told(span: Span, *, method: str, route: str, status: int) -> None:
    """Say what a request was, by its route and not by its path: a path holds what a client wrote."""
    span.update_name(f"{method} {route}")
    span.set_attributes({"http.request.method": method, "http.route": route, "http.response.status_code": status})
    if status >= 500:
        span.set_status(StatusCode.ERROR)


def stage(name: str, seconds: float, **counts: int | str) -> None:
    """Tell of a stage of a question that has just ended: wait, recall or answer."""
    end = time.time_ns()
    span = trace.get_tracer(_NAME).start_span(f"memrecall.{name}", start_time=end - int(seconds * _NANO))
    span.set_attributes({f"memrecall.{key}": value for key, value in counts.items()})
    span.end(end)
