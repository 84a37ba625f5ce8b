"""Which blocks of a bank the gate is to judge at all: a cheap first look at every chunk."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from memrecall_kv.bank.bank import MemoryBank
from memrecall_kv.recall.lexical import LexicalIndex, Split, words
from memrecall_kv.types import Chunk, Where, WorkingMemory


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk that is proposed to the gate.

    Attributes:
        chunk: The chunk.
        words: BM25 score of its text for question and notes, as a share of the best one, in [0, 1].
    """

    chunk: Chunk
    words: float = 0.0


class Candidates(Protocol):
    """A source of candidates for questions to one bank; its index, if it has one, is that bank's alone."""

    def propose(
        self, question: str, notes: WorkingMemory, limit: int | None, where: Where | None
    ) -> Sequence[Candidate]:
        """Return the most promising chunks, in the bank's order.

        Args:
            question: What is asked.
            notes: What was learned so far.
            limit: Most candidates, at least 1; `None` for every chunk that may be recalled.
            where: Which documents may be recalled; `None` for all.
        """
        ...


class EveryChunk:
    """Proposes chunks in the bank's order, whatever is asked.

    Args:
        bank: Whose chunks.
    """

    def __init__(self, bank: MemoryBank) -> None:
        self._bank = bank

    def propose(
        self, question: str, notes: WorkingMemory, limit: int | None, where: Where | None
    ) -> Sequence[Candidate]:
        """Return the first chunks; see `Candidates`."""
        return [Candidate(chunk) for chunk in self._bank.chunks(where)[:limit]]


class SharedWords:
    """Proposes the chunks that share most words with question and notes; of equals the first ones.

    Words are weighed by the whole bank, so that one index serves every filter and any number of threads.

    Args:
        bank: Whose chunks.
        split: Cuts a text into words.
    """

    def __init__(self, bank: MemoryBank, split: Split = words) -> None:
        self._bank, self._split = bank, split
        self._lock = threading.Lock()
        self._texts: tuple[str, ...] = ()
        self._index: LexicalIndex | None = None

    def propose(
        self, question: str, notes: WorkingMemory, limit: int | None, where: Where | None
    ) -> Sequence[Candidate]:
        """Return the chunks with the highest scores; see `Candidates`."""
        every = self._bank.chunks()
        if not every:
            return []
        scores = self._current(every).scores(f"{question} {notes.text}")
        allowed = range(len(every)) if where is None else self._allowed(every, where)
        best = max((scores[place] for place in allowed), default=0.0) or 1.0
        chosen = sorted(allowed, key=lambda place: (-scores[place], place))[:limit]
        return [Candidate(every[place], scores[place] / best) for place in sorted(chosen)]

    def _allowed(self, every: Sequence[Chunk], where: Where) -> list[int]:
        documents = {chunk.doc_id for chunk in self._bank.chunks(where)}
        return [place for place, chunk in enumerate(every) if chunk.doc_id in documents]

    def _current(self, chunks: Sequence[Chunk]) -> LexicalIndex:
        # the texts, not the ids: a document that was replaced keeps its id
        texts = tuple(chunk.judged_text for chunk in chunks)
        with self._lock:
            if self._index is None or self._texts != texts:
                self._texts, self._index = texts, LexicalIndex(texts, self._split)
            return self._index
