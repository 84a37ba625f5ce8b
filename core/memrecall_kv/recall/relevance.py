"""How probable it is that each candidate matters to a question, under the notes of the moment."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Protocol

from memrecall_kv.backbone.scheduler import Scheduler
from memrecall_kv.recall.blocks import BlockReader
from memrecall_kv.recall.candidates import Candidate, Candidates
from memrecall_kv.recall.gate import Gate, shift_odds
from memrecall_kv.recall.stages import Stages
from memrecall_kv.types import Chunk, WorkingMemory


class Judge(Protocol):
    """The gate, given chunks instead of their blocks, wherever these are."""

    def __call__(self, question: str, notes: WorkingMemory, chunks: Sequence[Chunk]) -> list[float]:
        """Return the gate's probabilities, in order; see `Gate.score`."""
        ...


class Relevance:
    """The pool that a question scans: candidates, and the gate's probabilities of them, none computed twice.

    A probability is the gate's, shifted by the words that text and question share.

    Args:
        question: What is asked, or what stands for it in a search.
        candidates: Proposes what is judged.
        gate: Judges.
        blocks: Reads what is judged.
        scheduler: Runs it.
        stages: Are told what it takes.
        limit: Most candidates under one state of the notes; `None` for all.
        again: Of the candidates judged under earlier notes, so many of the most probable, and so many of those that
            share most words with the notes of the moment, are judged anew; `None` for all.
        word_weight: Of a candidate's words in the log-odds.

    Attributes:
        notes: What was learned so far; whoever learns something puts it here.
        judge: The gate and its blocks; whoever has chunks judged elsewhere puts that here.
        scored: Blocks that the gate has judged so far.
    """

    def __init__(
        self,
        question: str,
        candidates: Candidates,
        gate: Gate,
        blocks: BlockReader,
        scheduler: Scheduler,
        stages: Stages,
        *,
        limit: int | None,
        again: int | None,
        word_weight: float,
    ) -> None:
        self._question, self._candidates = question, candidates
        self._scheduler, self._stages = scheduler, stages
        self._limit, self._again, self._word_weight = limit, again, word_weight
        self._proposed: dict[str, Mapping[str, Candidate]] = {}
        self._chunks: dict[str, Chunk] = {}
        self._scores: dict[tuple[str, str, bool], float] = {}
        self._latest: dict[str, float] = {}
        self.notes = WorkingMemory()
        self.judge: Judge = lambda question, notes, chunks: gate.score(question, notes, blocks.read(chunks))
        self.scored = 0

    @property
    def total(self) -> int:
        """Return how many blocks could be judged."""
        return self._candidates.total

    @property
    def looks(self) -> tuple[Mapping[str, float], ...]:
        """Return the probabilities under each state of the notes so far, by chunk id."""
        found: dict[str, dict[str, float]] = {}
        for (known, chunk_id, _), probability in self._scores.items():
            found.setdefault(known, {})[chunk_id] = probability
        return tuple(found.values())

    def closed(self, opened: Collection[str]) -> list[str]:
        """Return the ids of candidates that are not open; see `Pool`."""
        return [chunk_id for chunk_id in self._current() if chunk_id not in opened]

    def elsewhere(self, opened: Collection[str], doc_ids: Collection[str]) -> list[str]:
        """Return the ids of candidates of other documents that are not open; see `DocumentPool`."""
        left = [chunk_id for chunk_id in self.closed(opened) if self._chunks[chunk_id].doc_id not in doc_ids]
        if left or self._limit is None:
            return left
        self._propose(without=doc_ids)
        return [chunk_id for chunk_id in self.closed(opened) if self._chunks[chunk_id].doc_id not in doc_ids]

    def chunk(self, chunk_id: str) -> Chunk:
        """Return the chunk of what is a candidate, or was one before the last note."""
        return self._chunks[chunk_id]

    def score(self, chunk_ids: Sequence[str]) -> list[float]:
        """Return the probabilities of candidates; one alone is scored apart from a batch; see `Pool`."""
        known, alone = self.notes.text, len(chunk_ids) == 1
        fresh = [chunk_id for chunk_id in chunk_ids if (known, chunk_id, alone) not in self._scores]
        if self._again is not None:
            for chunk_id in self._settled(fresh, self._again):
                self._scores[known, chunk_id, alone] = self._latest[chunk_id]
            fresh = [chunk_id for chunk_id in fresh if (known, chunk_id, alone) not in self._scores]
        if fresh:
            candidates = [self._current()[chunk_id] for chunk_id in fresh]
            probabilities = self._scheduler.call(partial(self._judge, [candidate.chunk for candidate in candidates]))
            self.scored += len(fresh)
            for candidate, probability in zip(candidates, probabilities, strict=True):
                shifted = shift_odds(probability, self._word_weight * candidate.words)
                self._scores[known, candidate.chunk.id, alone] = self._latest[candidate.chunk.id] = shifted
        return [self._scores[known, chunk_id, alone] for chunk_id in chunk_ids]

    def _settled(self, chunk_ids: Sequence[str], again: int) -> set[str]:
        """Return which candidates keep the probability that they got under earlier notes."""
        judged = [chunk_id for chunk_id in chunk_ids if chunk_id in self._latest]
        by_gate = sorted(judged, key=self._latest.__getitem__, reverse=True)
        by_words = sorted(judged, key=lambda chunk_id: self._current()[chunk_id].words, reverse=True)
        return {*judged} - {*by_gate[:again], *by_words[:again]}

    def _judge(self, chunks: Sequence[Chunk]) -> list[float]:
        """Return the gate's probabilities; in a turn, blocks included: who waits for one holds none."""
        with self._stages.timed("judge"):
            return self.judge(self._question, self.notes, chunks)

    def _current(self) -> Mapping[str, Candidate]:
        """Return the candidates under the notes of the moment, by the ids of their chunks."""
        known = self.notes.text
        if known not in self._proposed:
            self._propose()
        return self._proposed[known]

    def _propose(self, without: Collection[str] = ()) -> None:
        """Add what is proposed under the notes of the moment to the candidates."""
        with self._stages.timed("find"):
            proposed = self._candidates.propose(self._question, self.notes, self._limit, without)
        candidates = {candidate.chunk.id: candidate for candidate in proposed}
        self._proposed[self.notes.text] = {**self._proposed.get(self.notes.text, {}), **candidates}
        self._chunks |= {chunk_id: candidate.chunk for chunk_id, candidate in candidates.items()}
