"""One worker: whole shards, one after the other, each from the documents that belong to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from memrecall_kv import errors
from memrecall_kv.bank.metadata import storable, to_json
from memrecall_kv.bank.shards import shard_name
from memrecall_kv.distributed.storage import ShardStorage
from memrecall_kv.errors import InputError, MemRecallError
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.types import Document, Heading, IngestReport

Row = Mapping[str, Any]
"""A document as workers are sent it: texts under `id`, `text`, `metadata` (JSON), `judged` and `read`."""


class ShardWriter:
    """Writes shards with a pipeline of its own; what Ray calls an actor's class.

    What is in a shard already is left as it is, so that the same call twice, or after a death, changes nothing.

    Args:
        load: Makes the pipeline, when the first shard is written: what fails then is told like what fails in a shard.
        path: Where the shards are, a directory or a URL.
        shards: How many there are.
    """

    def __init__(self, load: Callable[[], MemRecall], path: str | Path, shards: int) -> None:
        self._load, self._storage, self._shards = load, ShardStorage(path), shards

    @cached_property
    def _memory(self) -> MemRecall:
        return self._load()

    def __call__(self, batch: Any) -> dict[str, list[Any]]:
        """Write shards, rows of an Arrow table with number and documents; return a report of each, or what failed."""
        reports = [self._report(row["shard"], row["documents"]) for row in batch.to_pylist()]
        return {name: [report[name] for report in reports] for name in ("failure", *asdict(IngestReport()))}

    def write(self, number: int, documents: Iterable[Document]) -> IngestReport:
        """Write a shard, by the order of the ids: that of the source is not the same everywhere.

        Raises:
            BankError: If it cannot be written.
            InputError: If a document cannot be stored.
        """
        ordered = sorted(documents, key=lambda document: document.id)
        with (
            self._storage.writing(shard_name(number, self._shards)) as folder,
            self._memory.open_bank(folder) as bank,
        ):
            return self._memory.ingest(bank, ordered)

    def _report(self, number: int, rows: Iterable[Row]) -> dict[str, Any]:
        """Return what was done, with what failed as data: an error would come back as one of Ray's."""
        try:
            return {"failure": "", **asdict(self.write(number, map(from_row, rows)))}
        except MemRecallError as error:
            told = [type(error).__name__, error.message, error.hint]
            return {"failure": json.dumps(told), **asdict(IngestReport())}


def identified(given: Document | Mapping[str, Any]) -> Document:
    """Return a document as banks store it; one without an id is named by what it holds.

    Args:
        given: A document, or a row with `text` and any of `id`, `metadata`, `judged` and `read`.

    Raises:
        InputError: If a row has no text, or holds what no document does.
    """
    if not isinstance(given, Document):
        given = _from_columns(given)
    stored = storable(Document(given.id or "unnamed", given.text, given.metadata, given.heading))
    return stored if given.id else Document(content_id(stored), stored.text, stored.metadata, stored.heading)


def raised(failure: str) -> MemRecallError:
    """Return the error that a worker told of."""
    kind, message, hint = json.loads(failure)
    found: MemRecallError = getattr(errors, kind)(message, hint)
    return found


def content_id(document: Document) -> str:
    """Return a hash of what a document says and of its metadata, 64 hexadecimal digits."""
    parts = [document.text, json.loads(to_json(document)), document.heading.judged, document.heading.read]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def to_row(document: Document) -> Row:
    """Return a document as workers are sent it."""
    judged, read = document.heading.judged, document.heading.read
    return {
        "id": document.id,
        "text": document.text,
        "metadata": to_json(document),
        "judged": judged,
        "read": read,
    }


def from_row(row: Row) -> Document:
    """Return the document that a row stands for."""
    return Document(row["id"], row["text"], json.loads(row["metadata"]), Heading(row["judged"], row["read"]))


def _from_columns(row: Mapping[str, Any]) -> Document:
    if not isinstance(row, Mapping) or not isinstance(row.get("text"), str):
        got = sorted(row) if isinstance(row, Mapping) else repr(row)
        raise InputError(
            f"Expected a Document, or a row with a column `text`, got {got}.", "Name the texts' column so."
        )
    metadata, given_id = row.get("metadata") or {}, row.get("id")
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except ValueError as error:
            raise InputError(f"Expected metadata to be JSON, got {metadata!r}: {error}.", "Give a mapping.") from error
    heading = Heading(row.get("judged") or "", row.get("read") or "")
    return Document("" if given_id is None else str(given_id), row["text"], metadata, heading)
