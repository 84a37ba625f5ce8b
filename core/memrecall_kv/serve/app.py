"""START HERE. The parts of a server, put together into an ASGI app.

A request comes in by `watch.py` and `door.py`, is read by one of the routes (`documents.py`, `asking.py`, `chat.py`,
`responses.py`, `rerank.py`, `pages.py`, `operations.py`) and waits in `questions.py`, or in `jobs.py` if it changes a
bank.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from pydantic import BaseModel

from memrecall_kv.serve import asking, chat, documents, operations, pages, rerank, responses
from memrecall_kv.serve.door import Door
from memrecall_kv.serve.keys import KeyFile
from memrecall_kv.serve.meters import Meters
from memrecall_kv.serve.problems import MEDIA_TYPE, explain_on
from memrecall_kv.serve.service import running as working
from memrecall_kv.serve.settings import ServeSettings
from memrecall_kv.serve.shelf import Shelf
from memrecall_kv.serve.watch import Watch

if TYPE_CHECKING:  # imports torch
    from memrecall_kv.pipeline import MemRecall

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts that only this machine reaches."""


class Problem(BaseModel):
    """What went wrong, and what to do about it.

    Attributes:
        error: The same in the form that OpenAI's clients read.
    """

    type: str
    title: str
    status: int
    detail: str
    hint: str
    error: dict[str, str | None]


def build_app(
    memory: MemRecall,
    banks: Iterable[Path],
    *,
    keys: KeyFile | None = None,
    read_only: bool = False,
    defer: bool = False,
    settings: ServeSettings | None = None,
    with_mcp: bool = False,
) -> FastAPI:
    """Return an ASGI app that serves banks.

    Args:
        memory: Answers the questions.
        banks: Directories; served under their names without `.bank`.
        keys: Who may ask; `None` lets everybody who reaches this machine by a local name.
        read_only: Whether no bank may be changed.
        defer: Whether only texts are stored, and a question compresses what it comes near.
        settings: Limits.
        with_mcp: Whether the Model Context Protocol is spoken too, at `/mcp`; needs the extra `mcp`.

    Raises:
        ConfigError: If questions were to compress what may only be read.
        InputError: If names of banks collide, or cannot be written in a path.
        BankError: If one cannot be opened.
    """
    settings = settings or ServeSettings()
    shelf, meters = Shelf(memory, banks, read_only=read_only, defer=defer), Meters()
    problem = {"content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}
    described: dict[int | str, dict[str, Any]] = {
        "4XX": {"description": "A mistake of the client's", **problem},
        "5XX": {"description": "Too busy, or broken", **problem},
    }

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncGenerator[None, None]:
        async with AsyncExitStack() as parts:
            app.state.service = await parts.enter_async_context(working(memory, shelf, meters, settings))
            if with_mcp:
                from memrecall_kv.serve.mcp import build_mcp, here, mounted  # an extra

                server = build_mcp(lambda: here(app.state.service), read_only=read_only)
                await parts.enter_async_context(mounted(app, server, LOOPBACK if keys is None else None))
            yield

    # FastAPI's own spans and logs hold paths and inputs; spans.py has ours, which do not
    quiet: Any = {"tracing": False, "operation_spans": False, "logs": False}
    app = FastAPI(title="memrecall-kv", lifespan=running, responses=described, telemetry=quiet)
    explain_on(app, shelf.places)
    for room in (operations, documents, asking, chat, responses, rerank, pages):
        app.include_router(room.router)
    app.add_middleware(Door, keys=keys, settings=settings)
    if keys is None:
        # a page in the browser may not come in under a name of its own
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"])
    app.add_middleware(Watch, meters=meters)
    return app
