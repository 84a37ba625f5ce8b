"""What the query engine tells LlamaIndex's dispatcher while it works."""

from __future__ import annotations

from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # its public place
from llama_index.core.instrumentation.events import BaseEvent

dispatcher = get_dispatcher("llama_index_memrecall")
"""Where everything below, and the spans of both classes, is sent."""


class BlockGatedEvent(BaseEvent):
    """The gate judged one block.

    Attributes:
        chunk_id: The block that was judged.
        gate_probability: Its relevance, in [0, 1].
        opened: Whether it is read.
        round: 0 for the first pass over the bank, 1 for the first re-scan, ...
    """

    chunk_id: str
    gate_probability: float
    opened: bool
    round: int

    @classmethod
    def class_name(cls) -> str:
        """Return the event's name in traces."""
        return "BlockGatedEvent"


class WorkingMemoryUpdatedEvent(BaseEvent):
    """A note was written.

    Attributes:
        text: The note.
        chunk_id: The chunk it was learned from.
    """

    text: str
    chunk_id: str

    @classmethod
    def class_name(cls) -> str:
        """Return the event's name in traces."""
        return "WorkingMemoryUpdatedEvent"


class RecallFinishedEvent(BaseEvent):
    """The answer is complete, or was given up: the true end of a stream.

    LlamaIndex's own `QueryEndEvent` comes before the first token of a stream is read.

    Attributes:
        query: The question.
        response: The answer, as far as it got.
        interrupted: True if the stream was closed or failed before its end.
        blocks_scored: Gate forwards; 0 if interrupted.
        blocks_opened: Blocks the reasoner read.
        prompt_tokens: Text tokens read; 0 if interrupted.
        generated_tokens: Tokens written; 0 if interrupted.
        seconds: Wall-clock time; 0 if interrupted.
    """

    query: str
    response: str
    interrupted: bool
    blocks_scored: int
    blocks_opened: int
    prompt_tokens: int
    generated_tokens: int
    seconds: float

    @classmethod
    def class_name(cls) -> str:
        """Return the event's name in traces."""
        return "RecallFinishedEvent"
