"""Who runs a model when several ask at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Scheduler:
    """Runs calls one at a time: those of the main thread there, those of all other threads in one more.

    A thread that runs a model keeps buffers and kernels of its own for ever: eight that took turns at a lock needed
    over twice the memory of one (docs/log.md). The main thread runs its own calls, so that Ctrl-C stops them at once.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="memrecall-kv", initializer=self._mark)
        self._worker = 0

    def call(self, call: Callable[[], T]) -> T:
        """Return what a call returns, or raise what it raises; a call may ask for a turn within its own."""
        here = threading.get_ident()
        if here in {self._worker, threading.main_thread().ident}:
            return self._alone(call)
        return self._pool.submit(self._alone, call).result()

    def each(self, steps: Iterator[T]) -> Iterator[T]:
        """Yield what an iterator yields: every step is a turn, and the time between two is not."""
        end = object()
        while True:
            step = self.call(lambda: next(steps, end))
            if step is end:
                return
            yield step  # type: ignore[misc]  # not the end

    def _mark(self) -> None:
        self._worker = threading.get_ident()

    def _alone(self, call: Callable[[], T]) -> T:
        with self._lock:
            return call()
