"""The values that travel between stages: frozen data, no behaviour beyond properties.

`Document -> Chunk -> MemoryBlock -> Recall -> Answer`. The letters of shapes are those of
`docs/architecture.md`: L layers, K KV heads, M memory tokens of a block, D head dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from memrecall_kv.faces import on_demand

if TYPE_CHECKING:  # importing torch takes seconds, and adapters must not pay for it
    from torch import Tensor

# drawing stands above what is drawn: as a package's face does, this knows the room's name and no more of it
_drawn = on_demand(__name__, {"answer_page": "memrecall_kv.report", "in_frame": "memrecall_kv.report"})

Metadata: TypeAlias = Mapping[str, Any]
"""What the caller wants to keep beside a document; JSON values, returned as given."""

Where: TypeAlias = Callable[[str, Metadata], bool]
"""A filter: called with a document's id and metadata, True if its chunks may be recalled.

One of `memrecall_kv.filters` is asked of each value there is; any other is called for every document.
"""


@dataclass(frozen=True, slots=True)
class Heading:
    """What models see in front of a text and no citation holds: a title, a company, a year.

    It ends with whatever separates it from the text.

    Attributes:
        judged: Compressed with the text, and searched.
        read: Read with the text when notes are taken and answers written.
    """

    judged: str = ""
    read: str = ""


NO_HEADING = Heading()


@dataclass(frozen=True, slots=True)
class Document:
    """A text under an id of the caller's choice, with what models are to see in front of each of its chunks."""

    id: str
    text: str
    metadata: Metadata = field(default_factory=dict)
    heading: Heading = NO_HEADING


@dataclass(frozen=True, slots=True)
class Chunk:
    """A span `[start, end)` of a document's text, counted in characters.

    Attributes:
        doc_id: The document's id.
        index: The chunk's place in it.
        start: Where the span begins.
        end: Where it ends.
        text: The span.
        num_tokens: Tokens of the text behind its heading, whichever of the two is longer.
        heading: The document's, cut to its share of a chunk.
    """

    doc_id: str
    index: int
    start: int
    end: int
    text: str
    num_tokens: int
    heading: Heading = NO_HEADING

    @property
    def id(self) -> str:
        """Return the chunk's name inside a bank: its document and its place in it."""
        return f"{self.doc_id}#{self.index}"

    @property
    def judged_text(self) -> str:
        """Return what is searched, and what the chunk's block is made of."""
        return self.heading.judged + self.text

    @property
    def read_text(self) -> str:
        """Return what a model reads to take notes and to answer."""
        return self.heading.read + self.text


@dataclass(frozen=True, slots=True, eq=False)
class MemoryBlock:
    """One chunk's compressed keys and values.

    Attributes:
        keys: Keys **before** rotary embedding. `[L, K, M, D]`.
        values: Values. `[L, K, M, D]`.
        positions: Place of each memory token inside the block, in `[0, extent)`. int32,
            `[L, K, M]`, or `[1, 1, M]` where layers and heads agree.
        extent: Positions the block takes when it is placed; what follows starts after them.
        num_source_tokens: Tokens of the chunk the block stands for, T.
        counts: Where heads keep different numbers of memory tokens: how many of the M are real, the first
            ones; the rest is padding. int32 `[L, K]`, each in `[1, M]`. `None` if all are.
    """

    keys: Tensor
    values: Tensor
    positions: Tensor
    extent: int
    num_source_tokens: int
    counts: Tensor | None = None

    @property
    def width(self) -> int:
        """Return M, the memory tokens of the fullest layer and head."""
        return int(self.keys.shape[2])

    @property
    def nbytes(self) -> int:
        """Return the bytes of memory that keys and values take."""
        return self.keys.nbytes + self.values.nbytes

    @property
    def num_memory_tokens(self) -> int:
        """Return the memory tokens per layer and head, on average and rounded up."""
        return self.width if self.counts is None else math.ceil(float(self.counts.float().mean()))


@dataclass(frozen=True, slots=True)
class Recall:
    """A chunk whose block was opened.

    Attributes:
        chunk: The original text, its span and its heading.
        gate_probability: Relevance in [0, 1], given the question and the memory of that moment.
        step: 0 for the block opened first, 1 for the next, ...
        metadata: The document's metadata.
    """

    chunk: Chunk
    gate_probability: float
    step: int
    metadata: Metadata = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Return the chunk's original text."""
        return self.chunk.text


@dataclass(frozen=True, slots=True)
class Note:
    """One thing learned, and the chunk it was learned from."""

    text: str
    chunk_id: str


@dataclass(frozen=True, slots=True)
class WorkingMemory:
    """What was learned so far, in the order it was learned."""

    notes: tuple[Note, ...] = ()

    @property
    def text(self) -> str:
        """Return the notes as the gate and the reasoner read them, one a line."""
        return "\n".join(note.text for note in self.notes)


Writer: TypeAlias = Callable[[str, WorkingMemory, Sequence["Recall"]], Iterator[str]]
"""A host's model: called with question, working memory and what was opened, yields the answer piece by piece."""


@dataclass(frozen=True, slots=True)
class Step:
    """One decision of the gate.

    Attributes:
        round: 0 for the first pass over the bank, 1 for the first re-scan, ...
        chunk_id: The block that was scored.
        gate_probability: Its relevance, in [0, 1].
        opened: Whether the reasoner read it.
        note: What the reasoner wrote after reading; empty if nothing new.
        memory: The working memory with that note, in which older ones may be shorter or gone; empty without one.
    """

    round: int
    chunk_id: str
    gate_probability: float
    opened: bool
    note: str = ""
    memory: WorkingMemory = WorkingMemory()


@dataclass(frozen=True, slots=True)
class Trace:
    """How an answer came about.

    Attributes:
        steps: Every decision that counted, in order. Scores a later look overruled are left out.
        looks: And all scores: for each state of the notes, in order, the probabilities by chunk id.
        question: As it was asked, cut if it was long.
        threshold: Above which the gate believes in a block.
    """

    steps: tuple[Step, ...] = ()
    looks: tuple[Mapping[str, float], ...] = ()
    question: str = ""
    threshold: float = 0.0


@dataclass(frozen=True, slots=True)
class Stage:
    """What one stage of an answer took.

    Attributes:
        name: `find` candidates, `judge` them, `note` what the opened ones say, write the `answer`.
        seconds: Wall-clock time, without that in which others had their turn.
        bytes: Of the keys and values that were read for it.
    """

    name: str
    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost.

    Attributes:
        blocks_total: Blocks the question could have opened.
        blocks_scored: Gate forwards, counting a block once per time it was scored.
        blocks_opened: Blocks the reasoner read.
        memory_tokens_read: Memory tokens read by the reasoner.
        prompt_tokens: Text tokens read by the reasoner, readback included.
        generated_tokens: Tokens written, notes and answer.
        bytes_per_source_token: Stored bytes of the bank per token of source text.
        seconds: Wall-clock time.
        stages: What of it each stage took, in the order in which they first ran.
    """

    blocks_total: int = 0
    blocks_scored: int = 0
    blocks_opened: int = 0
    memory_tokens_read: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    bytes_per_source_token: float = 0.0
    seconds: float = 0.0
    stages: tuple[Stage, ...] = ()


class Texts(Protocol):
    """Where the texts of documents are; a `MemoryBank` is one."""

    def __contains__(self, doc_id: object) -> bool:
        """Return whether there is a document of this id."""
        ...

    def document(self, doc_id: str) -> Document:
        """Return a document."""
        ...

    def chunks(self, where: Where | None = None) -> list[Chunk]:
        """Return the chunks of the documents that a filter lets through."""
        ...


Verdict: TypeAlias = Literal["found", "partly", "not found"]
"""Whether a span holds what a claim says: all of it, half of it or more, or less."""


@dataclass(frozen=True, slots=True)
class Quote:
    """A claim of an answer, and the span of a document's text that it rests on.

    Attributes:
        claim: A sentence of the answer, or an item of a list.
        claim_start: Where it begins in the answer's text.
        verdict: Whether the span holds its words. A bare yes or no is "partly" at best.
        chunk_id: Of the opened chunk; empty if nothing was found, as are all that follow.
        doc_id: The document's.
        start: First character of the span in the document.
        end: The character after its last.
        text: The span, as it stands there.
    """

    claim: str
    claim_start: int
    verdict: Verdict
    chunk_id: str = ""
    doc_id: str = ""
    start: int = 0
    end: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A question's answer and what it rests on.

    Attributes:
        text: The answer, or the configured not-found sentence.
        evidence: The opened chunks, in the order they were opened.
        found: False when the bank does not hold the answer.
        grounded: True when what the answer says beyond the question stands in the evidence's words.
        working_memory: The notes at the end.
        trace: The gate's decisions.
        usage: The cost.
        quotes: What each claim of the text rests on, in the order of the text; none if nothing was found.
    """

    text: str
    evidence: tuple[Recall, ...]
    found: bool
    grounded: bool
    working_memory: WorkingMemory
    trace: Trace
    usage: Usage
    quotes: tuple[Quote, ...] = ()

    def to_html(self, bank: Texts | None = None) -> str:
        """Return how this answer came about as one page, which needs nothing from outside itself.

        Args:
            bank: From which it came: with it the page also shows the text around what was opened, and that of what
                was refused.

        Raises:
            MissingDependencyError: If the extra `report` is not installed.
        """
        page: str = _drawn("answer_page")(self, bank)
        return page

    def _repr_html_(self) -> str:
        """Return the page in a frame, as notebooks show it."""
        frame: str = _drawn("in_frame")(self.to_html())
        return frame


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What `ingest` did.

    Attributes:
        documents_added: New documents.
        documents_updated: Documents whose text, heading or metadata changed.
        documents_unchanged: Documents that were in the bank already.
        chunks_compressed: Chunks that went through the compressor.
        chunks_reused: Chunks whose block was in the bank already.
        chunks_deferred: Chunks left for the first question that comes near them, as asked or for lack of room.
        source_tokens: Tokens of the compressed chunks.
        seconds: Wall-clock time.
    """

    documents_added: int = 0
    documents_updated: int = 0
    documents_unchanged: int = 0
    chunks_compressed: int = 0
    chunks_reused: int = 0
    chunks_deferred: int = 0
    source_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class BankStats:
    """Size of a bank.

    Attributes:
        documents: Documents that can be recalled.
        chunks: Chunks of these documents.
        blocks: Distinct blocks; equal chunks share one.
        source_tokens: Tokens of all chunks.
        memory_tokens: Memory tokens of the distinct blocks.
        live_bytes: Bytes of the blocks in use.
        file_bytes: Bytes of all segment files, what `compact` would free included.
        chunks_deferred: Chunks that were never compressed.
        chunks_evicted: Chunks whose block made room for others.
    """

    documents: int = 0
    chunks: int = 0
    blocks: int = 0
    source_tokens: int = 0
    memory_tokens: int = 0
    live_bytes: int = 0
    file_bytes: int = 0
    chunks_deferred: int = 0
    chunks_evicted: int = 0


@dataclass(frozen=True, slots=True)
class Outline:
    """A document as a bank lists it, without its text.

    Attributes:
        id: Its id.
        metadata: Its metadata.
        characters: Of its text, up to the end of its last chunk.
        chunks: How many it has.
        deferred: Numbers of those that were never compressed.
        evicted: Numbers of those whose block made room for others.
    """

    id: str
    metadata: Metadata
    characters: int
    chunks: int
    deferred: tuple[int, ...] = ()
    evicted: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """Event: the gate looked at a block."""

    step: Step


@dataclass(frozen=True, slots=True)
class Opened:
    """Event: the reasoner is about to read a block."""

    recall: Recall


@dataclass(frozen=True, slots=True)
class Noted:
    """Event: the reasoner wrote a note."""

    note: Note


@dataclass(frozen=True, slots=True)
class Token:
    """Event: a piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """Event: the answer is complete; always the last event."""

    answer: Answer


Event: TypeAlias = Scored | Opened | Noted | Token | Done
"""What `MemRecall.stream` yields."""

Progress: TypeAlias = Callable[[Literal["compress"], int, int], None]
"""A progress callback: called with the stage, tokens done and tokens in all."""
