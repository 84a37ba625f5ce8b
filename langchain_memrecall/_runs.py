"""The runs below one answer, for callbacks and tracers: recall as a retriever's, writing as a chat model's."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from langchain_core.callbacks import CallbackManager, CallbackManagerForLLMRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from memrecall_kv.types import Usage

PROVIDER = "memrecall-kv"
"""What LangSmith is told for the provider."""


class Runs:
    """Starts and ends the runs of one answer, whose end is that of the `with` block at the latest.

    Args:
        config: That of the children of the run that answers; sync and async callbacks both do.
        question: What is asked.
        model_name: Of the backbone.

    Attributes:
        context: The recalled chunks so far; filled by who recalls.
    """

    def __init__(self, config: RunnableConfig, question: str, model_name: str) -> None:
        self.context: list[Document] = []
        self._callbacks = config.get("callbacks")
        self._question = question
        self._model_name = model_name
        self._recalling: CallbackManagerForRetrieverRun | None = None
        self._writing: CallbackManagerForLLMRun | None = None
        self._written: list[str] = []

    def __enter__(self) -> Runs:
        """Start the retriever's run."""
        about = {"ls_retriever_name": "memrecall", "ls_embedding_provider": PROVIDER}
        manager = self._manager({**about, "ls_embedding_model": self._model_name})
        self._recalling = manager.on_retriever_start({}, self._question, name="MemRecall")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what is running: as failed after an error, with what there is if nobody reads on."""
        if error is None or isinstance(error, GeneratorExit):
            self.recalled()
            self.wrote_all()
            return
        if self._recalling is not None:
            self._recalling.on_retriever_error(error)
        if self._writing is not None:
            self._writing.on_llm_error(error, response=LLMResult(generations=[]))

    def recalled(self) -> None:
        """End the retriever's run; a second time does nothing."""
        if self._recalling is not None:
            self._recalling.on_retriever_end(list(self.context))
            self._recalling = None

    def wrote(self, text: str) -> None:
        """Tell of a piece of the answer, starting the chat model's run before the first."""
        if self._writing is None:
            about = {"ls_provider": PROVIDER, "ls_model_name": self._model_name, "ls_model_type": "chat"}
            (self._writing,) = self._manager(about).on_chat_model_start(
                {}, [[HumanMessage(content=self._question)]], name="MemRecallReasoner"
            )
        self._written.append(text)
        piece = AIMessageChunk(content=text, id=_message_id(self._writing))
        self._writing.on_llm_new_token(text, chunk=ChatGenerationChunk(message=piece))

    def wrote_all(self, usage: Usage | None = None) -> None:
        """End the chat model's run with its tokens, notes and answer together."""
        if self._writing is not None:
            message = AIMessage(
                content="".join(self._written),
                id=_message_id(self._writing),
                response_metadata={"model_name": self._model_name},
            )
            if usage is not None:
                message.usage_metadata = to_usage_metadata(usage)
            self._writing.on_llm_end(LLMResult(generations=[[ChatGeneration(message=message)]]))
            self._writing = None

    def _manager(self, about: dict[str, Any]) -> CallbackManager:
        return CallbackManager.configure(inheritable_callbacks=self._callbacks, local_metadata=about)


def _message_id(run: CallbackManagerForLLMRun) -> str:
    """Return the id of a run's message, the same for pieces and whole: by it LangGraph streams neither twice."""
    return f"lc_run--{run.run_id}"


def to_usage_metadata(usage: Usage) -> UsageMetadata:
    """Return the tokens that the reasoner read and wrote, as LangChain counts them; memory tokens count as read."""
    read = usage.prompt_tokens + usage.memory_tokens_read
    return UsageMetadata(
        input_tokens=read, output_tokens=usage.generated_tokens, total_tokens=read + usage.generated_tokens
    )
