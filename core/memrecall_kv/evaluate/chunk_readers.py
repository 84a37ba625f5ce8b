"""Systems that read everything at every question: the full context, chunk by chunk, and MemAgent's loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from memrecall_kv.config import Config
from memrecall_kv.errors import ConfigError
from memrecall_kv.evaluate.metrics import normalize_answer
from memrecall_kv.evaluate.reader import Reader
from memrecall_kv.evaluate.system import Prepared, Reply
from memrecall_kv.evaluate.windows import ends, windows
from memrecall_kv.evaluate.writer import Writer
from memrecall_kv.kv import KVAccess, whole_blocks
from memrecall_kv.models import Backbone
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.reasoner import Tally
from memrecall_kv.types import Chunk, Document, WorkingMemory

_CUE = "the answer is"
"""What MemAgent's final reply announces its answer with; the last one counts, as published."""
_ROOM = 256
"""Tokens of the window that are left for the question and the form of a request."""


class WindowConfig(Config):
    """How much is read at once.

    Attributes:
        chunk_tokens: Tokens of source text; 5,000 is MemAgent's.
        memory_tokens: Tokens of its memory at most; 1,024 is MemAgent's.
        answer_tokens: Tokens of its answer at most.
    """

    chunk_tokens: int = Field(default=5000, ge=8)
    memory_tokens: int = Field(default=1024, ge=8)
    answer_tokens: int = Field(default=64, ge=1)


class FullContext:
    """Reads all documents at once, cut in the middle to the backbone's window.

    Args:
        memory: Whose reasoner reads, with a readback budget of a whole window.
    """

    def __init__(self, memory: MemRecall) -> None:
        self._backbone = memory.backbone
        self._reader = Reader(memory)
        self._budget = self._backbone.window - memory.config.reasoner.max_answer_tokens - _ROOM
        self._chunk = Chunk("", 0, 0, 0, "", 0)

    def prepare(self, documents: Iterable[Document], folder: Path) -> Prepared:
        """Cut the documents to the window; see `System`."""
        ids = ends(documents, self._backbone, self._budget)
        text = self._backbone.decode(ids)
        self._chunk = Chunk("context", 0, 0, len(text), text, len(ids))
        return Prepared(len(text.encode()))

    def answer(self, question: str) -> Reply:
        """Read all and answer; see `System`."""
        reply = self._reader.answer(question, [self._chunk], Tally())
        return replace(reply, evidence=None, ranked=())

    def close(self) -> None:
        """Nothing is open."""


class _WindowReader:
    """Walks through the documents again at every question."""

    def __init__(self, memory: MemRecall, config: WindowConfig, needed: int) -> None:
        self._memory, self._config = memory, config
        self._backbone: Backbone = memory.backbone
        self._documents: Iterable[Document] = ()
        if needed + _ROOM > self._backbone.window:
            raise ConfigError(
                f"chunk_tokens={config.chunk_tokens} needs a window of {needed + _ROOM} positions, "
                f"{self._backbone.name} has {self._backbone.window}.",
                "Give the system a smaller chunk_tokens or memory_tokens.",
            )

    def prepare(self, documents: Iterable[Document], folder: Path) -> Prepared:
        """Keep hold of the documents; see `System`."""
        self._documents = documents
        return Prepared()

    def close(self) -> None:
        """Nothing is open."""

    def _chunks(self) -> Iterable[Chunk]:
        for number, ids in enumerate(windows(self._documents, self._backbone, self._config.chunk_tokens)):
            text = self._backbone.decode(ids)
            yield Chunk("context", number, 0, len(text), text, len(ids))


class ChunkReading(_WindowReader):
    """Answers from each chunk alone and gives the most frequent answer, the earliest of equals.

    Args:
        memory: Whose reasoner reads, with a readback budget of a whole window.
        config: Size of a chunk.
    """

    def __init__(self, memory: MemRecall, config: WindowConfig) -> None:
        super().__init__(memory, config, config.chunk_tokens + memory.config.reasoner.max_answer_tokens)
        self._reader = Reader(memory)

    def answer(self, question: str) -> Reply:
        """Read chunk by chunk; see `System`."""
        tally = Tally()
        replies = [self._reader.answer(question, [chunk], tally) for chunk in self._chunks()]
        said = [reply.text for reply in replies if reply.found]
        votes = Counter(" ".join(normalize_answer(text)) for text in said)
        # max keeps the first of equals, and so does Counter
        best = max(votes, key=lambda words: votes[words], default=None)
        text = next((text for text in said if " ".join(normalize_answer(text)) == best), "")
        read = tally.prompt_tokens + tally.memory_tokens
        return Reply(text, bool(said), tokens_read=read, tokens_written=tally.generated_tokens)


class MemAgentLoop(_WindowReader):
    """Rewrites a text memory after every chunk and answers from the memory alone.

    Source:
        MemAgent, arXiv:2507.02259, the recurrent workflow. Deviations: our own wording of the requests; greedy
        instead of temperature 0.7; a request that fails counts as a wrong answer.

    Args:
        memory: Whose backbone reads and writes, without any trained part.
        config: Sizes of chunk and memory.
    """

    def __init__(self, memory: MemRecall, config: WindowConfig) -> None:
        super().__init__(memory, config, config.chunk_tokens + 2 * config.memory_tokens)
        self._writer = Writer(memory.backbone)

    def answer(self, question: str) -> Reply:
        """Run the loop; see `System`."""
        tally = Tally()
        known = "No previous memory"
        for chunk in self._chunks():
            reply = self._writer.write(_update(question, known, chunk.text), self._config.memory_tokens, tally)
            known = reply.rpartition("</think>")[2].strip()
        final = self._writer.write(_final(question, known), self._config.answer_tokens, tally)
        cue = final.lower().rfind(_CUE)
        text = (final[cue + len(_CUE) :] if cue >= 0 else final).strip(" :\n")
        return Reply(text, bool(text), tokens_read=tally.prompt_tokens, tokens_written=tally.generated_tokens)


class NoteLoop(_WindowReader):
    """MemAgent's loop with the pipeline's reasoner: it reads each chunk uncompressed and adds its note.

    Args:
        memory: Whose reasoner answers, with readback on: notes of chunks beyond its budget are what it reads.
        noter: Whose reasoner takes notes, with readback off.
        config: Size of a chunk.
    """

    def __init__(self, memory: MemRecall, noter: MemRecall, config: WindowConfig) -> None:
        super().__init__(memory, config, config.chunk_tokens + 2 * memory.config.reasoner.max_memory_tokens)
        self._kv = KVAccess(memory.backbone)
        self._noter = noter.parts.reasoner
        self._reader = Reader(memory)

    def answer(self, question: str) -> Reply:
        """Run the loop; see `System`."""
        tally = Tally()
        known = WorkingMemory()
        noted: dict[str, Chunk] = {}
        for chunk in self._chunks():
            ids = self._backbone.encode(chunk.text)
            with self._backbone.lock:
                block = whole_blocks(self._kv.prefill([ids]), [ids])[0]
                after = self._noter.update(question, known, chunk, block, tally)
            if after is not known:
                # too long to be read back: what is left of the chunk is its note
                noted[chunk.id] = Chunk(chunk.doc_id, chunk.index, 0, 0, "", self._backbone.window)
            known = after
        kept = [noted[note.chunk_id] for note in known.notes]
        reply = self._reader.answer(question, kept, tally, known.notes)
        return replace(reply, evidence=None, ranked=())


def _update(question: str, memory: str, section: str) -> str:
    return (
        "You read a long text in sections and keep a memory of what helps with a problem. Read the next section, "
        "which may be of no use, and write the memory anew: keep what matters from the previous memory, add what the "
        f"section contributes.\n\n<problem>{question}</problem>\n\n<memory>{memory}</memory>\n\n"
        f"<section>{section}</section>\n\nUpdated memory:"
    )


def _final(question: str, memory: str) -> str:
    return (
        'Solve the problem with the memory of the text that was read, and end with "the answer is" and the answer.'
        f"\n\n<problem>{question}</problem>\n\n<memory>{memory}</memory>\n\nYour answer:"
    )
