"""The queue of questions: several are answered at once, and not too many wait."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from memrecall_kv.hosts.streaming import in_thread
from memrecall_kv.serve.meters import Meters
from memrecall_kv.serve.question import Question
from memrecall_kv.serve.refused import RefusedError
from memrecall_kv.serve.spans import stage
from memrecall_kv.types import Done, Event, Token

if TYPE_CHECKING:  # imports torch
    from memrecall_kv.pipeline import MemRecall

T = TypeVar("T")

_RETRY_SECONDS = 5


class QuestionQueue:
    """Answers questions in the order they come, in threads that never wait for a reader.

    The threads compute nothing: what they need of the model meets in its scheduler, and is done there together.

    Args:
        memory: Answers.
        meters: Are told how long it took, and how it ended.
        at_once: Questions that are answered at the same time.
        most: Questions that wait besides.
    """

    def __init__(self, memory: MemRecall, meters: Meters, at_once: int, most: int) -> None:
        self._memory, self._meters, self._at_once, self._most = memory, meters, at_once, most
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="memrecall_questions")
        self._inside: set[object] = set()
        meters.questions_inside.set_function(lambda: len(self._inside))

    def ask(self, question: Question) -> AsyncGenerator[Event, None]:
        """Return the events of a question, to be read until `Done`; closing it early stops the work.

        Raises:
            RefusedError: If too many wait.
        """
        asked = time.perf_counter()
        return self.run(lambda: self._timed(question.events(self._memory), asked))

    def run(self, work: Callable[[], Generator[T | None, None, None]]) -> AsyncGenerator[T, None]:
        """Return what a generator yields, made in its turn among the questions; as `ask`."""
        if len(self._inside) >= self._at_once + self._most:
            raise RefusedError(
                503,
                f"Expected at most {self._most} questions to wait, and as many do.",
                "Ask again in some seconds.",
                {"Retry-After": str(_RETRY_SECONDS)},
            )
        return self._read(work)

    def close(self) -> None:
        """Wait until the questions that were taken on are done."""
        self._threads.shutdown()

    async def _read(self, work: Callable[[], Generator[T | None, None, None]]) -> AsyncGenerator[T, None]:
        ticket = object()
        self._inside.add(ticket)
        has_begun: list[bool] = []
        try:
            async with aclosing(in_thread(partial(self._turn, work, ticket, has_begun), self._threads)) as items:
                async for item in items:
                    yield item
        finally:
            if not has_begun:  # nor ever will
                self._inside.discard(ticket)

    def _turn(
        self, work: Callable[[], Generator[T | None, None, None]], ticket: object, has_begun: list[bool]
    ) -> Generator[T | None, None, None]:
        has_begun.append(True)
        try:
            with closing(work()) as items:
                yield from items
        finally:
            self._inside.discard(ticket)

    def _timed(self, events: Generator[Event, None, None], asked: float) -> Generator[Event, None, None]:
        """Yield events, and tell the meters of their stages and of how they ended."""
        began = time.perf_counter()
        self._ended("wait", began - asked)
        outcome, recalled = "failed", 0.0
        try:
            with closing(events):
                for event in events:
                    if not recalled and isinstance(event, Token | Done):
                        recalled = time.perf_counter()
                        self._ended("recall", recalled - began)
                    if isinstance(event, Done):
                        usage, outcome = event.answer.usage, "found" if event.answer.found else "not_found"
                        counts = {"blocks_scored": usage.blocks_scored, "blocks_opened": usage.blocks_opened}
                        self._ended("answer", time.perf_counter() - recalled, outcome=outcome, **counts)
                    yield event
        except GeneratorExit:
            outcome = "cancelled" if outcome == "failed" else outcome
            raise
        finally:
            self._meters.questions.labels(outcome).inc()

    def _ended(self, name: str, seconds: float, **counts: int | str) -> None:
        self._meters.stage_seconds.labels(name).observe(seconds)
        stage(name, seconds, **counts)
