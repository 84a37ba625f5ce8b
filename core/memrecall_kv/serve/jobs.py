"""Changes of banks: one at a time, in the order they come, each with a number to ask about."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from memrecall_kv.errors import MemRecallError
from memrecall_kv.hosts.lazy import LazyBank
from memrecall_kv.serve.meters import Meters
from memrecall_kv.serve.refused import RefusedError
from memrecall_kv.types import IngestReport, Progress

logger = logging.getLogger(__name__)

Kind: TypeAlias = Literal["add", "delete", "compact"]
State: TypeAlias = Literal["waiting", "running", "done", "failed", "stopped"]

_OVER = frozenset({"done", "failed", "stopped"})
_RETRY_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Job:
    """A change as it stands.

    Attributes:
        id: Its number.
        kind: What is done.
        bank: To which bank.
        state: `stopped` is what a server that shut down did not end: send the same again.
        tokens_done: Of an addition, tokens that are in the bank's blocks.
        tokens_total: Of an addition, tokens known so far.
        report: Of an addition that is done.
        deleted: Of a deletion that is done, how many documents.
        freed_bytes: Of a compaction that is done.
        problem: Why it failed, as a refused request would be told.
        created: When it was asked for, in seconds since 1970.
    """

    id: str
    kind: Kind
    bank: str
    state: State = "waiting"
    tokens_done: int = 0
    tokens_total: int = 0
    report: IngestReport | None = None
    deleted: int | None = None
    freed_bytes: int | None = None
    problem: Mapping[str, Any] | None = None
    created: float = field(default_factory=time.time)

    @property
    def is_over(self) -> bool:
        """Return whether nothing will change any more."""
        return self.state in _OVER


Work: TypeAlias = Callable[[Progress], Mapping[str, Any]]
"""Does a change in a thread, calls the progress now and then, and returns the fields of the job that it knows."""

BankWork: TypeAlias = Callable[[LazyBank, Progress], Mapping[str, Any]]
"""The same of a bank."""


class _Stopped(Exception):  # noqa: N818 - it is none
    """Ends a change between two groups of chunks: what was made is durable."""


class Jobs:
    """Carries out changes in one thread.

    Args:
        meters: Are told how they ended.
        explain: Makes a problem of an error.
        most: Changes that wait besides the one that is carried out.
        kept: Changes that can still be asked about when they are over.
    """

    def __init__(
        self, meters: Meters, explain: Callable[[BaseException], Mapping[str, Any]], *, most: int, kept: int
    ) -> None:
        self._meters, self._explain, self._most, self._kept = meters, explain, most, kept
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memrecall_jobs")
        self._jobs: dict[str, Job] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self._stopping = threading.Event()
        meters.jobs_inside.set_function(self._inside)

    def submit(self, kind: Kind, bank: str, work: Work) -> Job:
        """Take a change on; to be called in the event loop.

        Raises:
            RefusedError: If too many wait, or the server shuts down.
        """
        if self._stopping.is_set() or self._inside() > self._most:
            raise RefusedError(
                503,
                f"Expected at most {self._most} changes to wait, and as many do, or the server shuts down.",
                "Send it again later.",
                {"Retry-After": str(_RETRY_SECONDS)},
            )
        job = Job(secrets.token_hex(8), kind, bank)
        self._jobs[job.id], self._changed[job.id] = job, asyncio.Event()
        self._forget()
        loop = asyncio.get_running_loop()
        running = self._thread.submit(self._run, job.id, work, loop)
        running.add_done_callback(lambda ended: loop.call_soon_threadsafe(self._end, job.id, ended))
        return job

    def __getitem__(self, job_id: str) -> Job:
        """Return a job as it stands; raises `KeyError` for one that is unknown or forgotten."""
        return self._jobs[job_id]

    async def follow(self, job_id: str) -> AsyncGenerator[Job, None]:
        """Yield a job as it stands, and again whenever that changes; who is slow misses what lies between."""
        while (job := self._jobs.get(job_id)) is not None:
            changed = self._changed[job_id]
            yield job
            if job.is_over:
                return
            await changed.wait()

    def stop(self) -> None:
        """Begin to end: what runs stops at the next group of chunks, what waits is not begun."""
        self._stopping.set()
        for job in [job for job in self._jobs.values() if job.state == "waiting"]:
            self._change(job.id, state="stopped")

    async def close(self) -> None:
        """Stop, and wait for it."""
        self.stop()
        await asyncio.to_thread(self._thread.shutdown)

    def _run(self, job_id: str, work: Work, loop: asyncio.AbstractEventLoop) -> Mapping[str, Any]:
        def change(**fields: Any) -> None:
            if self._stopping.is_set():
                raise _Stopped
            loop.call_soon_threadsafe(lambda: self._change(job_id, **fields))

        change(state="running")
        return work(lambda stage, done, total: change(tokens_done=done, tokens_total=total))

    def _end(self, job_id: str, ended: Future[Mapping[str, Any]]) -> None:
        error = ended.exception()
        if error is None:
            self._change(job_id, state="done", **ended.result())
        elif isinstance(error, _Stopped):
            self._change(job_id, state="stopped")
        else:
            if not isinstance(error, MemRecallError):
                logger.error("A job failed", exc_info=error)
            self._change(job_id, state="failed", problem=self._explain(error))
        job = self._jobs[job_id]
        self._meters.jobs.labels(job.kind, job.state).inc()

    def _change(self, job_id: str, **fields: Any) -> None:
        self._jobs[job_id] = replace(self._jobs[job_id], **fields)
        changed, self._changed[job_id] = self._changed[job_id], asyncio.Event()
        changed.set()

    def _inside(self) -> int:
        return sum(not job.is_over for job in list(self._jobs.values()))

    def _forget(self) -> None:
        over = [job.id for job in self._jobs.values() if job.is_over]
        for job_id in over[: max(0, len(over) - self._kept)]:
            del self._jobs[job_id], self._changed[job_id]
