"""A client of `memrecall_kv.serve` that is used like `MemRecall` with one bank: the server does the work."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import aclosing, closing
from functools import partial
from types import TracebackType
from typing import Any, Self

from memrecall_kv.config import check_count
from memrecall_kv.errors import ConfigError, RemoteError
from memrecall_kv.remote import wire
from memrecall_kv.remote.address import Address
from memrecall_kv.remote.change import Change
from memrecall_kv.remote.connection import Connection
from memrecall_kv.remote.refusal import refusal
from memrecall_kv.together import asked_together
from memrecall_kv.types import (
    Answer,
    BankStats,
    Document,
    Done,
    Event,
    IngestReport,
    Progress,
    Recall,
    Where,
)

DEFAULT_TIMEOUT = 300.0
_ASK, _RECALL = "/v1/ask", "/v1/recall"
_PAGE = 1000


class RemoteMemRecall:
    """A bank behind a server: the methods of `MemRecall` and `MemoryBank` without the bank, which is named once.

    Values and errors are those of a local call. A server that is busy is asked again, a bounded time. Additions may
    be repeated: what the bank holds already, by id and content, is skipped. Threads may share a client; each event
    loop has connections of its own.

    Args:
        url: Of the server; or of a bank there, and then no `bank`.
        bank: The bank's name on the server.
        api_key: For a server with keys; `None` for that in `MEMRECALL_API_KEY`, if any. Never shown, never pickled,
            and sent to this host alone: no redirect is followed.
        timeout: Seconds to wait for the next sign of the server's; with `ask` and `recall` that is the answer.

    Raises:
        InputError: If the URL or the name is none.
        ConfigError: If key or timeout cannot be used.
        MissingDependencyError: If httpx is not installed.

    Example:
        ```python
        with MemRecall.from_url("http://localhost:8000", bank="handbook") as memory:
            print(memory.ask("Who approves trips?").text)
        ```
    """

    def __init__(
        self, url: str, bank: str | None = None, *, api_key: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
            raise ConfigError(f"Expected timeout to be a number of seconds above 0, got {timeout!r}.", "Leave it out.")
        self._address, self._timeout = Address.of(url, bank, api_key), timeout
        self._connection = Connection(self._address, timeout)
        self._reader: wire.Reader | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address.url!r}, bank={self._address.bank!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what names the bank: a copy takes its key from its own environment."""
        return partial(type(self), self._address.url, self._address.bank, timeout=self._timeout), ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def bank_url(self) -> str:
        """Return the URL of the bank."""
        return self._address.bank_url

    @property
    def reader(self) -> wire.Reader:
        """Return what the bank is read with; the server is asked once."""
        if self._reader is None:
            self._reader = self._shown().reader
        return self._reader

    def ask(self, question: str, *, top_k: int | None = None, where: Where | None = None) -> Answer:
        """Return the answer to a question; arguments as in `stream`."""
        answer: Answer = wire.read(wire.ANSWER, self._fetch(_ASK, self._asked(question, top_k, where)))
        return answer

    async def aask(self, question: str, *, top_k: int | None = None, where: Where | None = None) -> Answer:
        """Return what `ask` does, without blocking the loop; cancelling stops the work."""
        answer: Answer = wire.read(wire.ANSWER, await self._afetch(_ASK, self._asked(question, top_k, where)))
        return answer

    def ask_many(
        self,
        questions: Iterable[str],
        *,
        top_k: int | None = None,
        where: Where | None = None,
        at_once: int = 8,
    ) -> list[Answer]:
        """Return the answers to several questions, in order; the first error is raised and the others are given up.

        Args:
            questions: What is asked.
            top_k: As in `stream`.
            where: As in `stream`.
            at_once: Questions that are sent at the same time; how many are worked on together is the server's to say.
        """
        return asked_together(partial(self.stream, top_k=top_k, where=where), questions, at_once)

    def recall(self, question: str, *, top_k: int | None = None, where: Where | None = None) -> tuple[Recall, ...]:
        """Return the chunks a question opens, without an answer; arguments as in `stream`."""
        return _recalls(self._fetch(_RECALL, self._asked(question, top_k, where)))

    async def arecall(
        self, question: str, *, top_k: int | None = None, where: Where | None = None
    ) -> tuple[Recall, ...]:
        """Return what `recall` does, without blocking the loop; cancelling stops the work."""
        return _recalls(await self._afetch(_RECALL, self._asked(question, top_k, where)))

    def stream(
        self, question: str, *, top_k: int | None = None, where: Where | None = None
    ) -> Generator[Event, None, None]:
        """Yield what happens while a question is answered; the last event is `Done`. Closing it stops the work.

        Args:
            question: What is asked.
            top_k: Open exactly this many blocks, whatever the server's settings say.
            where: Recall only chunks of documents that match; a filter of `memrecall_kv.filters`.

        Raises:
            InputError: If the question is empty, the filter none, or there is no such bank.
            ContextOverflowError: If blocks, notes and question do not fit the backbone's window.
            RemoteError: If the server cannot be reached, refuses or fails; by kind.
        """
        yield from self._events(_ASK, self._asked(question, top_k, where, stream=True))

    def walk(
        self, question: str, *, top_k: int | None = None, where: Where | None = None, top_n: int | None = None
    ) -> Generator[Event, None, None]:
        """Yield what `stream` does, without writing an answer: that of the last event, `Done`, is empty.

        Args:
            question: As in `stream`.
            top_k: As there.
            where: As there.
            top_n: Find exactly so many documents; of each the chunk that is opened first.
        """
        yield from self._events(_RECALL, self._asked(question, top_k, where, stream=True, top_n=top_n))

    async def astream(
        self, question: str, *, top_k: int | None = None, where: Where | None = None
    ) -> AsyncGenerator[Event, None]:
        """Yield what `stream` does, without blocking the loop."""
        sent = self._asked(question, top_k, where, stream=True)
        async with aclosing(self._connection.alines("POST", _ASK, json=sent)) as lines:
            async for name, data in wire.aevents(lines):
                event = _event(name, data)
                yield event
                if isinstance(event, Done):
                    return
        raise _broke_off()

    def ingest(
        self, documents: Iterable[Document], *, show_progress: bool = False, progress: Progress | None = None
    ) -> IngestReport:
        """Compress documents into the bank, and return when they are in it for good.

        Interrupt at will: the same call goes on where it stopped. What was sent is carried out all the same.

        Args:
            documents: Texts; one already in the bank is skipped, one with a known id and new text replaced.
            show_progress: Draw a bar on standard error.
            progress: Or be called with it; the tokens are those of the group of documents that is sent.

        Raises:
            InputError: If a text is empty, too large for the server, or two documents of one group share an id.
            BankError: If the server only reads, or the bank cannot be written.
            RemoteError: As in `stream`.
        """
        if show_progress:
            from memrecall_kv.ingest.ingest import progress_bar  # it imports torch

            with progress_bar() as bar:
                return self.ingest(documents, progress=bar)
        began, reports = time.perf_counter(), list[IngestReport]()
        for batch in wire.in_batches(documents):
            taken = self._connection.fetch("POST", self._documents, json={"documents": batch})
            reports.append(_report(Change(self._connection, taken, progress).ended()))
        return wire.total(reports, time.perf_counter() - began)

    async def aingest(self, documents: Iterable[Document], *, progress: Progress | None = None) -> IngestReport:
        """Do what `ingest` does, without blocking the loop."""
        began, reports = time.perf_counter(), list[IngestReport]()
        for batch in wire.in_batches(documents):
            taken = await self._connection.afetch("POST", self._documents, json={"documents": batch})
            reports.append(_report(await Change(self._connection, taken, progress).aended()))
        return wire.total(reports, time.perf_counter() - began)

    def delete(self, *doc_ids: str) -> None:
        """Delete documents; many go in groups, of which one is deleted whole or not at all.

        Raises:
            InputError: If one is not in the bank.
            BankError: If the server only reads.
            RemoteError: As in `stream`.
        """
        for batch in wire.ids_in_batches(doc_ids):
            Change(self._connection, self._connection.fetch("DELETE", self._documents, params={"id": batch})).ended()

    async def adelete(self, *doc_ids: str) -> None:
        """Do what `delete` does, without blocking the loop."""
        for batch in wire.ids_in_batches(doc_ids):
            taken = await self._connection.afetch("DELETE", self._documents, params={"id": batch})
            await Change(self._connection, taken).aended()

    def compact(self) -> int:
        """Rewrite the bank without what was deleted; return the bytes that were freed."""
        taken = self._connection.fetch("POST", f"{self._address.banks_path}/compact")
        return Change(self._connection, taken).ended().freed_bytes or 0

    def stats(self) -> BankStats:
        """Return how much is in the bank."""
        return self._shown().stats

    def ids(self, where: Where | None = None) -> list[str]:
        """Return the ids of the documents, or of those for which `where` is true: here any function will do."""
        return [each.id for each in self._listed() if where is None or where(each.id, each.metadata)]

    def document(self, doc_id: str) -> Document:
        """Return a document.

        Raises:
            InputError: If it is not in the bank.
        """
        page: wire.Page = wire.read(wire.PAGE, self._connection.fetch("GET", self._documents, params={"id": [doc_id]}))
        return page.documents[0].document()

    def close(self) -> None:
        """Close the connections; the client can be used again."""
        self._connection.close()

    async def aclose(self) -> None:
        """Close the connections, those of this event loop too."""
        await self._connection.aclose()

    @property
    def _documents(self) -> str:
        return f"{self._address.banks_path}/documents"

    def _asked(self, question: str, top_k: int | None, where: Where | None, **more: Any) -> wire.Json:
        return wire.asked(self._address.bank, question, check_count("top_k", top_k), where, **more)

    def _fetch(self, path: str, sent: wire.Json) -> bytes:
        return self._connection.fetch("POST", path, json=sent)

    async def _afetch(self, path: str, sent: wire.Json) -> bytes:
        return await self._connection.afetch("POST", path, json=sent)

    def _events(self, path: str, sent: wire.Json) -> Generator[Event, None, None]:
        with closing(self._connection.lines("POST", path, json=sent)) as lines:
            for name, data in wire.events(lines):
                event = _event(name, data)
                yield event
                if isinstance(event, Done):
                    return
        raise _broke_off()

    def _shown(self) -> wire.ServedBank:
        shown: wire.ServedBank = wire.read(wire.BANK, self._connection.fetch("GET", self._address.banks_path))
        return shown

    def _listed(self) -> Generator[wire.Listed, None, None]:
        after: int | None = 0
        while after is not None:
            params = {"after": after, "limit": _PAGE}
            page: wire.Page = wire.read(wire.PAGE, self._connection.fetch("GET", self._documents, params=params))
            yield from page.documents
            after = page.next


def _recalls(body: bytes) -> tuple[Recall, ...]:
    found: wire.Recalled = wire.read(wire.RECALLED, body)
    return found.recalls


def _event(name: str, data: str) -> Event:
    """Return an event of a stream, of which `name` tells the kind.

    Raises:
        MemRecallError: If it says what went wrong.
    """
    if name == "error":
        problem = wire.read(wire.PROBLEM, data)
        raise refusal(int(problem.get("status", 500)), problem, shown="it")
    kind = wire.EVENTS.get(name)
    if kind is None:
        raise RemoteError(f"Expected an event of this release, got {name!r}.", "Update the client.")
    event: Event = wire.read(kind, data)
    return event


def _report(job: wire.Job) -> IngestReport:
    return job.report or IngestReport()


def _broke_off() -> RemoteError:
    return RemoteError(
        "Expected the events of an answer to end with it, and they broke off.", "Ask again; the server's log says more."
    )
