"""Systems that read everything anew at every question, chunk by chunk; here the simplest of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from memrecall_kv.config import Config
from memrecall_kv.errors import ConfigError
from memrecall_kv.evaluate.measures.metrics import normalize_answer
from memrecall_kv.evaluate.systems.reader import Reader
from memrecall_kv.evaluate.systems.system import Prepared, Reply
from memrecall_kv.evaluate.systems.windows import ROOM, windows
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.recall.reasoner import Tally
from memrecall_kv.types import Chunk, Document


class WindowConfig(Config):
    """How much is read at once.

    Attributes:
        chunk_tokens: Tokens of source text; 5,000 is MemAgent's.
    """

    chunk_tokens: int = Field(default=5000, ge=8)


class WindowReader:
    """Walks through the documents again at every question.

    Args:
        memory: Whose backbone reads.
        config: Size of a chunk.
        room: Tokens beside a chunk that a request needs; `None` if it is another model that reads.

    Raises:
        ConfigError: If a request would not fit the window.
    """

    def __init__(self, memory: MemRecall, config: WindowConfig, room: int | None) -> None:
        self._chunk_tokens = config.chunk_tokens
        self._backbone = memory.backbone
        self._documents: Iterable[Document] = ()
        if room is None:
            return
        needed = config.chunk_tokens + room + ROOM
        if needed > self._backbone.window:
            raise ConfigError(
                f"chunk_tokens={config.chunk_tokens} needs a window of {needed} positions, "
                f"{self._backbone.name} has {self._backbone.window}.",
                "Give the system smaller chunks.",
            )

    def prepare(self, documents: Iterable[Document], folder: Path) -> Prepared:
        """Keep hold of the documents; see `System`."""
        self._documents = documents
        return Prepared()

    def close(self) -> None:
        """Nothing is open."""

    def _chunks(self, documents: Iterable[Document]) -> Iterable[Chunk]:
        for number, ids in enumerate(windows(documents, self._backbone, self._chunk_tokens)):
            text = self._backbone.decode(ids)
            yield Chunk("context", number, 0, len(text), text, len(ids))


class ChunkReading(WindowReader):
    """Answers from each chunk alone and gives the most frequent answer, the earliest of equals.

    Args:
        memory: Whose reasoner reads, with a readback budget of a whole window.
        config: Size of a chunk.
    """

    def __init__(self, memory: MemRecall, config: WindowConfig) -> None:
        super().__init__(memory, config, memory.config.reasoner.max_answer_tokens)
        self._reader = Reader(memory)

    def answer(self, question: str) -> Reply:
        """Read chunk by chunk; see `System`."""
        tally = Tally()
        replies = [self._reader.answer(question, [chunk], tally) for chunk in self._chunks(self._documents)]
        said = [reply.text for reply in replies if reply.found]
        votes = Counter(" ".join(normalize_answer(text)) for text in said)
        # max keeps the first of equals, and so does Counter
        best = max(votes, key=lambda words: votes[words], default=None)
        text = next((text for text in said if " ".join(normalize_answer(text)) == best), "")
        read = tally.prompt_tokens + tally.memory_tokens
        return Reply(text, bool(said), tokens_read=read, tokens_written=tally.generated_tokens)
