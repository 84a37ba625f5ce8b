"""The runs below one answer, for callbacks and tracers: recall as a retriever's, writing as a chat model's."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from memrecall_kv.types import Usage

from langchain_memrecall._telling import Telling

PROVIDER = "memrecall-kv"
"""What LangSmith is told for the provider."""


class Runs:
    """Starts and ends the runs of one answer.

    Args:
        kind: Of callback manager, sync or async.
        config: That of the children of the run that answers.
        question: What is asked.

    Attributes:
        context: The recalled chunks so far; filled by who recalls.
    """

    def __init__(
        self, kind: type[CallbackManager | AsyncCallbackManager], config: RunnableConfig, question: str
    ) -> None:
        self.context: list[Document] = []
        self._kind = kind
        self._callbacks = config.get("callbacks")
        self._question = question
        self._model_name = ""
        self._recalling: Any = None  # a run's manager, sync or async
        self._writing: Any = None
        self._written: list[str] = []

    def begin(self, model_name: str) -> Telling:
        """Start the retriever's run."""
        self._model_name = model_name
        about = {"ls_retriever_name": "memrecall", "ls_embedding_provider": PROVIDER}
        manager = self._manager({**about, "ls_embedding_model": model_name})
        self._recalling = yield manager.on_retriever_start({}, self._question, name="MemRecall")

    def end(self, error: BaseException | None) -> Telling:
        """End what is running: as failed after an error, with what there is if nobody reads on."""
        if error is None or isinstance(error, GeneratorExit | asyncio.CancelledError):
            yield from self.recalled()
            yield from self.wrote_all()
            return
        if self._recalling is not None:
            yield self._recalling.on_retriever_error(error)
        if self._writing is not None:
            yield self._writing.on_llm_error(error, response=LLMResult(generations=[]))

    def recalled(self) -> Telling:
        """End the retriever's run; a second time does nothing."""
        recalling, self._recalling = self._recalling, None
        if recalling is not None:
            yield recalling.on_retriever_end(list(self.context))

    def wrote(self, text: str) -> Telling:
        """Tell of a piece of the answer, starting the chat model's run before the first."""
        if self._writing is None:
            about = {"ls_provider": PROVIDER, "ls_model_name": self._model_name, "ls_model_type": "chat"}
            (self._writing,) = yield self._manager(about).on_chat_model_start(
                {}, [[HumanMessage(content=self._question)]], name="MemRecallReasoner"
            )
        self._written.append(text)
        piece = AIMessageChunk(content=text, id=_message_id(self._writing))
        yield self._writing.on_llm_new_token(text, chunk=ChatGenerationChunk(message=piece))

    def wrote_all(self, usage: Usage | None = None) -> Telling:
        """End the chat model's run with its tokens, notes and answer together."""
        writing, self._writing = self._writing, None
        if writing is not None:
            message = AIMessage(
                content="".join(self._written),
                id=_message_id(writing),
                response_metadata={"model_name": self._model_name},
            )
            if usage is not None:
                message.usage_metadata = to_usage_metadata(usage)
            yield writing.on_llm_end(LLMResult(generations=[[ChatGeneration(message=message)]]))

    def _manager(self, about: dict[str, Any]) -> Any:
        return self._kind.configure(inheritable_callbacks=self._callbacks, local_metadata=about)


def _message_id(run: Any) -> str:
    """Return the id of a run's message, the same for pieces and whole: by it LangGraph streams neither twice."""
    return f"lc_run--{run.run_id}"


def to_usage_metadata(usage: Usage) -> UsageMetadata:
    """Return the tokens that the reasoner read and wrote, as LangChain counts them; memory tokens count as read."""
    read = usage.prompt_tokens + usage.memory_tokens_read
    return UsageMetadata(
        input_tokens=read, output_tokens=usage.generated_tokens, total_tokens=read + usage.generated_tokens
    )
