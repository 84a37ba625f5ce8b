"""What one question finds on its way through a bank, told to LlamaIndex's dispatcher as it happens."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from memrecall_kv.types import Done, Event, Note, Noted, Opened, Recall, Scored, Step, Usage, Where

from llama_index_memrecall.events import BlockGatedEvent, BlockOpenedEvent, WorkingMemoryUpdatedEvent, dispatcher

if TYPE_CHECKING:  # both import torch
    from memrecall_kv.bank import MemoryBank
    from memrecall_kv.pipeline import MemRecall


@dataclass
class Findings:
    """What was opened, noted and decided so far.

    Attributes:
        recalls: Opened chunks, in that order.
        notes: What was learned.
        steps: The gate's decisions.
        usage: What it cost; known at the end.
        found: Whether there is something to answer from, or an answer; known at the end.
    """

    recalls: list[Recall] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    usage: Usage | None = None
    found: bool = False

    def take(self, event: Event) -> None:
        """Keep what an event says, and tell the dispatcher."""
        match event:
            case Scored(step):
                self.steps.append(step)
                dispatcher.event(
                    BlockGatedEvent(
                        chunk_id=step.chunk_id,
                        gate_probability=step.gate_probability,
                        opened=step.opened,
                        round=step.round,
                    )
                )
            case Opened(recall):
                self.recalls.append(recall)
                dispatcher.event(BlockOpenedEvent(chunk_id=recall.chunk.id, step=recall.step))
            case Noted(note):
                self.notes.append(note)
                self.steps[-1] = replace(self.steps[-1], note=note.text)
                dispatcher.event(WorkingMemoryUpdatedEvent(text=note.text, chunk_id=note.chunk_id))
            case Done(answer):
                self.usage, self.found = answer.usage, answer.found
            case _:
                pass

    def walk(
        self, memory: MemRecall, bank: MemoryBank, where: Where | None, question: str, top_k: int | None
    ) -> Generator[Event, None, None]:
        """Yield the events of a walk without an answer, each already taken."""
        with closing(memory.walk(bank, question, top_k=top_k, where=where)) as events:
            for event in events:
                self.take(event)
                yield event

    def metadata(self) -> dict[str, Any]:
        """Return cost and decisions as a response carries them."""
        return {
            "usage": asdict(self.usage or Usage(blocks_opened=len(self.recalls))),
            "trace": [asdict(step) for step in self.steps],
        }
