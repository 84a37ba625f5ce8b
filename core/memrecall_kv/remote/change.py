"""A change of a served bank, followed to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing

from memrecall_kv.errors import InputError, RemoteError, ServerUnreachableError
from memrecall_kv.remote import wire
from memrecall_kv.remote.connection import Connection
from memrecall_kv.remote.refusal import refusal
from memrecall_kv.remote.wire import Job
from memrecall_kv.types import Progress

_TRIES = 5
_WAIT = 1.0
"""Seconds until a change is asked about again whose stream broke off: to ask does nothing."""


class Change:
    """What a server took on.

    Args:
        connection: To the server.
        taken: What it said to that.
        progress: Is told how far it is.
    """

    def __init__(self, connection: Connection, taken: bytes, progress: Progress | None = None) -> None:
        self._connection, self._progress = connection, progress
        self._job: Job = wire.read(wire.JOB, taken)

    def ended(self) -> Job:
        """Wait for the end, and return the job.

        Raises:
            MemRecallError: If it failed, as the same change of a local bank would; or the server ended before it.
        """
        for tried in range(1, _TRIES + 1):
            try:
                with closing(self._followed()) as jobs:
                    for job in jobs:
                        self._tell(job)
            except ServerUnreachableError:
                if tried == _TRIES:
                    raise
            if self._is_over:
                break
            time.sleep(_WAIT)
        return self._checked()

    async def aended(self) -> Job:
        """Return what `ended` does, without blocking the loop."""
        for tried in range(1, _TRIES + 1):
            try:
                async with aclosing(self._afollowed()) as jobs:
                    async for job in jobs:
                        self._tell(job)
            except ServerUnreachableError:
                if tried == _TRIES:
                    raise
            if self._is_over:
                break
            await asyncio.sleep(_WAIT)
        return self._checked()

    def _followed(self) -> Generator[Job, None, None]:
        try:
            for _, data in wire.events(self._connection.lines("GET", self._path)):
                yield wire.read(wire.JOB, data)
        except InputError as error:
            raise _forgotten() from error

    async def _afollowed(self) -> AsyncGenerator[Job, None]:
        try:
            async for _, data in wire.aevents(self._connection.alines("GET", self._path)):
                yield wire.read(wire.JOB, data)
        except InputError as error:
            raise _forgotten() from error

    @property
    def _path(self) -> str:
        return f"/v1/jobs/{self._job.id}/events"

    @property
    def _is_over(self) -> bool:
        return self._job.state not in ("waiting", "running")

    def _tell(self, job: Job) -> None:
        self._job = job
        if self._progress is not None and job.tokens_total:
            self._progress("compress", job.tokens_done, job.tokens_total)

    def _checked(self) -> Job:
        if self._job.state == "done":
            return self._job
        if self._job.problem is not None:
            status = self._job.problem.get("status")
            raise refusal(status if isinstance(status, int) else 500, self._job.problem, shown="it")
        raise _forgotten()


def _forgotten() -> RemoteError:
    return RemoteError(
        "Expected the change to be done, and the server ended or stopped before it was.",
        "Make it again: what was done is kept, and an addition skips what the bank holds.",
    )
