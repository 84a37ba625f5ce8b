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
from pathlib import Path

from memrecall_kv import assemble, prompts
from memrecall_kv.bank import MemoryBank
from memrecall_kv.chunking import chunk_document
from memrecall_kv.config import MemRecallConfig, ScanConfig
from memrecall_kv.errors import InputError
from memrecall_kv.gate import shift_odds
from memrecall_kv.ingest import Ingestion, progress_bar
from memrecall_kv.lexical import LexicalIndex
from memrecall_kv.models import Backbone
from memrecall_kv.reasoner import Tally
from memrecall_kv.scan import scan
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
        show_progress: bool = False,
        progress: Progress | None = None,
    ) -> IngestReport:
        """Compress documents into a bank. Interrupt at will: the same call goes on where it stopped.

        Args:
            bank: From `open_bank`.
            documents: Texts; one already in the bank is skipped, one with a known id and new text replaced.
            show_progress: Draw a bar on standard error.
            progress: Or be called with it.

        Raises:
            InputError: If a text is empty.
            BankError: If the bank cannot be written; nothing acknowledged is lost.
        """
        if show_progress:
            with progress_bar() as bar:
                return Ingestion(bank, self.chunk, self._compress, bar).run(documents)
        return Ingestion(bank, self.chunk, self._compress, progress).run(documents)

    def recall(
        self, bank: MemoryBank, question: str, *, top_k: int | None = None, where: Where | None = None
    ) -> tuple[Recall, ...]:
        """Return the chunks a question opens, without an answer; arguments as in `stream`."""
        events = self.walk(bank, question, top_k=top_k, where=where)
        return tuple(event.recall for event in events if isinstance(event, Opened))

    def walk(
        self, bank: MemoryBank, question: str, *, top_k: int | None = None, where: Where | None = None
    ) -> Generator[Event, None, Usage]:
        """Yield what is scored, opened and noted, without an answer: for a host whose own model writes it.

        Arguments as in `stream`. The generator returns what the walk cost.
        """
        walk = _Walk(self, bank, question, top_k, where)
        yield from walk.events()
        return walk._usage()

    def ask(self, bank: MemoryBank, question: str, *, top_k: int | None = None, where: Where | None = None) -> Answer:
        """Return the answer to a question; arguments as in `stream`."""
        *_, last = self.stream(bank, question, top_k=top_k, where=where)
        if not isinstance(last, Done):
            raise TypeError("the last event of a stream is Done")
        return last.answer

    def stream(
        self, bank: MemoryBank, question: str, *, top_k: int | None = None, where: Where | None = None
    ) -> Generator[Event, None, None]:
        """Yield what happens while a question is answered; the last event is `Done`.

        Args:
            bank: From `open_bank`.
            question: What is asked.
            top_k: Open exactly this many blocks, whatever the settings say.
            where: Recall only chunks of documents for which this is true.

        Raises:
            InputError: If the question is empty.
            ContextOverflowError: If the question does not fit the backbone's window.
        """
        walk = _Walk(self, bank, question, top_k, where)
        yield from walk.events()
        yield from walk.answer()

    def chunk(self, document: Document) -> list[Chunk]:
        """Return the chunks `ingest` would make of a document."""
        return chunk_document(document, self._parts.backbone.token_spans, self.config.chunking)

    def lexicon(self, chunks: Sequence[Chunk]) -> LexicalIndex | None:
        """Return the word index of chunks, the last one again if they are the same; `None` for none."""
        key = tuple(chunk.id for chunk in chunks)
        if self._lexicon is None or self._lexicon[0] != key:
            self._lexicon = (key, LexicalIndex([chunk.text for chunk in chunks])) if chunks else None
        return self._lexicon[1] if self._lexicon else None

    def _compress(self, chunks: Sequence[Chunk]) -> list[MemoryBlock]:
        with self._parts.backbone.lock:
            return self._parts.compressor.compress(chunks)


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
        self._words = pipeline.lexicon(self._chunks) if config.gate.lexical_weight or self._scan.candidates else None
        self._scores: dict[tuple[str, int, bool], float] = {}
        self._lexical: dict[str, list[float | None]] = {}
        self._scored = 0
        self._tally = Tally()
        self._steps: list[Step] = []
        self.memory = WorkingMemory()
        self.recalls: list[Recall] = []

    def events(self) -> Iterator[Event]:
        """Walk the blocks: score, open, take a note."""
        for decision in scan(len(self._chunks), self._score, self._scan, self._config.gate):
            chunk, probability = self._chunks[decision.index], decision.gate_probability
            step = Step(decision.round, chunk.id, probability, decision.opened)
            self._steps.append(step)
            yield Scored(step)
            if decision.opened:
                recall = Recall(chunk, probability, len(self.recalls), self._bank.metadata(chunk.doc_id))
                self.recalls.append(recall)
                yield Opened(recall)
                # a block opened only to make up the number teaches nothing: its note would lead the scan astray
                if probability > self._config.gate.threshold:
                    yield from self._read(recall)

    def answer(self) -> Iterator[Event]:
        """Answer from what was learned; without a block that the gate believes in there is nothing to answer from.

        The pieces that are yielded join to the answer's text. A start that says "nothing" is held back, and so
        is everything while an ungrounded answer may still be refused.
        """
        strict = self._config.reasoner.readback == "verify"
        texts = [recall.text for recall in self.recalls]
        reply = shown = ""
        for piece in self._pieces():
            reply += piece
            if not strict and len(reply) > _HELD_BACK and not prompts.is_nothing(reply[:_HELD_BACK]):
                ready = reply.rstrip()
                yield Token(ready[len(shown) :])
                shown = ready
        reply = reply.strip()
        grounded = prompts.is_grounded(reply, texts, self._question)
        found = not prompts.is_nothing(reply) and (grounded or not strict)
        text = reply if found or shown else self._config.reasoner.not_found
        if text != shown:
            yield Token(text[len(shown) :])
        yield Done(self._answered(text, found=found, grounded=found and grounded))

    def _pieces(self) -> Iterator[str]:
        """Yield the reasoner's reply without leading white space, or nothing at all."""
        if not any(recall.gate_probability > self._config.gate.threshold for recall in self.recalls):
            return
        started = False
        blocks = self._bank.blocks([recall.chunk for recall in self.recalls])
        reply = self._parts.reasoner.answer(self._question, self.memory, self.recalls, blocks, self._tally)
        for piece in self._locked(reply):
            text = piece if started else piece.lstrip()
            started = started or bool(text)
            yield text

    def _answered(self, text: str, *, found: bool, grounded: bool) -> Answer:
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
        """Score blocks under the memory of the moment; a score is not computed twice while nothing was learned."""
        alone = len(indices) == 1
        known = self.memory.text
        shared = self._shared_words(known)
        fresh = [i for i in indices if (known, i, alone) not in self._scores and shared[i] is not None]
        if fresh:
            blocks = self._bank.blocks([self._chunks[index] for index in fresh])
            with self._parts.backbone.lock:
                probabilities = self._parts.gate.score(self._question, self.memory, blocks)
            self._scored += len(fresh)
            for index, probability in zip(fresh, probabilities, strict=True):
                added = self._config.gate.lexical_weight * (shared[index] or 0.0)
                self._scores[known, index, alone] = shift_odds(probability, added)
        return [self._scores.get((known, index, alone), 0.0) for index in indices]

    def _shared_words(self, known: str) -> Sequence[float | None]:
        """Return the lexical score of every block under the memory of the moment; `None` for one not to be judged."""
        if self._words is None:
            return [0.0] * len(self._chunks)
        if known not in self._lexical:
            scores: list[float | None] = list(self._words.scores(f"{self._question} {known}"))
            if self._scan.candidates is not None:
                order = sorted(range(len(scores)), key=lambda index: (-(scores[index] or 0.0), index))
                for index in order[self._scan.candidates :]:
                    scores[index] = None
            self._lexical[known] = scores
        return self._lexical[known]

    def _read(self, recall: Recall) -> Iterator[Event]:
        (block,) = self._bank.blocks([recall.chunk])
        with self._parts.backbone.lock:
            memory = self._parts.reasoner.update(self._question, self.memory, recall.chunk, block, self._tally)
        if memory is not self.memory:
            self.memory = memory
            self._steps[-1] = replace(self._steps[-1], note=memory.notes[-1].text)
            yield Noted(memory.notes[-1])

    def _locked(self, pieces: Iterator[str]) -> Iterator[str]:
        """Hold the backbone's lock while a piece is made, not while the caller looks at it."""
        end = object()
        while True:
            with self._parts.backbone.lock:
                piece = next(pieces, end)
            if not isinstance(piece, str):
                return
            yield piece

    def _usage(self) -> Usage:
        stats = self._bank.stats()
        return Usage(
            blocks_total=len(self._chunks),
            blocks_scored=self._scored,
            blocks_opened=len(self.recalls),
            memory_tokens_read=self._tally.memory_tokens,
            prompt_tokens=self._tally.prompt_tokens,
            generated_tokens=self._tally.generated_tokens,
            bytes_per_source_token=stats.live_bytes / stats.source_tokens if stats.source_tokens else 0.0,
            seconds=time.perf_counter() - self._started,
        )
