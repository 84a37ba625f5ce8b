"""A control that reads nothing: what the backbone knows or guesses without the documents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from memrecall_kv.evaluate.systems.reader import Reader
from memrecall_kv.evaluate.systems.system import Prepared, Reply
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.recall.reasoner import Tally
from memrecall_kv.types import Document


class NoContext:
    """Answers without the documents.

    Args:
        memory: Whose reasoner answers.
    """

    def __init__(self, memory: MemRecall) -> None:
        self._reader = Reader(memory)

    def prepare(self, documents: Iterable[Document], folder: Path) -> Prepared:
        """Leave the documents alone; see `System`."""
        return Prepared()

    def answer(self, question: str) -> Reply:
        """Guess; see `System`."""
        return replace(self._reader.answer(question, [], Tally()), evidence=None)

    def close(self) -> None:
        """Nothing is open."""
