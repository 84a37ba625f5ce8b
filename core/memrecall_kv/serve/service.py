"""What the routes share: the parts of one running server."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import anyio.to_thread
from fastapi import Depends, Request

from memrecall_kv.hosts.lazy import LazyBank
from memrecall_kv.serve.jobs import Job, Jobs
from memrecall_kv.serve.keys import Caller
from memrecall_kv.serve.meters import Meters
from memrecall_kv.serve.problems import explained
from memrecall_kv.serve.questions import QuestionQueue
from memrecall_kv.serve.refused import not_there
from memrecall_kv.serve.settings import ServeSettings
from memrecall_kv.serve.shelf import Shelf

if TYPE_CHECKING:  # imports torch
    from memrecall_kv.pipeline import MemRecall


@dataclass(frozen=True)
class Service:
    """The parts of a server.

    Attributes:
        memory: Answers.
        shelf: Its banks.
        questions: Those that wait.
        jobs: Changes of banks.
        meters: What was counted.
        settings: Limits.
        started: When, in seconds since 1970.
    """

    memory: MemRecall
    shelf: Shelf
    questions: QuestionQueue
    jobs: Jobs
    meters: Meters
    settings: ServeSettings
    started: int

    def names(self, caller: Caller) -> list[str]:
        """Return the names of the banks that a caller may use."""
        return [name for name in self.shelf.names if caller.may_use(name)]

    def bank(self, name: str, caller: Caller) -> LazyBank:
        """Return a bank.

        Raises:
            RefusedError: If there is none of this name, as far as the caller is concerned.
        """
        if name in self.names(caller):
            return self.shelf[name]
        raise not_there("bank", name, "See those you may use with GET /v1/banks.")

    def job(self, job_id: str, caller: Caller) -> Job:
        """Return a job; raises like `bank`."""
        try:
            job = self.jobs[job_id]
        except KeyError:
            job = None
        if job is None or not caller.may_use(job.bank):
            raise not_there("job", job_id, "Jobs are forgotten when the server ends; what is done stays done.")
        return job


@asynccontextmanager
async def running(
    memory: MemRecall, shelf: Shelf, meters: Meters, settings: ServeSettings
) -> AsyncGenerator[Service, None]:
    """Yield the parts of a server, at work; at the end what was begun is ended, and the banks are closed."""
    at_once = settings.questions_at_once(memory.backbone.device.type)
    questions = QuestionQueue(memory, meters, at_once, settings.max_waiting_questions)
    explain = partial(explained, places=shelf.places)
    jobs = Jobs(meters, explain, most=settings.max_waiting_jobs, kept=settings.max_kept_jobs)
    try:
        yield Service(memory, shelf, questions, jobs, meters, settings, int(time.time()))
    finally:
        await jobs.close()
        await anyio.to_thread.run_sync(questions.close)
        shelf.close()


def service_of(request: Request) -> Service:
    """Return the server's parts."""
    service: Service = request.app.state.service
    return service


def caller_of(request: Request) -> Caller:
    """Return who asks; the door has found it out."""
    caller: Caller = request.state.caller
    return caller


Parts = Annotated[Service, Depends(service_of)]
Asker = Annotated[Caller, Depends(caller_of)]
