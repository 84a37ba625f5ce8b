"""Callbacks told from one code on both routes: at once, or awaited in the caller's own event loop."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeAlias

Telling: TypeAlias = Generator[Any, Any, None]
"""Yields what each call of a callback manager returned, and is sent its value: an async one's is to be awaited."""


def told(telling: Telling) -> None:
    """Tell by a sync manager."""
    value = None
    while True:
        try:
            value = telling.send(value)
        except StopIteration:
            return


async def atold(telling: Telling) -> None:
    """Tell by an async manager: handlers that hold something of the event loop's are called in it."""
    value = None
    while True:
        try:
            call = telling.send(value)
        except StopIteration:
            return
        value = await call
