"""What one question finds on its way through a bank, told to LlamaIndex's dispatcher as it happens."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_index.core.schema import NodeWithScore
from memrecall_kv.hosts.served import ServedWalk
from memrecall_kv.types import Answer, Event, Noted, Opened, Recall, Scored

from llama_index_memrecall._scope import Scope
from llama_index_memrecall.events import BlockGatedEvent, BlockOpenedEvent, WorkingMemoryUpdatedEvent, dispatcher

if TYPE_CHECKING:  # both import torch
    from memrecall_kv.pipeline import MemRecall
    from memrecall_kv.recall.loop import Walk


def tell(event: Event) -> None:
    """Tell the dispatcher of one of the core's events."""
    match event:
        case Scored(step):
            dispatcher.event(
                BlockGatedEvent(
                    chunk_id=step.chunk_id,
                    gate_probability=step.gate_probability,
                    opened=step.opened,
                    round=step.round,
                )
            )
        case Opened(recall):
            dispatcher.event(BlockOpenedEvent(chunk_id=recall.chunk.id, step=recall.step))
        case Noted(note):
            dispatcher.event(WorkingMemoryUpdatedEvent(text=note.text, chunk_id=note.chunk_id))
        case _:
            pass


@dataclass
class Found:
    """What one question has found.

    Attributes:
        memory: What recalls.
        walk: Its way through the bank.
        to_sources: Turns what was recalled into the host's nodes.
        answer: What `memory` answers, with cost and decisions; `None` until it has.
    """

    memory: MemRecall
    walk: Walk | ServedWalk
    to_sources: Callable[[Sequence[Recall]], list[NodeWithScore]]
    answer: Answer | None = None

    @classmethod
    def begin(
        cls, memory: MemRecall, scope: Scope, question: str, *, top_k: int | None, search: str | None = None
    ) -> Found:
        """Return what will be found once `events` has been walked.

        Args:
            memory: What recalls.
            scope: What may be recalled.
            question: What is asked.
            top_k: How many of the scope's units to find, exactly; `None` leaves it to the memory's settings.
            search: What blocks are judged by instead of the question.

        Raises:
            InputError: If the question is empty.
        """
        walk = memory.begin(scope.bank, question, top_k=top_k, where=scope.where, search=search, unit=scope.unit)
        return cls(memory, walk, lambda recalls: scope.sources(recalls)[:top_k])

    def expect_answer(self) -> None:
        """Say that the walk will be concluded: it then reads for an answer, and a server answers in one go."""
        self.walk.is_answered = True

    def events(self) -> Generator[Event, None, None]:
        """Walk, telling the dispatcher of each event."""
        for event in self.walk.events():
            tell(event)
            yield event

    def conclude(self) -> Generator[Event, None, None]:
        """Yield the answer's events, once `events` has been walked."""
        yield from self.memory.conclude(self.walk)  # type: ignore[arg-type]  # a memory is given its own walk

    def sources(self) -> list[NodeWithScore]:
        """Return the host's nodes, in the order they were opened."""
        return self.to_sources(self.walk.recalls)

    def cost(self) -> Answer:
        """Return the answer, or if another model writes it an empty one, for what it says of cost and decisions."""
        from memrecall_kv.recall.answer import answered

        if isinstance(self.walk, ServedWalk):
            return self.walk.cost
        return self.answer or answered(self.walk, "", found=self.walk.has_found, grounded=False)
