"""A system that reads all documents at once, as far as the backbone's window goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from memrecall_kv.evaluate.systems.reader import Reader
from memrecall_kv.evaluate.systems.system import Prepared, Reply
from memrecall_kv.evaluate.systems.windows import ROOM, ends
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.recall.reasoner import Tally
from memrecall_kv.types import Chunk, Document


class FullContext:
    """Reads all documents at once, cut in the middle to the backbone's window.

    Args:
        memory: Whose reasoner reads, with a readback budget of a whole window.
    """

    def __init__(self, memory: MemRecall) -> None:
        self._backbone = memory.backbone
        self._reader = Reader(memory)
        self._budget = self._backbone.window - memory.config.reasoner.max_answer_tokens - ROOM
        self._chunk = Chunk("", 0, 0, 0, "", 0)

    def prepare(self, documents: Iterable[Document], folder: Path) -> Prepared:
        """Cut the documents to the window; see `System`."""
        ids = ends(documents, self._backbone, self._budget)
        text = self._backbone.decode(ids)
        self._chunk = Chunk("context", 0, 0, len(text), text, len(ids))
        return Prepared(len(text.encode()))

    def answer(self, question: str) -> Reply:
        """Read all and answer; see `System`."""
        reply = self._reader.answer(question, [self._chunk], Tally())
        return replace(reply, evidence=None, ranked=())

    def close(self) -> None:
        """Nothing is open."""
