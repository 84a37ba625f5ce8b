"""The reasoner's answer told as a call of an LLM, so that token counters and exporters of LlamaIndex see it."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMChatStartEvent
from memrecall_kv.types import Usage

from llama_index_memrecall.events import dispatcher


class Telling:
    """One answer being written by the memory's own reasoner.

    Args:
        question: The question.
        callback_manager: Who is told besides the dispatcher.
    """

    def __init__(self, question: str, callback_manager: CallbackManager) -> None:
        self._messages = [ChatMessage(role=MessageRole.USER, content=question)]
        self._callbacks = callback_manager
        self._event_id: str | None = None

    def begin(self) -> None:
        """Tell that the answer begins."""
        payload: dict[str, Any] = {EventPayload.MESSAGES: self._messages}
        self._event_id = self._callbacks.on_event_start(CBEventType.LLM, payload=payload)
        dispatcher.event(LLMChatStartEvent(messages=self._messages, additional_kwargs={}, model_dict={}))

    def end(self, text: str, usage: Usage) -> None:
        """Tell that it has ended, if it began."""
        if self._event_id is None:
            return
        tokens = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.generated_tokens}
        message = ChatMessage(role=MessageRole.ASSISTANT, content=text)
        response = ChatResponse(message=message, raw={"usage": tokens})
        payload: dict[str, Any] = {EventPayload.MESSAGES: self._messages, EventPayload.RESPONSE: response}
        self._callbacks.on_event_end(CBEventType.LLM, payload=payload, event_id=self._event_id)
        dispatcher.event(LLMChatEndEvent(messages=self._messages, response=response))
        self._event_id = None
