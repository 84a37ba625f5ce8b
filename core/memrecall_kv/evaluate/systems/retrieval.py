"""Systems that find chunks of text and read them: one look, or one look per step of reasoning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from memrecall_kv.config import Config
from memrecall_kv.errors import InputError
from memrecall_kv.evaluate.shelf import ChunkShelf
from memrecall_kv.evaluate.systems.completer import Completer, Request
from memrecall_kv.evaluate.systems.rankers import Ranker
from memrecall_kv.evaluate.systems.reader import Reader
from memrecall_kv.evaluate.systems.system import RANKED, Prepared, Reply, distinct
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.recall.reasoner import Tally
from memrecall_kv.types import Chunk, Document

_CUE = "answer is"
"""What a thought announces an answer with."""


class RetrievalConfig(Config):
    """How much is found and read.

    Attributes:
        k: Chunks that the reader is given; it reads as many as its readback budget allows, the best first.
        depth: Ranks that are fused or re-ranked, and that count for recall.
    """

    k: int = Field(default=4, ge=1)
    depth: int = Field(default=20, ge=1)


class IterationConfig(RetrievalConfig):
    """How often the iterative system looks.

    Attributes:
        steps: Looks.
        thought_tokens: Tokens of a thought between two looks at most.
    """

    steps: int = Field(default=3, ge=1)
    thought_tokens: int = Field(default=48, ge=1)


class Retrieval:
    """Ranks chunks by the question and reads the best.

    Args:
        memory: Whose chunks and reasoner are used.
        ranker: Finds chunks.
        config: How many.
    """

    def __init__(self, memory: MemRecall, ranker: Ranker, config: RetrievalConfig) -> None:
        self._memory, self._ranker, self._config = memory, ranker, config
        self._reader = Reader(memory)
        self._chunks: ChunkShelf | None = None

    def prepare(self, documents: Iterable[Document], folder: Path) -> Prepared:
        """Cut and index the documents; see `System`."""
        self._chunks = ChunkShelf(chunk for document in documents for chunk in self._memory.chunk(document))
        indexed = self._ranker.index(self._chunks)
        return Prepared(self._chunks.num_bytes, indexed.tokens_read, reused=indexed.reused)

    def answer(self, question: str) -> Reply:
        """Find, read, answer; see `System`.

        Raises:
            InputError: If nothing was prepared.
        """
        tally = Tally()
        found = self._find(question, tally)
        reply = self._reader.answer(question, found[: self._config.k], tally)
        return replace(reply, ranked=distinct(chunk.doc_id for chunk in found)[:RANKED])

    def close(self) -> None:
        """Let go of the chunks."""
        self._chunks = None

    def _find(self, question: str, tally: Tally) -> list[Chunk]:
        """Return chunks, best first: more than are read, so that recall at any k can be told."""
        return self._ranked(question, max(self._config.k, self._config.depth))

    def _ranked(self, query: str, k: int) -> list[Chunk]:
        if self._chunks is None:
            raise InputError("Expected documents before a question.", "Call prepare first.")
        return [self._chunks[number] for number in self._ranker.rank(query, k)]


class IterativeRetrieval(Retrieval):
    """Looks, thinks one sentence about what it found, and looks again with it.

    Source:
        IRCoT, arXiv:2212.10509. Deviations: no examples in the request, as the backbone has no room for them; the
        sentence is the next query together with the question.

    Args:
        memory: Whose chunks, backbone and reasoner are used.
        ranker: Finds chunks.
        config: How many, and how often.
    """

    def __init__(self, memory: MemRecall, ranker: Ranker, config: IterationConfig) -> None:
        super().__init__(memory, ranker, config)
        self._steps, self._thought_tokens = config.steps, config.thought_tokens
        self._completer = Completer(memory.backbone)

    def _find(self, question: str, tally: Tally) -> list[Chunk]:
        found: dict[str, Chunk] = {}
        thoughts: list[str] = []
        share = max(1, self._config.k // self._steps)
        while True:
            ranked = self._ranked(" ".join([question, *thoughts]), max(self._config.k, self._config.depth))
            new = [chunk for chunk in ranked if chunk.id not in found]
            if len(thoughts) + 1 == self._steps or any(_CUE in thought.lower() for thought in thoughts):
                return [*found.values(), *new]  # nothing more to look for: the ranking as it is fills up
            found |= {chunk.id: chunk for chunk in new[:share]}
            texts = [chunk.text for chunk in found.values()]
            (thought,) = self._completer.write(
                [Request(_think(question, texts, thoughts), self._thought_tokens, tally)]
            )
            thoughts.append(" ".join(thought.split()))


def _think(question: str, texts: list[str], thoughts: list[str]) -> str:
    known = f"\n\nSo far: {' '.join(thoughts)}" if thoughts else ""
    return (
        "\n\n".join(texts)
        + f"\n\nQuestion: {question}{known}\n\nWrite the next sentence of reasoning. If the answer is known, write "
        '"So the answer is" and the answer.'
    )
