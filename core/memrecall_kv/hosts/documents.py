"""Choosing among documents instead of chunks: what an adapter's reranker or store is made of."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from memrecall_kv.config import check_count
from memrecall_kv.hosts.filters import AmongIds, Filter
from memrecall_kv.hosts.lazy import LazyBank, LazyMemory
from memrecall_kv.types import Document, Event, Opened, Where

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
    sizes = sorted(Counter(chunk.doc_id for chunk in bank.chunks(where)).values(), reverse=True)
    return sum(sizes[: top_n - 1]) + 1


class TextCache:
    """Texts that come with the question, each compressed once and kept under the hash of what it says.

    Args:
        path: Directory of the cache; `None` for a temporary one, removed by `close` or with this object.
        memory: What compresses.
    """

    def __init__(self, path: str | Path | None, memory: LazyMemory) -> None:
        self._bank = LazyBank(path, memory)

    @staticmethod
    def key(text: str) -> str:
        """Return the id of the document that holds a text."""
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()

    def keep(self, texts: Collection[str]) -> tuple[MemoryBank, Filter]:
        """Compress the texts that are new; return the bank they are in and the filter for just them.

        Raises:
            BankError: If the cache cannot be written, or another model made it.
        """
        keys = {self.key(text): text for text in texts}
        # with no texts too: it makes what `close` has removed
        self._bank.ingest([Document(id=key, text=text) for key, text in keys.items()])
        return self._bank.get(), AmongIds(frozenset(keys))

    def clear(self) -> None:
        """Forget every text, and free the room it took; what is needed again is compressed again.

        Raises:
            BankError: If the cache cannot be written.
        """
        with self._bank.writing() as writable:
            for document in writable.documents():
                writable.delete(document.id)
            writable.compact()

    def close(self) -> None:
        """Close the cache, and remove it if it was temporary."""
        self._bank.close()
