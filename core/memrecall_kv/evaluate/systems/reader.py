"""The pipeline's own reasoner answering from texts, so that systems differ only in what they find."""

from __future__ import annotations

from collections.abc import Sequence

from memrecall_kv.evaluate.systems.system import Reply, distinct
from memrecall_kv.pipeline import MemRecall
from memrecall_kv.recall import prompts
from memrecall_kv.recall.kind_asked import is_of_kind_asked
from memrecall_kv.recall.reasoner import Tally
from memrecall_kv.recall.spans import settled
from memrecall_kv.types import Chunk, Note, Recall, WorkingMemory


class Reader:
    """Answers from chunks, as the pipeline reads opened chunks back.

    Args:
        memory: A pipeline with readback.
    """

    def __init__(self, memory: MemRecall) -> None:
        self._reasoner = memory.parts.reasoner
        self._backbone = memory.backbone

    def answer(self, question: str, chunks: Sequence[Chunk], tally: Tally, notes: Sequence[Note] = ()) -> Reply:
        """Return the answer.

        Args:
            question: What is asked.
            chunks: The best first; those that do not fit the reasoner's budget are left out.
            tally: What was read and written for this question so far.
            notes: What is known beside the chunks.

        Raises:
            ContextOverflowError: If chunks, notes and question do not fit the window.
        """
        # falling probabilities keep the order: the reasoner reads the best nearest to the question
        evidence = [Recall(chunk, 1.0 / (2 + place), place) for place, chunk in enumerate(chunks)]
        known = WorkingMemory(tuple(notes))

        def said(among: Sequence[str] = ()) -> str:
            pieces = self._reasoner.answer(question, known, evidence, [], tally, among)
            return "".join(self._backbone.scheduler.each(pieces)).strip()

        text = settled(question, said(), [chunk.read_text for chunk in chunks], said)
        found = not prompts.is_nothing(text) and is_of_kind_asked(question, text)
        ids = distinct(chunk.doc_id for chunk in chunks)
        return Reply(
            text,
            found,
            ids,
            ids,
            tokens_read=tally.prompt_tokens + tally.memory_tokens,
            tokens_written=tally.generated_tokens,
        )
