"""How probable it is that each candidate matters to a question, under the notes of the moment."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, Protocol

from memrecall_kv.backbone.scheduler import Scheduler
from memrecall_kv.recall.blocks import BlockReader
from memrecall_kv.recall.candidates import Candidate, Candidates
from memrecall_kv.recall.gate import Gate, GlancingGate, shift_odds
from memrecall_kv.recall.stages import Stages
from memrecall_kv.types import Chunk, WorkingMemory

_Look = Literal["glance", "full", "alone"]


class Judge(Protocol):
    """The gate, given chunks instead of their blocks, wherever these are."""

    def __call__(
        self, question: str, notes: WorkingMemory, chunks: Sequence[Chunk], at_a_glance: bool = False
    ) -> list[float]:
        """Return the gate's probabilities, in order; see `Gate.score`."""
        ...


def judge_of(gate: Gate, blocks: BlockReader) -> Judge:
    """Return a judge that reads blocks and shows them to a gate; one that cannot glance looks at all in full."""

    def judge(question: str, notes: WorkingMemory, chunks: Sequence[Chunk], at_a_glance: bool = False) -> list[float]:
        look = gate.glance if at_a_glance and isinstance(gate, GlancingGate) else gate.score
        return look(question, notes, blocks.read_for(gate, chunks))

    return judge


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
        full_looks: So many of the best at a glance, and of the best before the last note, are judged in full; `None`:
            all are.
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
        full_looks: int | None = None,
    ) -> None:
        self._question, self._candidates = question, candidates
        self._scheduler, self._stages = scheduler, stages
        self._limit, self._again, self._word_weight = limit, again, word_weight
        self._full_looks = full_looks
        self._proposed: dict[str, Mapping[str, Candidate]] = {}
        self._chunks: dict[str, Chunk] = {}
        self._scores: dict[tuple[str, str, _Look], float] = {}
        self._latest: dict[str, float] = {}
        self._glanced_at: set[str] = set()
        self.notes = WorkingMemory()
        self.judge = judge_of(gate, blocks)
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
        look: _Look = "alone" if len(chunk_ids) == 1 else "full"
        self._look(chunk_ids, look)
        return [self._scores[self.notes.text, chunk_id, look] for chunk_id in chunk_ids]

    def weigh(self, chunk_ids: Sequence[str], wanted: int) -> dict[str, float]:
        """Return the probabilities of candidates by id, at a glance of those that are less probable; see `Pool`.

        A glance orders the candidates that it is taken of; it is not compared with full looks, nor with glances under
        other notes, since fewer tokens that see a block say yes less often. So an estimate is given as no more than
        the least of the `wanted` best full looks. Full looks are taken of the best of the glances, and of what is
        glanced at anew the best under earlier notes.

        Source: A Cascade Ranking Model for Efficient Ranked Retrieval, SIGIR 2011. The paper judges every block.
        """
        if self._full_looks is None:
            self._look(chunk_ids, "full")
            return {chunk_id: self._scores[self.notes.text, chunk_id, "full"] for chunk_id in chunk_ids}
        enough = max(wanted, self._full_looks)
        before = self._best(chunk_id for chunk_id in chunk_ids if chunk_id in self._latest)
        left = self._look(chunk_ids, "glance") if len(chunk_ids) > enough else chunk_ids
        again = [chunk_id for chunk_id in before if chunk_id in left]
        self._look(list(dict.fromkeys([*self._best(left)[:enough], *again[:enough]])), "full")
        full = [chunk_id for chunk_id in chunk_ids if self._is_looked_at(chunk_id, "full")]
        if len(full) < min(wanted, len(chunk_ids)):
            left = [chunk_id for chunk_id in chunk_ids if chunk_id not in full]
            full += self._look(self._best(left)[: wanted - len(full)], "full")
        found = {chunk_id: self._scores[self.notes.text, chunk_id, "full"] for chunk_id in full}
        most = math.nextafter(sorted(found.values(), reverse=True)[:wanted][-1], 0.0) if found else 0.0
        return {chunk_id: found.get(chunk_id, min(most, self._latest[chunk_id])) for chunk_id in chunk_ids}

    def _best(self, chunk_ids: Iterable[str]) -> list[str]:
        """Return candidates, the most probable first, by the latest look at each."""
        return sorted(chunk_ids, key=lambda chunk_id: self._latest.get(chunk_id, 0.0), reverse=True)

    def _is_looked_at(self, chunk_id: str, look: _Look) -> bool:
        """Return whether a candidate was judged so, or better, under the notes of the moment."""
        enough: tuple[_Look, ...] = ("glance", "full") if look == "glance" else (look,)
        return any((self.notes.text, chunk_id, one) in self._scores for one in enough)

    def _look(self, chunk_ids: Sequence[str], look: _Look) -> list[str]:
        """Judge what was not judged so, or better, under the notes of the moment; return what was judged now."""
        known = self.notes.text
        fresh = [chunk_id for chunk_id in chunk_ids if not self._is_looked_at(chunk_id, look)]
        settled = self._settled(fresh, look)
        for chunk_id in settled:
            kept: _Look = "full" if look == "glance" and chunk_id not in self._glanced_at else look
            self._scores[known, chunk_id, kept] = self._latest[chunk_id]
        fresh = [chunk_id for chunk_id in fresh if chunk_id not in settled]
        if not fresh:
            return fresh
        candidates = [self._current()[chunk_id] for chunk_id in fresh]
        judged = partial(self._judge, [candidate.chunk for candidate in candidates], at_a_glance=look == "glance")
        probabilities = self._scheduler.call(judged)
        self.scored += len(fresh)
        for candidate, probability in zip(candidates, probabilities, strict=True):
            shifted = shift_odds(probability, self._word_weight * candidate.words)
            self._scores[known, candidate.chunk.id, look] = self._latest[candidate.chunk.id] = shifted
        (self._glanced_at.update if look == "glance" else self._glanced_at.difference_update)(fresh)
        return fresh

    def _settled(self, chunk_ids: Sequence[str], look: _Look) -> set[str]:
        """Return which candidates keep the probability that they got under earlier notes."""
        if self._again is None:
            return set()
        judged = [chunk_id for chunk_id in chunk_ids if chunk_id in self._latest]
        by_gate = sorted(judged, key=self._latest.__getitem__, reverse=True)
        by_words = sorted(judged, key=lambda chunk_id: self._current()[chunk_id].words, reverse=True)
        kept = {*judged} - {*by_gate[: self._again], *by_words[: self._again]}
        # what was seen at a glance stands for no full look
        return kept if look == "glance" else kept - self._glanced_at

    def _judge(self, chunks: Sequence[Chunk], *, at_a_glance: bool) -> list[float]:
        """Return the gate's probabilities; in a turn, blocks included: who waits for one holds none."""
        with self._stages.timed("judge"):
            return self.judge(self._question, self.notes, chunks, at_a_glance)

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
