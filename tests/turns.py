"""Turns of a backbone's scheduler, held until those who are to meet there wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from memrecall_kv.backbone.scheduler import Scheduler
from patience import PATIENCE


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not is_so() and time.monotonic() < end:
        time.sleep(0.001)


def waiting_in(scheduler: Scheduler) -> int:
    """Return how many calls of other threads than the main one wait."""
    return scheduler._pool._work_queue.qsize()


@contextmanager
def held(scheduler: Scheduler, waiting: int) -> Iterator[None]:
    """Let nobody have a turn until so many wait for theirs."""
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        free.wait(PATIENCE)

    def release() -> None:
        wait_until(lambda: waiting_in(scheduler) >= waiting)
        free.set()

    holding = threading.Thread(target=scheduler.call, args=(hold,))
    holding.start()
    held.wait(PATIENCE)
    releasing = threading.Thread(target=release)
    releasing.start()
    yield
    for thread in (holding, releasing):
        thread.join(PATIENCE)
