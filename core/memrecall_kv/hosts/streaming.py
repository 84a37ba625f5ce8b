"""A synchronous stream for an event loop, without blocking it: what the adapters' async methods are made of.

A stream may yield `None` to mark a step: nothing to hand on, but a place where an abandoned thread stops.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing, closing
from typing import TypeVar

from memrecall_kv.types import Event, Opened, Recall

T = TypeVar("T")


def opened(
    events: Generator[Event, None, None], tell: Callable[[Event], None] | None = None
) -> Generator[Recall | None, None, None]:
    """Yield each recall as its block is opened, and `None` at every other event.

    Args:
        events: From `MemRecall.walk` or `walk_documents`; closed with this generator.
        tell: Is told of every event.
    """
    with closing(events):
        for event in events:
            if tell is not None:
                tell(event)
            yield event.recall if isinstance(event, Opened) else None


async def gathered(stream: Callable[[], Generator[T | None, None, None]]) -> list[T]:
    """Return all that `in_thread` yields; cancelling stops the work."""
    async with aclosing(in_thread(stream)) as items:
        return [item async for item in items]


async def in_thread(
    stream: Callable[[], Generator[T | None, None, None]], thread: Executor | None = None
) -> AsyncGenerator[T, None]:
    """Yield what `stream()` yields but `None`, made in a thread that sees the caller's context.

    The generator runs from start to end in a single thread, because what it switches in PyTorch it
    switches for that thread, and it never waits for its reader. It takes none of the loop's few worker
    threads: what it waits for, such as a host's model, may need one.
    Leaving early (`aclose`, cancellation) closes the generator after the item it is working on.

    Args:
        stream: Makes the generator.
        thread: Whose turn it waits for, if it is not to have a thread of its own.
    """
    loop = asyncio.get_running_loop()
    items: asyncio.Queue[tuple[T] | None] = asyncio.Queue()
    abandoned = threading.Event()

    def work() -> None:
        generator = stream()
        try:
            for item in generator:
                if abandoned.is_set():
                    break
                if item is not None:
                    loop.call_soon_threadsafe(items.put_nowait, (item,))
        finally:
            generator.close()
            if not abandoned.is_set():
                loop.call_soon_threadsafe(items.put_nowait, None)

    executor = thread or ThreadPoolExecutor(max_workers=1, thread_name_prefix="memrecall")
    worker = loop.run_in_executor(executor, contextvars.copy_context().run, work)
    try:
        while (item := await items.get()) is not None:
            yield item[0]
        await worker  # raises what the stream raised
    finally:
        abandoned.set()
        worker.cancel()  # not started yet: never will be; running: ends by the flag
        if thread is None:
            executor.shutdown(wait=False)
