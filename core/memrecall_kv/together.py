"""Several questions, worked on at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing

from memrecall_kv.config import check_count
from memrecall_kv.types import Answer, Done, Event


def asked_together(
    stream: Callable[[str], Generator[Event, None, None]], questions: Iterable[str], at_once: int
) -> list[Answer]:
    """Return the answers to questions, in order; the first error is raised, and the other questions are given up.

    Args:
        stream: Yields what happens while a question is answered, `Done` last; called by several threads.
        questions: What is asked.
        at_once: Most questions that are worked on at the same time, at least 1.
    """
    is_over = threading.Event()

    def answer(question: str) -> Answer:
        with closing(stream(question)) as events:
            for event in events:
                if isinstance(event, Done):
                    return event.answer
                if is_over.is_set():
                    break
        raise CancelledError  # nobody waits for it

    pool = ThreadPoolExecutor(check_count("at_once", at_once), thread_name_prefix="memrecall-questions")
    try:
        return list(pool.map(answer, questions))
    finally:
        is_over.set()
        pool.shutdown(wait=False, cancel_futures=True)
