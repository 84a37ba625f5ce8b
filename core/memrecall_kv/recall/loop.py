"""The paper's loop: open what the gate believes in, note what it says, and let the notes decide what is opened next.

Source: LycheeMemory, arXiv:2602.08382. Deviations are listed in `scan.py`, `gate.py` and `reasoner.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from memrecall_kv.backbone.scheduler import Scheduler
from memrecall_kv.bank.bank import MemoryBank
from memrecall_kv.config import GateConfig, ScanConfig
from memrecall_kv.recall.blocks import BlockReader
from memrecall_kv.recall.reasoner import Reasoner, Tally
from memrecall_kv.recall.relevance import Relevance
from memrecall_kv.recall.scan import Decision, best_elsewhere, filling, scan, second_look
from memrecall_kv.recall.stages import Stages
from memrecall_kv.types import Chunk, Event, MemoryBlock, Noted, Opened, Recall, Scored, Step, WorkingMemory


@dataclass
class Walk:
    """One question's way through a bank: `events` walks, and what was decided, opened and noted is kept here.

    `unit` says under which name a block is counted for `scan.top_k`: all blocks of one name count as one. `is_answered`
    says that an answer will be written: looks are fewer then (`scan.max_looks`), and more is read (`scan.fill_tokens`).
    """

    question: str
    bank: MemoryBank
    relevance: Relevance
    blocks: BlockReader
    reasoner: Reasoner
    scheduler: Scheduler
    scan: ScanConfig
    gate: GateConfig
    stages: Stages
    unit: Callable[[Recall], str] | None = None
    is_answered: bool = False
    started: float = field(default_factory=time.perf_counter)
    tally: Tally = field(default_factory=Tally)
    steps: list[Step] = field(default_factory=list)
    recalls: list[Recall] = field(default_factory=list)

    @property
    def notes(self) -> WorkingMemory:
        """Return what was learned so far."""
        return self.relevance.notes

    @property
    def has_found(self) -> bool:
        """Return whether a block was opened that the gate believes in."""
        return any(self._believed(recall.gate_probability) for recall in self.recalls)

    def events(self) -> Iterator[Event]:
        """Walk the blocks: score, open, note."""
        looks = self.scan.max_looks if self.is_answered else None
        for decision in scan(self.relevance, self.scan.model_copy(update={"max_looks": looks}), self.gate):
            yield from self._take(decision)
        yield from self._open_more_units()
        if self.is_answered and self.has_found:
            yield from self._fill()

    def _open_more_units(self) -> Iterator[Event]:
        """Open the best block of each further unit until there are `scan.top_k` units, or no block of another is left.

        What was opened so far stays: the best blocks, of however many units.
        """
        if self.unit is None or self.scan.top_k is None or not self.recalls:
            return
        while len({self.unit(recall) for recall in self.recalls}) < self.scan.top_k:
            opened = {recall.chunk.id for recall in self.recalls}
            counted = {recall.chunk.doc_id for recall in self.recalls if self.unit(recall) != recall.chunk.id}
            decision = best_elsewhere(self.relevance, opened, counted, round=self.steps[-1].round)
            if decision is None:
                return
            yield from self._take(decision)

    def _fill(self) -> Iterator[Event]:
        """Open the most probable blocks left, as far as `scan.fill_tokens` reach."""
        sizes = {step.chunk_id: self.relevance.chunk(step.chunk_id).num_tokens for step in self.steps}
        for decision in filling(self.steps, sizes, self.scan):
            yield from self._take(decision)

    def look_again(self) -> Iterator[Event]:
        """Open the best block left, if it is probable enough; for when the reasoner finds no answer."""
        opened, round = {recall.chunk.id for recall in self.recalls}, self.steps[-1].round + 1
        decision = second_look(self.relevance, self.scan, opened=opened, round=round)
        if decision is not None:
            yield from self._take(decision, doubted=True)

    def _take(self, decision: Decision, *, doubted: bool = False) -> Iterator[Event]:
        self.steps.append(Step(decision.round, decision.chunk_id, decision.gate_probability, decision.opened))
        yield Scored(self.steps[-1])
        if decision.opened:
            chunk = self.relevance.chunk(decision.chunk_id)
            metadata = self.bank.metadata(chunk.doc_id)
            self.recalls.append(Recall(chunk, decision.gate_probability, len(self.recalls), metadata))
            self.bank.budget.mark_opened([chunk])
            yield Opened(self.recalls[-1])
            # a block opened only to make up the number teaches nothing: its note would lead the scan astray
            if doubted or self._believed(decision.gate_probability):
                yield from self._note(self.recalls[-1])

    def _note(self, recall: Recall) -> Iterator[Event]:
        (block,) = self.scheduler.call(lambda: self._read([recall.chunk]))
        with self.stages.timed("note"):
            notes = self.reasoner.update(self.question, self.notes, recall.chunk, block, self.tally)
        if notes is not self.notes:
            self.relevance.notes = notes
            self.steps[-1] = replace(self.steps[-1], note=notes.notes[-1].text, memory=notes)
            yield Noted(notes.notes[-1])

    def _read(self, chunks: Sequence[Chunk]) -> list[MemoryBlock]:
        with self.stages.timed("note"):
            return self.blocks.read(chunks)

    def _believed(self, gate_probability: float) -> bool:
        return gate_probability > self.gate.threshold
