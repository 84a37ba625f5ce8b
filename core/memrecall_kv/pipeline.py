"""START HERE. Compressed-memory recall from end to end.

`ingest` compresses each chunk of a document once into a block of keys and values. A question walks the blocks
(`recall/loop.py`): the gate opens one if it matters to the question and to what was learned so far, the reasoner
reads it and takes a note. `recall/answer.py` answers with the opened chunks' text as evidence.

Source: LycheeMemory, arXiv:2602.08382. Deviations are listed in `recall/scan.py`, `recall/gate.py`,
`recall/reasoner.py` and `compress/frozen_raw.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from memrecall_kv import assemble
from memrecall_kv.backbone.backbone import Backbone
from memrecall_kv.bank.bank import MemoryBank
from memrecall_kv.bank.metadata import repaired
from memrecall_kv.bank.shards import open_bank
from memrecall_kv.config import MemRecallConfig, check_count
from memrecall_kv.errors import InputError
from memrecall_kv.ingest.chunking import chunk_document
from memrecall_kv.ingest.ingest import Ingestion, progress_bar
from memrecall_kv.recall.answer import Reply, answered
from memrecall_kv.recall.blocks import BlockReader
from memrecall_kv.recall.candidates import SharedWords
from memrecall_kv.recall.loop import Walk
from memrecall_kv.recall.question import bounded
from memrecall_kv.recall.relevance import Relevance
from memrecall_kv.recall.resident import ResidentBlocks
from memrecall_kv.recall.stages import Stages
from memrecall_kv.together import asked_together
from memrecall_kv.types import (
    Answer,
    Chunk,
    Document,
    Done,
    Event,
    IngestReport,
    MemoryBlock,
    Opened,
    Progress,
    Recall,
    Where,
    Writer,
)

if TYPE_CHECKING:
    from memrecall_kv.remote.memory import RemoteMemRecall


class MemRecall:
    """Compressor, gate and reasoner on one backbone.

    Args:
        parts: What `from_pretrained` loads. Tests put fakes in.
    """

    def __init__(self, parts: assemble.Parts) -> None:
        self.config = parts.config
        self._parts = parts
        self._resident = ResidentBlocks(parts.config.gate.resident_bytes)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        config: MemRecallConfig | None = None,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
    ) -> MemRecall:
        """Load a pipeline: the default one, a saved one, a published checkpoint, or any backbone.

        Args:
            name_or_path: Nothing for the default; a directory; or a hub id.
            config: Settings to use instead of the default or saved ones.
            device: "auto" is the CPU; an accelerator is asked for by name.
            dtype: "auto", "float32", "bfloat16" or "float16".
            revision: Branch, tag or commit on the hub.

        Raises:
            MemRecallError: If there is no such model, it cannot be stored, or its parts do not fit.
        """
        return cls(assemble.load(name_or_path, config, device=device, dtype=dtype, revision=revision))

    @staticmethod
    def from_url(
        url: str, bank: str | None = None, *, api_key: str | None = None, timeout: float | None = None
    ) -> RemoteMemRecall:
        """Return a client of a bank that `memrecall-kv serve` serves; arguments and errors as of `RemoteMemRecall`."""
        from memrecall_kv.remote.memory import DEFAULT_TIMEOUT, RemoteMemRecall

        return RemoteMemRecall(url, bank, api_key=api_key, timeout=DEFAULT_TIMEOUT if timeout is None else timeout)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write settings and trained parts; `from_pretrained` reads them back."""
        assemble.save(self._parts, Path(directory))

    @property
    def parts(self) -> assemble.Parts:
        """Compressor, gate and reasoner, for whoever runs one of them by itself."""
        return self._parts

    @property
    def backbone(self) -> Backbone:
        """The model that all parts share."""
        return self._parts.backbone

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What a bank must have been made with to be read by this pipeline."""
        return self._parts.fingerprint

    def open_bank(self, path: str | Path | Sequence[str | Path], *, read_only: bool = False) -> MemoryBank:
        """Create a bank, or open one that was made with the same fingerprint, or several as one.

        Args:
            path: A directory; one of shards, as `ingest_ray` leaves it; or several banks, whose documents have
                different ids.
            read_only: Refuse to write. Shards and several banks are asked only so, and written one by one.

        Raises:
            BankError: If the directory is no bank, is damaged, or was made by something else.
        """
        return open_bank(path, fingerprint=self.fingerprint, config=self.config.bank, read_only=read_only)

    def chunk(self, document: Document) -> list[Chunk]:
        """Return the chunks `ingest` would make of a document."""
        return chunk_document(document, self.backbone.token_spans, self.config.chunking)

    def ingest(
        self,
        bank: MemoryBank,
        documents: Iterable[Document],
        *,
        defer: bool = False,
        show_progress: bool = False,
        progress: Progress | None = None,
    ) -> IngestReport:
        """Compress documents into a bank. Interrupt at will: the same call goes on where it stopped.

        Args:
            bank: From `open_bank`.
            documents: Texts; one already in the bank is skipped, one with a known id and new text replaced.
            defer: Only store the texts. A chunk is compressed, once, when a question put to a bank open for writing
                first makes it a candidate (`ScanConfig.candidates`); the same call without `defer` compresses the rest.
            show_progress: Draw a bar on standard error.
            progress: Or be called with it.

        Raises:
            InputError: If a text is empty.
            BankError: If the bank cannot be written; nothing acknowledged is lost.
        """
        if show_progress:
            with progress_bar() as bar:
                return self.ingest(bank, documents, defer=defer, progress=bar)
        return Ingestion(bank, self.chunk, self._compress_for(bank), progress, defer).run(documents)

    def recall(
        self, bank: MemoryBank, question: str, *, top_k: int | None = None, where: Where | None = None
    ) -> tuple[Recall, ...]:
        """Return the chunks a question opens, without an answer; arguments as in `stream`."""
        events = self.walk(bank, question, top_k=top_k, where=where)
        return tuple(event.recall for event in events if isinstance(event, Opened))

    def walk(
        self, bank: MemoryBank, question: str, *, top_k: int | None = None, where: Where | None = None
    ) -> Generator[Event, None, None]:
        """Yield what `stream` does, without writing an answer: that of the last event, `Done`, is empty."""
        walk = self.begin(bank, question, top_k=top_k, where=where)
        yield from walk.events()
        yield Done(answered(walk, "", found=walk.has_found, grounded=False))

    def ask(
        self,
        bank: MemoryBank,
        question: str,
        *,
        top_k: int | None = None,
        where: Where | None = None,
        write: Writer | None = None,
    ) -> Answer:
        """Return the answer to a question; arguments as in `stream`."""
        *_, last = self.stream(bank, question, top_k=top_k, where=where, write=write)
        if not isinstance(last, Done):
            raise TypeError("the last event of a stream is Done")
        return last.answer

    def ask_many(
        self,
        bank: MemoryBank,
        questions: Iterable[str],
        *,
        top_k: int | None = None,
        where: Where | None = None,
        write: Writer | None = None,
        at_once: int = 8,
    ) -> list[Answer]:
        """Return the answers to several questions, in order: the same as one by one.

        Each has a thread, where nothing is computed: what they need of the model is done together as far as they need
        it at the same time. An error is raised for the first question that has one, and the others are given up.

        Args:
            bank: From `open_bank`.
            questions: What is asked.
            top_k: As in `stream`.
            where: As in `stream`.
            write: As in `stream`; called by several threads.
            at_once: Questions that are worked on at the same time; each keeps what it reads in memory.

        Raises:
            InputError: If a question is empty.
            ContextOverflowError: As in `stream`.
        """
        return asked_together(partial(self.stream, bank, top_k=top_k, where=where, write=write), questions, at_once)

    def stream(
        self,
        bank: MemoryBank,
        question: str,
        *,
        top_k: int | None = None,
        where: Where | None = None,
        write: Writer | None = None,
    ) -> Generator[Event, None, None]:
        """Yield what happens while a question is answered; the last event is `Done`.

        Args:
            bank: From `open_bank`.
            question: What is asked; of a long one the beginning and the end (`ScanConfig.max_question_tokens`).
            top_k: Open exactly this many blocks, whatever the settings say.
            where: Recall only chunks of documents for which this is true. A filter of `memrecall_kv.filters` is
                looked up in the bank; any other is called with the metadata of every document.
            write: Writes the answer instead of the reasoner, if anything was found; not in a turn of the backbone's.

        Raises:
            InputError: If the question is empty.
            ContextOverflowError: If a block, the notes and the question do not fit the backbone's window.
        """
        walk = self.begin(bank, question, top_k=top_k, where=where)
        walk.is_answered = True
        yield from walk.events()
        yield from self.conclude(walk, write=write)

    def begin(
        self,
        bank: MemoryBank,
        question: str,
        *,
        top_k: int | None = None,
        where: Where | None = None,
        search: str | None = None,
        unit: Callable[[Recall], str] | None = None,
    ) -> Walk:
        """Return a question's way through a bank, to be walked by its `events` and answered by `conclude`.

        Args:
            bank: From `open_bank`.
            question: What is asked.
            top_k: Open exactly this many blocks, or blocks of this many units.
            where: Recall only chunks of documents for which this is true.
            search: What blocks are judged by instead of the question: a made-up answer, for example.
            unit: Names what a block is counted as; `None` counts each by itself.

        Raises:
            InputError: If the question is empty.
        """
        if not question.strip():
            raise InputError("Expected a question, got an empty text.", "Ask something.")
        parts, gate, scan = self._parts, self.config.gate, self.config.scan
        if check_count("top_k", top_k) is not None:
            scan = scan.model_copy(update={"top_k": top_k})
        backbone = parts.backbone
        question, searched = (
            bounded(repaired(text), backbone.token_spans, scan.max_question_tokens, window=backbone.window)
            for text in (question, search or question)
        )
        made, stages = bank.fingerprint, Stages()
        compressor, layers = parts.compressor_for(made), parts.layers_of(made)
        blocks = BlockReader(bank, compressor, backbone, stages, self._resident, layers)
        # what is to be opened must be proposed
        limit = scan.candidates and max(scan.candidates, scan.top_k or 0)
        sure = max((limit or 0) // 2, scan.top_k or 0, 1)
        relevance = Relevance(
            searched,
            SharedWords(bank, where, least_share=scan.least_share, sure=sure),
            parts.gate,
            blocks,
            parts.backbone.scheduler,
            stages,
            limit=limit,
            # what promises the decisions of the definition looks at all again
            again=scan.again if scan.top_k or scan.schedule == "best_first" else None,
            word_weight=gate.lexical_weight,
            full_looks=gate.full_looks if gate.glance_tokens and gate.layers else None,
        )
        return Walk(
            question, bank, relevance, blocks, parts.reasoner, parts.backbone.scheduler, scan, gate, stages, unit
        )

    def conclude(self, walk: Walk, *, write: Writer | None = None) -> Generator[Event, None, None]:
        """Yield the answer to a question whose walk has ended; arguments and events as in `stream`."""
        reply = Reply(walk, self.config.reasoner, write)
        yield from reply.events()
        yield Done(answered(walk, reply.text, found=reply.found, grounded=reply.grounded))

    def _compress_for(self, bank: MemoryBank) -> Callable[[Sequence[Chunk]], list[MemoryBlock]]:
        compressor = self._parts.compressor_for(bank.fingerprint)
        if compressor is self._parts.compressor:
            return self._compress
        return lambda chunks: self.backbone.scheduler.call(lambda: compressor.compress(chunks))

    def _compress(self, chunks: Sequence[Chunk]) -> list[MemoryBlock]:
        return self.backbone.scheduler.call(lambda: self._parts.compressor.compress(chunks))
