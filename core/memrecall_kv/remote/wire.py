"""What goes over the wire to a server and comes back, in the forms that `memrecall_kv.serve` reads and writes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import TypeAdapter, ValidationError

from memrecall_kv.errors import InputError, RemoteError
from memrecall_kv.filters import AmongIds, And, Compare, Not, Or
from memrecall_kv.types import (
    Answer,
    BankStats,
    Document,
    Done,
    Heading,
    IngestReport,
    Noted,
    Opened,
    Recall,
    Scored,
    Token,
    Where,
)

Json: TypeAlias = dict[str, Any]

T = TypeVar("T")

_BATCH_DOCUMENTS = 500
_BATCH_BYTES = 4 * 2**20
"""Of one request's documents, unless a single one is larger: a quarter of what a server takes by default."""
_BATCH_IDS = 200
_BATCH_ID_BYTES = 8000
"""Of one request's ids, which stand in its URL."""


@dataclass(frozen=True, slots=True)
class Reader:
    """What a bank is read with, as far as its answers tell of it.

    Attributes:
        backbone: The model's name.
        not_found: What an answer says when the bank does not hold it.
        readback: As in `ReasonerConfig`.
        threshold: Of the gate.
    """

    backbone: str
    not_found: str
    readback: Literal["answer", "verify", "off"]
    threshold: float


@dataclass(frozen=True, slots=True)
class ServedBank:
    """A bank as its server shows it."""

    name: str
    stats: BankStats
    reader: Reader


@dataclass(frozen=True, slots=True)
class Job:
    """A change of a bank, as far as a client looks at it; as in `memrecall_kv.serve.jobs`."""

    id: str
    state: str
    tokens_done: int = 0
    tokens_total: int = 0
    report: IngestReport | None = None
    deleted: int | None = None
    freed_bytes: int | None = None
    problem: Json | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """A document of a bank; its text and heading where it was asked for by id."""

    id: str
    metadata: Json
    text: str | None = None
    heading: Heading | None = None

    def document(self) -> Document:
        """Return it as a value of the core."""
        return Document(self.id, self.text or "", self.metadata, self.heading or Heading())


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a bank's documents, and where the next ones begin."""

    documents: list[Listed]
    next: int | None = None


@dataclass(frozen=True, slots=True)
class Recalled:
    """What a question opens."""

    recalls: tuple[Recall, ...]


ANSWER = TypeAdapter(Answer)
BANK = TypeAdapter(ServedBank)
EVENTS: dict[str, TypeAdapter[Any]] = {
    kind.__name__.lower(): TypeAdapter(kind) for kind in (Scored, Opened, Noted, Token, Done)
}
"""By the names they have in a stream."""
JOB = TypeAdapter(Job)
PAGE = TypeAdapter(Page)
PROBLEM: TypeAdapter[Json] = TypeAdapter(Json)
RECALLED = TypeAdapter(Recalled)


def read(kind: TypeAdapter[Any], body: bytes | str) -> Any:
    """Return a value that came as JSON.

    Raises:
        RemoteError: If it is none.
    """
    try:
        return kind.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise RemoteError(
            f"Expected an answer in the form of this release, got another one: {place} {first['msg']}.",
            "Check the URL, and that server and client are of the same release.",
        ) from None  # it would show what was read


def asked(bank: str, question: str, top_k: int | None, where: Where | None, **more: Any) -> Json:
    """Return a question as a server reads it; `more` that is `None` is left out.

    Raises:
        InputError: If the question is empty, or the filter is code, which no server runs.
    """
    if not isinstance(question, str) or not question.strip():
        raise InputError("Expected a question, got an empty text.", "Ask something.")
    fields = {"top_k": top_k, "where": None if where is None else condition(where), **more}
    return {"bank": bank, "question": question, **{name: value for name, value in fields.items() if value is not None}}


def condition(where: Where) -> Json:
    """Return a filter as JSON.

    Raises:
        InputError: If it is none of `memrecall_kv.filters`.
    """
    match where:
        case Compare(key, operator, operand):
            return {"key": key, "operator": str(operator), "operand": _json(key, operand)}
        case AmongIds(ids):
            return {"ids": sorted(ids)}
        case And(parts):
            return {"all": [condition(part) for part in parts]}
        case Or(parts):
            return {"any": [condition(part) for part in parts]}
        case Not(part):
            return {"not": condition(part)}
    raise InputError(
        f"Expected a filter of memrecall_kv.filters, got {type(where).__name__}: a server runs no code of clients.",
        "Write the condition with Compare, AmongIds, And, Or and Not.",
    )


def in_batches(documents: Iterable[Document]) -> Iterator[list[Json]]:
    """Return documents in groups that fit a request, each ready to be sent.

    Raises:
        InputError: If one has no text, or metadata that JSON cannot hold.
    """

    def measured(document: Document) -> tuple[Json, int]:
        if not document.text.strip():
            raise InputError(f"Expected document {document.id!r} to have a text, got none.", "Leave it out.")
        sent = asdict(document)
        return sent, len(_json(document.id, sent, as_text=True))

    return _grouped(map(measured, documents), _BATCH_DOCUMENTS, _BATCH_BYTES)


def ids_in_batches(doc_ids: Iterable[str]) -> Iterator[list[str]]:
    """Return ids, each once, in groups that fit a URL."""
    measured = ((doc_id, 3 * len(doc_id.encode("utf-8", "surrogatepass"))) for doc_id in dict.fromkeys(doc_ids))
    return _grouped(measured, _BATCH_IDS, _BATCH_ID_BYTES)


def _grouped(measured: Iterable[tuple[T, int]], most: int, most_bytes: int) -> Iterator[list[T]]:
    """Yield items that come with their sizes in groups; one that is too large comes alone."""
    batch, size = list[T](), 0
    for item, length in measured:
        if batch and (len(batch) == most or size + length > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += length
    if batch:
        yield batch


def total(reports: Sequence[IngestReport], seconds: float) -> IngestReport:
    """Return several reports as one."""
    counts = [asdict(report) for report in reports]
    return IngestReport(
        **{name: sum(each[name] for each in counts) for name in asdict(IngestReport())} | {"seconds": seconds}
    )


@dataclass(slots=True)
class _Fields:
    """Of a server-sent event that is being read."""

    name: str = ""
    data: str | None = None

    def take(self, line: str) -> tuple[str, str] | None:
        """Take a line; return the event's name and data if that was the last one of it."""
        if not line:
            told = None if self.data is None else (self.name, self.data)
            self.name, self.data = "", None
            return told
        field, _, value = line.partition(":")  # a comment has no name
        value = value.removeprefix(" ")
        if field == "event":
            self.name = value
        elif field == "data":
            self.data = value if self.data is None else f"{self.data}\n{value}"
        return None


def events(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield server-sent events, each by its name and its data."""
    fields = _Fields()
    for line in lines:
        if (told := fields.take(line)) is not None:
            yield told


async def aevents(lines: AsyncIterable[str]) -> AsyncIterator[tuple[str, str]]:
    """Yield what `events` does."""
    fields = _Fields()
    async for line in lines:
        if (told := fields.take(line)) is not None:
            yield told


def _json(name: str, value: Any, *, as_text: bool = False) -> Any:
    """Return a value that JSON can hold, or its text."""
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"Expected values of JSON at {name!r}, got another one: {error}.", "Use texts.") from error
    return text if as_text else value
