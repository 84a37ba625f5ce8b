"""Work for a client that may leave: cancelled then, and told piece by piece as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse

from memrecall_kv.errors import MemRecallError
from memrecall_kv.serve.problems import explained
from memrecall_kv.serve.refused import RefusedError
from memrecall_kv.serve.service import Service

T = TypeVar("T")

_EVENT = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": _EVENT}}}}
"""What a route that may stream says of it."""
_END = object()
_PING = ": still at work\n\n"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""So that nothing between us and the client keeps pieces back."""


def event(data: Any, name: str | None = None) -> str:
    """Return one server-sent event with data in JSON, which has no line breaks."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n"


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what work returns; if the client leaves before, the work is cancelled.

    Raises:
        RefusedError: If it left; nobody reads that.
    """
    tasks = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        raise RefusedError(499, "The client left before its answer was ready.", "Wait longer.")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def gathered(items: AsyncGenerator[T, None]) -> list[T]:
    """Return all that comes."""
    async with aclosing(items):
        return [item async for item in items]


async def streamed(
    request: Request,
    service: Service,
    items: AsyncGenerator[T, None],
    tell: Callable[[T], Iterator[str]],
    end: str = "",
) -> StreamingResponse:
    """Return a response that tells items as they come; what goes wrong before the first is an error like any other.

    Args:
        request: Whose client may leave.
        service: The server's parts.
        items: What comes, one at least.
        tell: Makes events of an item.
        end: What is sent at the end; not after an error.
    """
    async with AsyncExitStack() as undo:
        undo.push_async_callback(items.aclose)
        first = await while_connected(request, _first(items))
        undo.pop_all()

    async def pieces() -> AsyncGenerator[str, None]:
        async with aclosing(items):
            for piece in tell(first):
                yield piece
            try:
                async for item in _with_pings(items, service.settings.ping_seconds):
                    for piece in tell(item) if item is not None else (_PING,):
                        yield piece
            except MemRecallError as error:
                yield event(explained(error, service.shelf.places), "error")
                return
            if end:
                yield end

    return StreamingResponse(pieces(), media_type="text/event-stream", headers=_HEADERS)


async def _left(request: Request) -> None:
    """Wait until the client leaves; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _first(items: AsyncGenerator[T, None]) -> T:
    return await anext(items)


async def _with_pings(items: AsyncGenerator[T, None], seconds: float) -> AsyncGenerator[T | None, None]:
    """Yield what comes, and `None` whenever nothing has come for so long."""
    while True:
        coming = asyncio.ensure_future(anext(items, _END))
        try:
            while not (await asyncio.wait({coming}, timeout=seconds))[0]:
                yield None
            item = coming.result()
        finally:
            if not coming.done():
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
        if item is _END:
            return
        yield item  # type: ignore[misc]  # not the end
