"""What this package tells LlamaIndex's dispatcher while it recalls and answers."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import CompletionResponse
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # its public place
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.llm import LLMCompletionEndEvent, LLMCompletionStartEvent
from memrecall_kv.types import Usage

dispatcher = get_dispatcher("llama_index_memrecall")
"""Where everything below, and the spans of this package's classes, is sent."""


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


class BlockOpenedEvent(BaseEvent):
    """The reasoner is about to read a block.

    Attributes:
        chunk_id: Which.
        step: 0 for the block opened first, 1 for the next, ...
    """

    chunk_id: str
    step: int

    @classmethod
    def class_name(cls) -> str:
        """Return the event's name in traces."""
        return "BlockOpenedEvent"


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


def tell_llm_call(callback_manager: CallbackManager, question: str, text: str, usage: Usage | None) -> None:
    """Tell both of LlamaIndex's channels what the local model read and wrote for one answer, notes included.

    Token counters take the numbers from it. `usage` is unknown where the answer was given up.
    """
    if not text or (usage is not None and usage.generated_tokens == 0):
        return
    raw: dict[str, Any] = {}
    if usage is not None:
        raw["usage"] = {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.generated_tokens,
            "memory_tokens": usage.memory_tokens_read,
        }
    completion = CompletionResponse(text=text, raw=raw)
    dispatcher.event(LLMCompletionStartEvent(prompt=question, additional_kwargs={}, model_dict={}))
    with callback_manager.event(CBEventType.LLM, payload={EventPayload.PROMPT: question}) as event:
        event.on_end(payload={EventPayload.PROMPT: question, EventPayload.COMPLETION: completion})
    dispatcher.event(LLMCompletionEndEvent(prompt=question, response=completion))
