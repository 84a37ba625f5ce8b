"""A question to a bank, as a client may put it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memrecall_kv.hosts.documents import walk_documents
from memrecall_kv.hosts.lazy import LazyBank
from memrecall_kv.recall.follow_up import Turn, stand_alone
from memrecall_kv.types import (
    Answer,
    Done,
    Event,
    Note,
    Noted,
    Opened,
    Recall,
    Scored,
    Step,
    Trace,
    Usage,
    Where,
    WorkingMemory,
)

if TYPE_CHECKING:  # imports torch
    from memrecall_kv.pipeline import MemRecall


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, of which bank, and after what was said before.

    Attributes:
        bank: Opened when its turn has come.
        text: The question; it may refer to the turns.
        turns: What was asked and answered before, the latest last.
        top_k: As in `MemRecall.stream`.
        where: As there.
        is_answered: Whether an answer is written, or only evidence recalled.
        top_n: Without an answer: documents to find, exactly.
    """

    bank: LazyBank
    text: str
    turns: Sequence[Turn] = ()
    top_k: int | None = None
    where: Where | None = None
    is_answered: bool = True
    top_n: int | None = None

    def events(self, memory: MemRecall) -> Generator[Event, None, None]:
        """Yield what happens while the question is answered; as in `MemRecall.stream`, or `walk` without an answer."""
        bank = self.bank.get()
        text = stand_alone(memory.backbone, self.text, self.turns) if self.text.strip() else self.text
        if self.top_n is not None:
            found = walk_documents(memory, bank, text, top_n=self.top_n, where=self.where)
            yield from _to_an_end(found, memory.config.gate.threshold)
            return
        ask = memory.stream if self.is_answered else memory.walk
        with closing(ask(bank, text, top_k=self.top_k, where=self.where)) as events:
            yield from events


def _to_an_end(events: Generator[Event, None, None], threshold: float) -> Generator[Event, None, None]:
    """Yield events, and `Done` after them: a walk that has found enough documents stops without."""
    steps, recalls, notes = list[Step](), list[Recall](), list[Note]()
    with closing(events):
        for event in events:
            match event:
                case Scored(step):
                    steps.append(step)
                case Opened(recall):
                    recalls.append(recall)
                case Noted(note):
                    notes.append(note)
                case Done():
                    break
                case _:
                    pass
            yield event
    found = any(recall.gate_probability > threshold for recall in recalls)
    usage = Usage(blocks_scored=len(steps), blocks_opened=len(recalls))
    memory, trace = WorkingMemory(tuple(notes)), Trace(tuple(steps))
    yield Done(Answer("", tuple(recalls), found=found, grounded=False, working_memory=memory, trace=trace, usage=usage))
