"""A question to a bank, as a client may put it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memrecall_kv.hosts.lazy import LazyBank
from memrecall_kv.recall.follow_up import Turn, stand_alone
from memrecall_kv.types import Event, Where

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
    """

    bank: LazyBank
    text: str
    turns: Sequence[Turn] = ()
    top_k: int | None = None
    where: Where | None = None
    is_answered: bool = True

    def events(self, memory: MemRecall) -> Generator[Event, None, None]:
        """Yield what happens while the question is answered; as in `MemRecall.stream`, or `walk` without an answer."""
        bank = self.bank.get()
        text = stand_alone(memory.backbone, self.text, self.turns) if self.text.strip() else self.text
        ask = memory.stream if self.is_answered else memory.walk
        with closing(ask(bank, text, top_k=self.top_k, where=self.where)) as events:
            yield from events
