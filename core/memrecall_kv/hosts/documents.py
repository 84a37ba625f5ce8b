"""Choosing among documents instead of chunks: what an adapter's reranker or store is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from memrecall_kv.config import check_count
from memrecall_kv.filters import AmongIds, Filter
from memrecall_kv.hosts.lazy import LazyBank, LazyMemory
from memrecall_kv.hosts.served import ServedBank, ServedMemory
from memrecall_kv.types import NO_HEADING, Document, Event, Heading, Opened, Where

if TYPE_CHECKING:  # both import torch
    from memrecall_kv.bank.bank import MemoryBank
    from memrecall_kv.pipeline import MemRecall


def walk_documents(
    memory: MemRecall, bank: MemoryBank, question: str, *, top_n: int | None = None, where: Where | None = None
) -> Generator[Event, None, None]:
    """Yield the events of `MemRecall.walk`, but `Opened` only for the chunk by which a document is opened first.

    Args:
        memory: Whose gate decides.
        bank: What it looks at.
        question: What is asked.
        top_n: Documents to open, exactly, as long as there are as many; `None` leaves it to the settings.
        where: Which documents may be opened.

    Raises:
        InputError: If the question is empty or `top_n` below 1.
    """
    check_count("top_n", top_n)
    if isinstance(memory, ServedMemory) and isinstance(bank, ServedBank):
        yield from memory.walk_documents(bank, question, top_n, where)
        return
    seen: set[str] = set()
    blocks = None if top_n is None else blocks_for(bank, top_n, where)
    with closing(memory.walk(bank, question, top_k=blocks, where=where)) as events:
        for event in events:
            if isinstance(event, Opened):
                doc_id = event.recall.chunk.doc_id
                if doc_id in seen:
                    continue
                seen.add(doc_id)
                yield event
                if len(seen) == top_n:
                    return  # before the block is read: nobody will ask what it says
            else:
                yield event


def blocks_for(bank: MemoryBank, top_n: int, where: Where | None = None) -> int:
    """Return the fewest blocks that are sure to belong to `top_n` documents."""
    return bank.largest(top_n - 1, where) + 1


class TextCache:
    """Texts that come with the question, each compressed once and kept under the hash of what it and its heading say.

    Args:
        path: Directory of the cache; `None` for a temporary one, removed by `close` or with this object.
        memory: What compresses.
    """

    def __init__(self, path: str | Path | None, memory: LazyMemory) -> None:
        self._bank = LazyBank(path, memory)

    @property
    def path(self) -> Path | None:
        """Return the directory, absolute; `None` for a temporary one not yet made."""
        return self._bank.path

    @staticmethod
    def entry(text: str, heading: Heading = NO_HEADING) -> Document:
        """Return the document that holds a text; equal ones have the same id."""
        digests = [_digest(part) for part in (text, heading.judged, heading.read)]
        key = digests[0] if heading == NO_HEADING else hashlib.sha256(b"".join(digests)).digest()
        return Document(key.hex(), text, heading=heading)

    def keep(self, entries: Iterable[Document]) -> tuple[MemoryBank, Filter]:
        """Compress the entries that are new; return the bank they are in and the filter for just them.

        Raises:
            BankError: If the cache cannot be written, or another model made it.
        """
        by_key = {entry.id: entry for entry in entries}
        # with no texts too: it makes what `close` has removed
        self._bank.ingest(list(by_key.values()))
        return self._bank.get(), AmongIds(frozenset(by_key))

    def clear(self) -> None:
        """Forget every text, and free the room it took; what is needed again is compressed again.

        Raises:
            BankError: If the cache cannot be written.
        """
        with self._bank.writing() as writable:
            writable.delete_many(document.id for document in writable.documents())
            writable.compact()

    def close(self) -> None:
        """Close the cache, and remove it if it was temporary."""
        self._bank.close()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
