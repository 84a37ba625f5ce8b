"""A runnable that answers out of compressed memory and streams its sources first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping
from contextlib import aclosing, closing
from typing import Any, ClassVar, cast

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForChainRun,
    CallbackManager,
    CallbackManagerForChainRun,
)
from langchain_core.documents import Document
from langchain_core.prompts import BasePromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.utils import AddableDict
from langchain_core.tools import BaseTool
from memrecall_kv.errors import InputError
from memrecall_kv.hosts.arguments import Count
from memrecall_kv.hosts.documents import TextCache
from memrecall_kv.hosts.streaming import in_thread
from memrecall_kv.types import Event
from pydantic import BaseModel, PrivateAttr, field_validator

from langchain_memrecall._asked import Asked, MemRecallInput, MemRecallOutput, to_asked
from langchain_memrecall._base import OverBank, check_config
from langchain_memrecall._convert import to_entry
from langchain_memrecall._filters import to_where
from langchain_memrecall._host_writer import HostWriter
from langchain_memrecall._telling import atold, told
from langchain_memrecall._writing import Writing, added_up


class MemRecallRunnable(OverBank[str | dict[str, Any], dict[str, Any]]):
    """Answers a question with its sources.

    Takes the question as text, or as `{"input": text}` or `{"question": text}` with optional `"filter"`
    (metadata a document must have to be recalled), `"documents"` (answer from these instead of the bank) and
    `"chat_history"` (earlier messages, for a follow-up question). Gives `input`, `context` (the recalled
    chunks as documents, in order of recall), `answer`, `usage` and `trace`. A stream gives them in this
    order, the answer piece by piece, as dicts that can be added up. Behind a prompt or a model in a chain, the
    last message is the question, and those before it are the history.

    Each step is sent as a custom event `memrecall_step`, whose `stage` is `scored`, `opened`, `noted` or
    `finished`. Recalling is a retriever's run below this one, and writing a chat model's.

    Attributes:
        bank: As in every class here; without one, each question must bring its documents.
        top_k: Blocks to open per question, exactly; `None` leaves it to the memory's settings.
        llm: A chat model that writes the answer instead of the memory's own reasoner, if anything was found.
        prompt: What it is asked, out of `context`, `input` or `question`, and if wanted `chat_history` and `notes`.

    Example:
        ```python
        ask = MemRecallRunnable.from_documents(documents, bank="handbook.bank")
        ask.invoke("Who approves travel?")["answer"]
        ```
    """

    _needs_bank: ClassVar[bool] = False

    bank: Any = None
    top_k: Count | None = None
    llm: Any = None
    prompt: Any = None

    _cache: TextCache = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Prepare the model, the bank and the cache, loading none."""
        super().model_post_init(context)
        self._cache = TextCache(None, self._memory)

    @field_validator("llm")
    @classmethod
    def _llm_can_write(cls, llm: Any) -> Any:
        if llm is not None and not isinstance(llm, Runnable):
            raise InputError(f"Expected a chat model, got {type(llm).__name__}.", "Pass the model, not its name.")
        return llm

    @field_validator("prompt")
    @classmethod
    def _prompt_is_a_template(cls, prompt: Any) -> Any:
        if prompt is not None and not isinstance(prompt, BasePromptTemplate):
            raise InputError(
                f"Expected a prompt template, got {type(prompt).__name__}.", "Use ChatPromptTemplate.from_messages."
            )
        return prompt

    @property
    def InputType(self) -> Any:  # noqa: N802 - LangChain's name
        """Return the input's type, for schemas."""
        return str | MemRecallInput

    @property
    def OutputType(self) -> Any:  # noqa: N802 - LangChain's name
        """Return the output's type, for schemas."""
        return MemRecallOutput

    def as_tool(
        self,
        args_schema: type[BaseModel] | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        arg_types: dict[str, type] | None = None,
    ) -> BaseTool:
        """Return a tool; unless its arguments are named, the one of `create_memrecall_tool`, asked a `question`."""
        if args_schema is not None or arg_types is not None:
            return super().as_tool(args_schema, name=name, description=description, arg_types=arg_types)
        from langchain_memrecall.tool import create_memrecall_tool  # which imports this module

        named = {"name": name, "description": description}
        return create_memrecall_tool(self, **{key: text for key, text in named.items() if text is not None})

    def close(self) -> None:
        """Close the bank if this object opened it, and forget the documents that came with questions."""
        super().close()
        self._cache.close()

    def invoke(
        self, input: str | dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return the answer and what it rests on.

        Raises:
            InputError: If the input is of another form.
            TypeError: If there are other arguments.
        """
        return self._call_with_config(self._answer, input, _checked(config, kwargs), run_type="chain")

    async def ainvoke(
        self, input: str | dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return what `invoke` returns, without blocking the loop; cancelling stops the work."""
        return await self._acall_with_config(self._aanswer, input, _checked(config, kwargs), run_type="chain")

    def stream(
        self, input: str | dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[dict[str, Any]]:
        """Yield the sources, then the answer as it is written, then usage and trace."""
        yield from self.transform(iter([input]), config, **kwargs)

    async def astream(
        self, input: str | dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what `stream` yields, without blocking the loop; leaving early stops the work."""

        async def inputs() -> AsyncGenerator[str | dict[str, Any], None]:
            yield input

        async with aclosing(self.atransform(inputs(), config, **kwargs)) as chunks:
            async for chunk in chunks:
                yield chunk

    def transform(
        self, input: Iterator[str | dict[str, Any]], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[dict[str, Any]]:
        """Yield what `stream` yields once the input, which may come in pieces, is complete."""
        config = _checked(config, kwargs)
        yield from self._transform_stream_with_config(input, self._transform, config, run_type="chain")

    async def atransform(
        self, input: AsyncIterator[str | dict[str, Any]], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what `astream` yields once the input, which may come in pieces, is complete."""
        config = _checked(config, kwargs)
        streaming = self._atransform_stream_with_config(input, self._atransform, config, run_type="chain")
        async with aclosing(cast("AsyncGenerator[dict[str, Any], None]", streaming)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _answer(
        self, given: str | dict[str, Any], run_manager: CallbackManagerForChainRun, config: RunnableConfig
    ) -> dict[str, Any]:
        return dict(added_up(self._chunks(given, config)))

    async def _aanswer(
        self, given: str | dict[str, Any], run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig
    ) -> dict[str, Any]:
        async with aclosing(self._achunks(given, config)) as chunks:
            return dict(added_up([chunk async for chunk in chunks]))

    def _transform(
        self,
        inputs: Iterator[str | dict[str, Any]],
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
    ) -> Iterator[dict[str, Any]]:
        yield from self._chunks(added_up(inputs), config)

    async def _atransform(
        self,
        inputs: AsyncIterator[str | dict[str, Any]],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
    ) -> AsyncIterator[dict[str, Any]]:
        given = added_up([piece async for piece in inputs])
        async with aclosing(self._achunks(given, config)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _chunks(self, given: str | dict[str, Any], config: RunnableConfig) -> Generator[AddableDict, None, None]:
        asked = self._asked(given)
        sources, writer = self._sources(asked), self._writer(asked, config, None)
        items = self._items(asked, sources, writer)
        with Writing(CallbackManager, config, asked, sources, writer) as writing, closing(items):
            for item in items:
                told(writing.take(item))
                yield from writing.ready()

    async def _achunks(self, given: str | dict[str, Any], config: RunnableConfig) -> AsyncGenerator[AddableDict, None]:
        asked = self._asked(given)
        sources, writer = self._sources(asked), self._writer(asked, config, asyncio.get_running_loop())

        def stream() -> Generator[str | Event | None, None, None]:
            yield from self._items(asked, sources, writer)

        items: AsyncGenerator[str | Event, None] = in_thread(stream)
        try:
            async with Writing(AsyncCallbackManager, config, asked, sources, writer) as writing, aclosing(items):
                async for item in items:
                    await atold(writing.take(item))
                    for chunk in writing.ready():
                        yield chunk
        finally:
            if writer is not None:
                writer.stop()

    def _asked(self, given: str | dict[str, Any]) -> Asked:
        asked = to_asked(given)
        to_where(self.filter, asked.condition)  # refused before anything is loaded or sent
        if self.bank is None and asked.documents is None:
            raise InputError(
                "Expected 'documents' in the input, as there is no bank, got none.", "Pass them, or make it with bank=."
            )
        return asked

    def _writer(
        self, asked: Asked, config: RunnableConfig, loop: asyncio.AbstractEventLoop | None
    ) -> HostWriter | None:
        return None if self.llm is None else HostWriter(self.llm, self.prompt, asked, config, loop)

    def _sources(self, asked: Asked) -> dict[str, Document]:
        """Return the documents that came with a question and may be recalled, by their ids in the cache."""
        where = to_where(self.filter, asked.condition)
        sources: dict[str, Document] = {}
        for document in asked.documents or ():
            if document.page_content.strip() and (where is None or where("", document.metadata)):
                sources.setdefault(to_entry(document, self.metadata_keys).id, document)
        return sources

    def _items(
        self, asked: Asked, sources: Mapping[str, Document], writer: HostWriter | None
    ) -> Generator[str | Event, None, None]:
        """Yield the backbone's name, then the events of one answer."""
        memory = self._memory.get()
        yield memory.backbone.name
        if asked.documents is None:
            bank, where = self._bank.get(), to_where(self.filter, asked.condition)
        else:
            bank, where = self._cache.keep(to_entry(source, self.metadata_keys) for source in sources.values())
        yield from memory.stream(bank, asked.in_full, top_k=self.top_k, where=where, write=writer)


def _checked(config: RunnableConfig | None, arguments: Mapping[str, Any]) -> RunnableConfig | None:
    """Return the config of a call, which has no other arguments.

    Raises:
        TypeError: If it has, as of any function.
        InputError: If the config holds one of ours.
    """
    if arguments:
        raise TypeError(
            f"Expected an input and a config, got {', '.join(map(repr, sorted(arguments)))} besides. "
            'What narrows a question stands in the input: {"input": ..., "filter": ...}.'
        )
    return check_config(config)
