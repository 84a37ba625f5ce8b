"""A chat model of the host's that writes the answer out of what was recalled."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from langchain_core.language_models import LanguageModelLike
from langchain_core.messages import BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import BasePromptTemplate, ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableConfig
from memrecall_kv.errors import InputError
from memrecall_kv.types import Recall, WorkingMemory

from langchain_memrecall._asked import Asked

PROMPT = ChatPromptTemplate.from_messages(
    [
        (
            "system",
            "Answer from the text below alone, in as few words as the question allows. "
            "If it does not hold the answer, say that you do not know.\n\n{context}",
        ),
        MessagesPlaceholder("chat_history", optional=True),
        ("human", "{input}"),
    ]
)
"""What the model is asked unless the runnable has a prompt of its own; those of LangChain's chains fit."""


class HostWriter:
    """Writes the answer to one question; called by the core, in a worker thread if a loop waits for it.

    Args:
        llm: A chat model, or a chain that begins with one.
        prompt: Takes `context`, `input` or `question`, and if wanted `chat_history` and `notes`; `None` for `PROMPT`.
        asked: The question.
        config: For the model's run.
        loop: Where the model's async stream runs; `None` for its sync one, in this thread.

    Attributes:
        usage: What the model says it read and wrote.
    """

    def __init__(
        self,
        llm: LanguageModelLike,
        prompt: BasePromptTemplate[Any] | None,
        asked: Asked,
        config: RunnableConfig,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.usage: UsageMetadata | None = None
        self._llm = llm
        self._prompt = prompt or PROMPT
        self._asked = asked
        self._config = config
        self._loop = loop
        self._writing: Future[None] | None = None
        self._is_stopped = False

    def __call__(self, question: str, memory: WorkingMemory, recalls: Sequence[Recall]) -> Iterator[str]:
        """Yield the answer piece by piece."""
        prompt = self._prompt.format_prompt(
            input=self._asked.question,
            question=self._asked.question,
            context="\n\n".join(recall.chunk.read_text for recall in recalls),
            notes=memory.text,
            chat_history=list(self._asked.chat_history),
        )
        if self._loop is not None:
            yield from self._from_loop(prompt, self._loop)
            return
        for piece in self._llm.stream(prompt, self._config):
            yield self._text(piece)

    def stop(self) -> None:
        """Stop the model if it is writing in a loop; nothing is written after that."""
        self._is_stopped = True
        if self._writing is not None:
            self._writing.cancel()

    def _from_loop(self, prompt: PromptValue, loop: asyncio.AbstractEventLoop) -> Iterator[str]:
        """Yield in this thread what the model streams in the loop, in one task from start to end."""
        texts: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        async def stream() -> None:
            async for piece in self._llm.astream(prompt, self._config):
                texts.put(self._text(piece))

        if self._is_stopped:
            return
        self._writing = asyncio.run_coroutine_threadsafe(stream(), loop)
        self._writing.add_done_callback(lambda _: texts.put(None))
        try:
            while (text := texts.get()) is not None:
                yield text
            self._writing.result()  # raises what the model raised
        finally:
            self._writing.cancel()

    def _text(self, piece: Any) -> str:
        if isinstance(piece, str):
            return piece
        if not isinstance(piece, BaseMessage):
            raise InputError(
                f"Expected the llm to write messages or text, got {type(piece).__name__}.", "Pass a chat model."
            )
        if spent := getattr(piece, "usage_metadata", None):
            self.usage = add_usage(self.usage, spent)
        return str(piece.text)
