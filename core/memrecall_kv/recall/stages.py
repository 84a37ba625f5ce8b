"""What the stages of one question take: seconds of the clock, and bytes of blocks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from memrecall_kv.types import Stage

T = TypeVar("T")


class Stages:
    """Adds up what each stage takes; one stage runs at a time, and none inside another."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._bytes: Counter[str] = Counter()
        self._running = ""

    @property
    def taken(self) -> tuple[Stage, ...]:
        """Return what was taken so far, in the order in which the stages first ran."""
        return tuple(Stage(name, seconds, self._bytes[name]) for name, seconds in self._seconds.items())

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the time of the block for a stage."""
        began, self._running = time.perf_counter(), name
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yield items, and count the time in which they are made: what becomes of them between two is not ours."""
        end, left = object(), iter(items)
        while True:
            with self.timed(name):
                item = next(left, end)
            if item is end:
                return
            yield item  # type: ignore[misc]  # not the end

    def read(self, size: int) -> None:
        """Count bytes for the stage that runs."""
        self._bytes[self._running] += size
