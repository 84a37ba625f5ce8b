"""START HERE. Compressed-memory recall from end to end.

`ingest` compresses each chunk of a document once into a block of keys and values. `ask` walks the blocks:
the gate opens one if it matters to the question and to what was learned so far, the reasoner reads it and
takes a note, and in the end answers with the opened chunks' text as evidence.

Source: LycheeMemory, arXiv:2602.08382. Deviations are listed in `scan.py`, `gate.py`, `reasoner.py` and
`memory_tokens.py`.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from memrecall_kv import assemble
from memrecall_kv.backbone.loading import Backbone
from memrecall_kv.bank.bank import MemoryBank
from memrecall_kv.config import MemRecallConfig, ScanConfig
from memrecall_kv.errors import InputError
from memrecall_kv.ingest.chunking import chunk_document
from memrecall_kv.ingest.ingest import Ingestion, compress_into, progress_bar
from memrecall_kv.recall import prompts
from memrecall_kv.recall.candidates import LexicalIndex
from memrecall_kv.recall.reasoner import Tally
from memrecall_kv.recall.relevance import Relevance
from memrecall_kv.recall.scan import Decision, scan, second_look
from memrecall_kv.types import (
    Answer,
    Chunk,
    Document,
    Done,
    Event,
    IngestReport,
    MemoryBlock,
    Noted,
    Opened,
    Progress,
    Recall,
    Scored,
    Step,
    Token,
    Trace,
    Usage,
    Where,
    WorkingMemory,
    Writer,
)

_HELD_BACK = 24
"""Characters of a reply that are looked at before the first is shown."""


class MemRecall:
    """Compressor, gate and reasoner on one backbone.

    Args:
        parts: What `from_pretrained` loads. Tests put fakes in.
    """

    def __init__(self, parts: assemble.Parts) -> None:
        self.config = parts.config
        self._parts = parts
        self._lexicon: tuple[tuple[str, ...], LexicalIndex] | None = None

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

    def save_pretrained(self, directory: str | Path) -> None:
        """Write settings and trained parts; `from_pretrained` reads them back."""
        assemble.save(self._parts, Path(directory))

    @property
    def backbone(self) -> Backbone:
        """The model that all parts share."""
        return self._parts.backbone

    @property
    def parts(self) -> assemble.Parts:
        """Compressor, gate and reasoner, for whoever runs one of them by itself."""
        return self._parts

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What a bank must have been made with to be read by this pipeline."""
        return {
            "format": str(self.config.format_version),
            "backbone": self._parts.backbone.fingerprint,
            "dtype": str(self._parts.backbone.dtype).removeprefix("torch."),
            "compressor": self._parts.compressor.digest,
            "compression_ratio": str(self.config.compressor.compression_ratio),
            "placement": "unrotated" if self._parts.compressor.unrotated else "rotated",
            "storage": self.config.bank.storage,
        }

    def open_bank(self, path: str | Path, *, read_only: bool = False) -> MemoryBank:
        """Create a bank, or open one that was made with the same fingerprint.

        Raises:
            BankError: If the directory is no bank, is damaged, or was made by something else.
        """
        return MemoryBank.open(Path(path), fingerprint=self.fingerprint, config=self.config.bank, read_only=read_only)

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
        return Ingestion(bank, self.chunk, self._compress, progress, defer).run(documents)

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
        walk = _Walk(self, bank, question, top_k, where)
        yield from walk.events()
        yield Done(walk.answered("", found=walk.has_found, grounded=False))

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
            question: What is asked.
            top_k: Open exactly this many blocks, whatever the settings say.
            where: Recall only chunks of documents for which this is true.
            write: Writes the answer instead of the reasoner, if anything was found; not in a turn of the backbone's.

        Raises:
            InputError: If the question is empty.
            ContextOverflowError: If the question does not fit the backbone's window.
        """
        walk = _Walk(self, bank, question, top_k, where)
        yield from walk.events()
        yield from walk.answer(write)

    def chunk(self, document: Document) -> list[Chunk]:
        """Return the chunks `ingest` would make of a document."""
        return chunk_document(document, self._parts.backbone.token_spans, self.config.chunking)

    def lexicon(self, chunks: Sequence[Chunk]) -> LexicalIndex | None:
        """Return the word index of chunks, the last one again if they are the same; `None` for none."""
        # the texts, not the ids: a document that was replaced keeps its id
        key = tuple(chunk.text for chunk in chunks)
        if self._lexicon is None or self._lexicon[0] != key:
            self._lexicon = (key, LexicalIndex(key)) if chunks else None
        return self._lexicon[1] if self._lexicon else None

    def _compress(self, chunks: Sequence[Chunk]) -> list[MemoryBlock]:
        return self._parts.backbone.turns.run(lambda: self._parts.compressor.compress(chunks))


class _Walk:
    """One question's way through a bank: the loop of the paper."""

    def __init__(
        self, pipeline: MemRecall, bank: MemoryBank, question: str, top_k: int | None, where: Where | None
    ) -> None:
        if not question.strip():
            raise InputError("Expected a question, got an empty text.", "Ask something.")
        if top_k is not None and top_k < 1:
            raise InputError(f"Expected top_k of at least 1, got {top_k}.", "Leave it out to use the threshold.")
        config = pipeline.config
        self._config = config
        self._scan = config.scan if top_k is None else ScanConfig(**{**config.scan.model_dump(), "top_k": top_k})
        self._parts, self._bank, self._question = pipeline._parts, bank, question
        self._started = time.perf_counter()
        self._chunks = bank.chunks(where)
        words = pipeline.lexicon(self._chunks) if config.gate.lexical_weight or self._scan.candidates else None
        self._relevance = Relevance(
            self._parts.gate,
            self._parts.backbone.turns,
            config.gate.lexical_weight,
            self._blocks,
            self._chunks,
            question,
            words,
            self._scan.candidates,
        )
        self._tally = Tally()
        self._steps: list[Step] = []
        self.memory = WorkingMemory()
        self.recalls: list[Recall] = []

    @property
    def has_found(self) -> bool:
        """Return whether a block was opened that the gate believes in."""
        return any(recall.gate_probability > self._config.gate.threshold for recall in self.recalls)

    def events(self) -> Iterator[Event]:
        """Walk the blocks: score, open, take a note."""
        for decision in scan(len(self._chunks), self._score, self._scan, self._config.gate):
            # a block opened only to make up the number teaches nothing: its note would lead the scan astray
            yield from self._take(decision, notes=decision.gate_probability > self._config.gate.threshold)

    def answer(self, write: Writer | None = None) -> Iterator[Event]:
        """Answer from what was learned; if that holds no answer, look once more and answer again.

        Without a block that the gate believes in there is nothing to answer from.
        """
        reply, shown = yield from self._attempt(write)
        if self.has_found and not shown and not self._judged(reply)[0] and (decision := self._second_look()):
            yield from self._take(decision, notes=True)
            reply, shown = yield from self._attempt(write)
        found, grounded = self._judged(reply)
        text = reply if found or shown else self._config.reasoner.not_found
        if text != shown:
            yield Token(text[len(shown) :])
        yield Done(self.answered(text, found=found, grounded=found and grounded))

    def _take(self, decision: Decision, *, notes: bool) -> Iterator[Event]:
        """Record a decision; open and read the block if it says so."""
        chunk = self._chunks[decision.index]
        step = Step(decision.round, chunk.id, decision.gate_probability, decision.opened)
        self._steps.append(step)
        yield Scored(step)
        if decision.opened:
            metadata = self._bank.metadata(chunk.doc_id)
            recall = Recall(chunk, decision.gate_probability, len(self.recalls), metadata)
            self.recalls.append(recall)
            yield Opened(recall)
            if notes:
                yield from self._read(recall)

    def _second_look(self) -> Decision | None:
        opened = {recall.chunk.id for recall in self.recalls}
        closed = [index for index, chunk in enumerate(self._chunks) if chunk.id not in opened]
        round = self._steps[-1].round + 1
        return second_look(closed, self._score, self._scan, opened=len(opened), round=round)

    def _attempt(self, write: Writer | None) -> Generator[Event, None, tuple[str, str]]:
        """Yield the pieces of a reply; return it and what of it was shown.

        The pieces join to the answer's text. A start that says "nothing" is held back, and so is everything
        while an ungrounded answer may still be refused.
        """
        strict = self._config.reasoner.readback == "verify"
        reply = shown = ""
        for piece in self._pieces(write):
            reply += piece
            if not strict and len(reply) > _HELD_BACK and not prompts.is_nothing(reply[:_HELD_BACK]):
                ready = reply.rstrip()
                yield Token(ready[len(shown) :])
                shown = ready
        return reply.strip(), shown

    def _judged(self, reply: str) -> tuple[bool, bool]:
        """Return whether a reply says something that may be said, and whether the opened texts hold it."""
        grounded = prompts.is_grounded(reply, [recall.text for recall in self.recalls], self._question)
        strict = self._config.reasoner.readback == "verify"
        return not prompts.is_nothing(reply) and (grounded or not strict), grounded

    def _pieces(self, write: Writer | None) -> Iterator[str]:
        """Yield the reply without leading white space, or nothing at all."""
        if not self.has_found:
            return
        started = False
        for piece in write(self._question, self.memory, self.recalls) if write else self._reply():
            text = piece if started else piece.lstrip()
            started = started or bool(text)
            yield text

    def _reply(self) -> Iterator[str]:
        return self._parts.backbone.turns.each(self._written())

    def _written(self) -> Iterator[str]:
        blocks = self._blocks([recall.chunk for recall in self.recalls])
        yield from self._parts.reasoner.answer(self._question, self.memory, self.recalls, blocks, self._tally)

    def answered(self, text: str, *, found: bool, grounded: bool) -> Answer:
        """Return a text as the answer, with all that led to it."""
        return Answer(
            text=text,
            evidence=tuple(self.recalls),
            found=found,
            grounded=grounded,
            working_memory=self.memory,
            trace=Trace(tuple(self._steps)),
            usage=self._usage(),
        )

    def _score(self, indices: Sequence[int]) -> list[float]:
        return self._relevance.score(indices, self.memory)

    def _read(self, recall: Recall) -> Iterator[Event]:
        memory = self._parts.backbone.turns.run(partial(self._updated, recall.chunk))
        if memory is not self.memory:
            self.memory = memory
            self._steps[-1] = replace(self._steps[-1], note=memory.notes[-1].text)
            yield Noted(memory.notes[-1])

    def _updated(self, chunk: Chunk) -> WorkingMemory:
        (block,) = self._blocks([chunk])
        return self._parts.reasoner.update(self._question, self.memory, chunk, block, self._tally)

    def _blocks(self, chunks: Sequence[Chunk]) -> list[MemoryBlock]:
        """Return blocks, those that ingest deferred compressed first; in a turn, as whatever runs the model."""
        for _ in compress_into(self._bank, self._bank.deferred(chunks), self._parts.compressor.compress):
            pass  # each group is durable by now
        return self._bank.blocks(chunks)

    def _usage(self) -> Usage:
        stats = self._bank.stats()
        return Usage(
            blocks_total=len(self._chunks),
            blocks_scored=self._relevance.scored,
            blocks_opened=len(self.recalls),
            memory_tokens_read=self._tally.memory_tokens,
            prompt_tokens=self._tally.prompt_tokens,
            generated_tokens=self._tally.generated_tokens,
            bytes_per_source_token=stats.live_bytes / stats.source_tokens if stats.source_tokens else 0.0,
            seconds=time.perf_counter() - self._started,
        )
