"""How probable it is that each block of a bank matters to a question, under the memory of the moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from memrecall_kv.backbone.scheduler import Turns
from memrecall_kv.recall.candidates import LexicalIndex
from memrecall_kv.recall.gate import Gate, shift_odds
from memrecall_kv.types import Chunk, MemoryBlock, WorkingMemory


class Relevance:
    """The gate's probabilities, with the words that text and question share, none computed twice.

    Args:
        gate: What judges.
        turns: By which it does.
        weight: Of shared words in the gate's log-odds.
        blocks: Returns the blocks of chunks.
        chunks: What may be recalled.
        question: What is asked.
        words: Their word index, in the same order; `None`: words do not count.
        candidates: The gate judges only this many, those that share most words; the others count as 0.

    Attributes:
        scored: Blocks that the gate has judged so far.
    """

    def __init__(
        self,
        gate: Gate,
        turns: Turns,
        weight: float,
        blocks: Callable[[Sequence[Chunk]], list[MemoryBlock]],
        chunks: Sequence[Chunk],
        question: str,
        words: LexicalIndex | None,
        candidates: int | None,
    ) -> None:
        self._gate, self._turns, self._weight = gate, turns, weight
        self._blocks, self._chunks = blocks, chunks
        self._question, self._words, self._candidates = question, words, candidates
        self._scores: dict[tuple[str, int, bool], float] = {}
        self._lexical: dict[str, Sequence[float | None]] = {}
        self.scored = 0

    def score(self, indices: Sequence[int], memory: WorkingMemory) -> list[float]:
        """Return the probabilities of chunks by index; one chunk alone is scored apart from a batch."""
        alone = len(indices) == 1
        known = memory.text
        shared = self._shared_words(known)
        fresh = [i for i in indices if (known, i, alone) not in self._scores and shared[i] is not None]
        if fresh:
            probabilities = self._turns.run(partial(self._judge, fresh, memory))
            self.scored += len(fresh)
            for index, probability in zip(fresh, probabilities, strict=True):
                added = self._weight * (shared[index] or 0.0)
                self._scores[known, index, alone] = shift_odds(probability, added)
        return [self._scores.get((known, index, alone), 0.0) for index in indices]

    def _judge(self, indices: Sequence[int], memory: WorkingMemory) -> list[float]:
        """Return the gate's probabilities; in a turn, blocks included: who waits for one holds none."""
        blocks = self._blocks([self._chunks[index] for index in indices])
        return self._gate.score(self._question, memory, blocks)

    def _shared_words(self, known: str) -> Sequence[float | None]:
        """Return the lexical score of every chunk; `None` for one that is not to be judged."""
        if self._words is None:
            return [0.0] * len(self._chunks)
        if known not in self._lexical:
            scores: list[float | None] = list(self._words.scores(f"{self._question} {known}"))
            if self._candidates is not None:
                order = sorted(range(len(scores)), key=lambda index: (-(scores[index] or 0.0), index))
                for index in order[self._candidates :]:
                    scores[index] = None
            self._lexical[known] = scores
        return self._lexical[known]
