"""Who runs a model when several ask at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
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
            while (step := self.call(lambda: next(steps, _END))) is not _END:
                yield step  # type: ignore[misc]  # not the end
            return
        made: SimpleQueue[Future[T]] = SimpleQueue()
        is_closed = threading.Event()
        self._go_on(steps, made, is_closed)
        try:
            while (step := made.get().result()) is not _END:
                yield step
        finally:
            is_closed.set()

    def _go_on(self, steps: Iterator[T], made: SimpleQueue[Future[T]], is_closed: threading.Event) -> None:
        """Have the next step made, and then the one after it."""

        def is_made(step: Future[T]) -> None:
            made.put(step)
            if not is_closed.is_set() and step.exception() is None and step.result() is not _END:
                try:
                    self._go_on(steps, made, is_closed)
                except RuntimeError as error:  # the process ends
                    step = Future()
                    step.set_exception(error)
                    made.put(step)

        self._pool.submit(self._alone, partial(next, steps, _END)).add_done_callback(is_made)

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
                had_turn = self._turns[0] is mine
                self._turns.remove(mine)
                if had_turn and self._turns:
                    self._turns[0].release()

    def _mark(self) -> None:
        self._worker = threading.get_ident()
