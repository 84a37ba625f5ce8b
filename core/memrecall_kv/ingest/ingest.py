"""Documents into a bank: chunk, compress what is new, and make each group of chunks durable before the next."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from memrecall_kv.backbone.process_memory import give_back
from memrecall_kv.bank.bank import MemoryBank
from memrecall_kv.bank.metadata import storable
from memrecall_kv.types import Chunk, Document, IngestReport, MemoryBlock, Progress

logger = logging.getLogger(__name__)

_GROUP = 32
"""Chunks per durable write: an interruption repeats the work of at most this many."""


@dataclass
class Ingestion:
    """One call of `MemRecall.ingest`.

    Args:
        bank: Where blocks and documents go.
        chunk: Cuts a document.
        compress: Makes one block per chunk.
        progress: Called after each group with tokens done and tokens known so far.
        defer: Store the texts alone; see `MemRecall.ingest`.
    """

    bank: MemoryBank
    chunk: Callable[[Document], list[Chunk]]
    compress: Callable[[Sequence[Chunk]], list[MemoryBlock]]
    progress: Progress | None = None
    defer: bool = False
    _waiting: list[tuple[Document, list[Chunk]]] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)
    _done: int = 0
    _known: int = 0

    def run(self, documents: Iterable[Document]) -> IngestReport:
        """Ingest documents and report; a document is visible when it is durable, its blocks too unless deferred.

        Raises:
            InputError: If a document cannot be stored. Of a list or tuple all are looked at before any work begins; of
                anything else, which need not fit in memory, each as it comes.
        """
        started = time.perf_counter()
        forms = [storable(document) for document in documents] if isinstance(documents, Sequence) else None
        for document in map(storable, documents) if forms is None else forms:
            if self.bank.holds(document) and not self._is_to_finish(document):
                self._count("documents_unchanged", 1)
                continue
            chunks = self.chunk(document)
            self._known += sum(chunk.num_tokens for chunk in chunks)
            self._waiting.append((document, chunks))
            if sum(len(waiting) for _, waiting in self._waiting) >= _GROUP:
                self._flush()
        self._flush()
        report = IngestReport(**self._counts, seconds=time.perf_counter() - started)
        logger.info("Ingested into %s: %s", self.bank.path, report)
        return report

    def _flush(self) -> None:
        chunks = [chunk for _, waiting in self._waiting for chunk in waiting]
        missing = self.bank.missing(chunks)
        self._done += sum(chunk.num_tokens for chunk in chunks) - sum(chunk.num_tokens for chunk in missing)
        self._count("chunks_reused", len(chunks) - len(missing))
        left = sum(chunk.num_tokens for chunk in missing)
        self._report()
        for group in self._compressed(missing):
            tokens = sum(chunk.num_tokens for chunk in group)
            self._count("chunks_compressed", len(group))
            self._count("chunks_deferred", -len(group))
            self._count("source_tokens", tokens)
            self._done += tokens
            left -= tokens
            self._report()
        self._count("chunks_deferred", len(missing))
        self._done += left
        self._report()
        changed: dict[str, tuple[Document, list[Chunk]]] = {}
        for document, waiting in self._waiting:
            if changed[document.id][0] == document if document.id in changed else self.bank.holds(document):
                self._count("documents_unchanged", 1)  # only its blocks were not there
                continue
            is_known = document.id in changed or document.id in self.bank
            self._count("documents_updated" if is_known else "documents_added", 1)
            changed[document.id] = document, waiting
        self.bank.put_documents(changed.values(), defer=self.defer or self.bank.budget.max_bytes is not None)
        self._waiting.clear()

    def _is_to_finish(self, document: Document) -> bool:
        """Return whether chunks of a document that is there are to be compressed, and there is room for them."""
        return not self.defer and self.bank.is_deferred(document.id) and self.bank.budget.room() != 0

    def _compressed(self, missing: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
        """Compress as many chunks as the bank has room for; yield each group when its blocks are durable."""
        left = () if self.defer else missing
        while left and (room := self.bank.budget.room()) != 0:
            yield from compress_into(self.bank, left[:room], self.compress)
            left = left[len(left[:room]) :]

    def _report(self) -> None:
        if self.progress is not None and self._known:
            self.progress("compress", self._done, self._known)

    def _count(self, name: str, amount: int) -> None:
        self._counts[name] = self._counts.get(name, 0) + amount


def compress_into(
    bank: MemoryBank, chunks: Sequence[Chunk], compress: Callable[[Sequence[Chunk]], list[MemoryBlock]]
) -> Iterator[Sequence[Chunk]]:
    """Compress chunks; yield each group when its blocks are durable."""
    for start in range(0, len(chunks), _GROUP):
        group = chunks[start : start + _GROUP]
        bank.put_blocks(list(zip(group, compress(group), strict=True)))
        give_back()
        yield group


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Draw a bar on the terminal's standard error while the block runs."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("compressing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tokens"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("compress", total=None)
        yield lambda stage, done, total: bar.update(task, completed=done, total=total)
