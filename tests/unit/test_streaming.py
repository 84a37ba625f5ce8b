"""Streams of the core's events as adapters read them: what is opened, in this thread or beside an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator

import pytest
from memrecall_kv.hosts.streaming import gathered, in_thread, opened
from memrecall_kv.types import Chunk, Event, Opened, Recall, Scored, Step

RECALL = Recall(Chunk("doc", 0, 0, 3, "yes", 3), 0.9, 0)
EVENTS: list[Event] = [Scored(Step(0, "doc#0", 0.9, True)), Opened(RECALL), Scored(Step(0, "doc#1", 0.1, False))]


def test_each_event_is_told_and_each_opening_handed_on() -> None:
    told: list[Event] = []
    events = (event for event in EVENTS)
    assert list(opened(events, told.append)) == [None, RECALL, None]
    assert told == EVENTS


def test_leaving_early_closes_the_events_too() -> None:
    events = (event for event in EVENTS)
    recalls = opened(events)
    next(recalls)
    recalls.close()
    assert list(events) == []


async def test_a_loop_gets_what_is_opened_from_one_other_thread() -> None:
    threads: set[int] = set()

    def stream() -> Generator[Recall | None, None, None]:
        for recall in opened(event for event in EVENTS):
            threads.add(threading.get_ident())
            yield recall

    assert await gathered(stream) == [RECALL]
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_a_step_without_a_result_is_where_an_abandoned_thread_stops() -> None:
    reached, go, closed = threading.Event(), threading.Event(), threading.Event()

    def stream() -> Generator[int | None, None, None]:
        try:
            reached.set()
            go.wait()
            while True:
                yield None
        finally:
            closed.set()

    task = asyncio.create_task(gathered(stream))
    await asyncio.to_thread(reached.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await asyncio.to_thread(closed.wait)


async def test_what_a_stream_raises_is_raised_in_the_loop() -> None:
    def stream() -> Generator[int, None, None]:
        yield 1
        raise LookupError("gone")

    got = []
    with pytest.raises(LookupError, match="gone"):
        async for item in in_thread(stream):
            got.append(item)
    assert got == [1]
