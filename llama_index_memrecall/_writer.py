"""A host's LLM as the one that writes the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llama_index.core.llms import LLM
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from memrecall_kv.types import Recall, WorkingMemory

TEXT_QA = PromptTemplate(
    "Texts:\n{context_str}\n\nNotes taken while reading them:\n{notes_str}\n\n"
    "Answer the question from these texts and notes alone. If they do not hold the answer, reply: not found\n"
    "Question: {query_str}\nAnswer: "
)
"""What a host's LLM is asked; a template of your own may leave `notes_str` out."""


class HostWriter:
    """Asks an LLM with the texts that were opened and the notes on them.

    Args:
        llm: LlamaIndex's.
        template: With `context_str`, `query_str` and, if it likes, `notes_str`.
        streaming: Whether the LLM is asked for its tokens as they come.
    """

    def __init__(self, llm: LLM, template: BasePromptTemplate, *, streaming: bool) -> None:
        self._llm = llm
        self._template = template
        self._streaming = streaming

    def __call__(self, question: str, memory: WorkingMemory, recalls: Sequence[Recall]) -> Iterator[str]:
        """Yield the answer."""
        told = {
            "query_str": question,
            "notes_str": memory.text,
            "context_str": "\n\n".join(f"[{number}] {recall.text}" for number, recall in enumerate(recalls, 1)),
        }
        if self._streaming:
            yield from self._llm.stream(self._template, **told)
        else:
            yield self._llm.predict(self._template, **told)
