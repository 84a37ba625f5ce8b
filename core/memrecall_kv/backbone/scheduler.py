"""Who runs a model when several ask at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

_END = object()


class Scheduler:
    """Runs calls one at a time: those of the main thread there, those of all other threads in one more, in their order.

    A thread that runs a model keeps buffers and kernels of its own for ever: eight that took turns at a lock needed
    over twice the memory of one (docs/log.md). The main thread runs its own calls, so that Ctrl-C stops them at once;
    it and the other take turns. What several wait for may be done in one turn: see `decoding.Rows`.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="memrecall-kv", initializer=self._mark)
        self._worker = 0
        self._is_mains = False
        self._turns: deque[threading.Lock] = deque()  # of who has the turn, which is open, and of who waits for it
        self._passing = threading.Lock()

    def call(self, call: Callable[[], T]) -> T:
        """Return what a call returns, or raise what it raises; a call may ask for a turn within its own."""
        here = threading.get_ident()
        if here == self._worker:
            return call()
        if here != threading.main_thread().ident:
            return self._pool.submit(self._alone, call).result()
        if self._is_mains:
            return call()
        self._is_mains = True
        try:
            return self._alone(call)
        finally:
            self._is_mains = False

    def each(self, steps: Iterator[T]) -> Iterator[T]:
        """Yield what an iterator yields: every step is a turn, and the time between two is not.

        The main thread's steps are made as they are asked for. Another's follow each other until this is closed, ahead
        of a reader who is slow: so that texts which are written at the same time keep step.
        """
        if threading.get_ident() in {self._worker, threading.main_thread().ident}:
            while (own := self.call(lambda: next(steps, _END))) is not _END:
                yield own  # type: ignore[misc]  # not the end
            return
        made: SimpleQueue[Future[T]] = SimpleQueue()
        stepping, is_closed = threading.Lock(), False

        def step() -> T:
            with stepping:
                return _END if is_closed else next(steps, _END)  # type: ignore[return-value]  # or the end

        def go_on() -> None:
            self._pool.submit(self._alone, step).add_done_callback(is_made)

        def is_made(item: Future[T]) -> None:
            made.put(item)
            if item.exception() is None and item.result() is not _END:
                try:
                    go_on()
                except RuntimeError as error:  # the process ends
                    failed: Future[T] = Future()
                    failed.set_exception(error)
                    made.put(failed)

        go_on()
        try:
            while (item := made.get().result()) is not _END:
                yield item
        finally:
            with stepping:
                is_closed = True
                if isinstance(steps, Generator):
                    steps.close()

    def _alone(self, call: Callable[[], T]) -> T:
        with self._turn():
            return call()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        mine = threading.Lock()
        mine.acquire()
        try:
            with self._passing:
                self._turns.append(mine)
                if self._turns[0] is mine:
                    mine.release()
            mine.acquire()
            yield
        finally:  # also of who is interrupted while it waits
            with self._passing:
                if mine in self._turns:  # or it was interrupted before it stood there
                    had_turn = self._turns[0] is mine
                    self._turns.remove(mine)
                    if had_turn and self._turns:
                        self._turns[0].release()

    def _mark(self) -> None:
        self._worker = threading.get_ident()
