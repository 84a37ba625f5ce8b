"""A runnable that answers out of compressed memory and streams its sources first."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator
from contextlib import aclosing, closing
from dataclasses import asdict
from typing import Any, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    CallbackManagerForChainRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.documents import Document
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.utils import AddableDict
from memrecall_kv.streaming import in_thread
from memrecall_kv.types import Done, Event, Noted, Opened, Scored, Token, Where
from pydantic import Field

from langchain_memrecall._base import OverBank
from langchain_memrecall._convert import to_host, to_question, to_where

STEP_EVENT = "memrecall_step"
"""Name of the custom event sent for each thing the recall loop does."""


class MemRecallRunnable(OverBank[str | dict[str, Any], dict[str, Any]]):
    """Answers a question with its sources.

    Takes the question as text, or as `{"input": text}` or `{"question": text}` with an optional
    `"filter"`: metadata a document must have to be recalled. Gives `input`, `context` (the recalled
    chunks as documents, in order of recall), `answer`, `usage` and `trace`. A stream gives them in this
    order, the answer piece by piece, as dicts that can be added up.

    Each step is sent as a custom event `memrecall_step`, whose `stage` is `scored`, `opened` or `noted`.

    Attributes:
        top_k: Blocks to open per question, exactly; `None` leaves it to the memory's settings.

    Example:
        ```python
        ask = MemRecallRunnable.from_documents(documents, bank="handbook.bank")
        ask.invoke("Who approves travel?")["answer"]
        ```
    """

    top_k: int | None = Field(default=None, ge=1)

    def invoke(
        self, input: str | dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return the answer and what it rests on.

        Raises:
            InputError: If the input is of another form.
        """
        return self._call_with_config(self._answer, input, config, run_type="chain", **kwargs)

    async def ainvoke(
        self, input: str | dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return what `invoke` returns, without blocking the loop; cancelling stops the work."""
        return await self._acall_with_config(self._aanswer, input, config, run_type="chain", **kwargs)

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
        yield from self._transform_stream_with_config(input, self._transform, config, run_type="chain", **kwargs)

    async def atransform(
        self, input: AsyncIterator[str | dict[str, Any]], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what `astream` yields once the input, which may come in pieces, is complete."""
        streaming = self._atransform_stream_with_config(input, self._atransform, config, run_type="chain", **kwargs)
        async with aclosing(cast("AsyncGenerator[dict[str, Any], None]", streaming)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _answer(
        self, given: str | dict[str, Any], run_manager: CallbackManagerForChainRun, config: RunnableConfig
    ) -> dict[str, Any]:
        writing = _Writing()
        chunks = _sum(self._chunks(given, config, writing))
        return {**chunks, "answer": writing.answer}

    async def _aanswer(
        self, given: str | dict[str, Any], run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig
    ) -> dict[str, Any]:
        writing = _Writing()
        async with aclosing(self._achunks(given, config, writing)) as stream:
            chunks = _sum([chunk async for chunk in stream])
        return {**chunks, "answer": writing.answer}

    def _transform(
        self,
        inputs: Iterator[str | dict[str, Any]],
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
    ) -> Iterator[dict[str, Any]]:
        yield from self._chunks(_sum(inputs), config, _Writing())

    async def _atransform(
        self,
        inputs: AsyncIterator[str | dict[str, Any]],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
    ) -> AsyncIterator[dict[str, Any]]:
        given = _sum([piece async for piece in inputs])
        async with aclosing(self._achunks(given, config, _Writing())) as chunks:
            async for chunk in chunks:
                yield chunk

    def _chunks(
        self, given: str | dict[str, Any], config: RunnableConfig, writing: _Writing
    ) -> Generator[AddableDict, None, None]:
        question, where = self._asked(given)
        yield AddableDict(input=question)
        with closing(self._events(question, where)) as events:
            for event in events:
                if step := _as_step(event):
                    dispatch_custom_event(STEP_EVENT, step, config=config)
                yield from writing.take(event)

    async def _achunks(
        self, given: str | dict[str, Any], config: RunnableConfig, writing: _Writing
    ) -> AsyncGenerator[AddableDict, None]:
        question, where = self._asked(given)
        yield AddableDict(input=question)
        async with aclosing(in_thread(lambda: self._events(question, where))) as events:
            async for event in events:
                if step := _as_step(event):
                    await adispatch_custom_event(STEP_EVENT, step, config=config)
                for chunk in writing.take(event):
                    yield chunk

    def _asked(self, given: str | dict[str, Any]) -> tuple[str, Where | None]:
        question, condition = to_question(given)
        return question, to_where(self.filter, condition)

    def _events(self, question: str, where: Where | None) -> Generator[Event, None, None]:
        # Inside the generator, so that a model is loaded in the thread that runs it.
        bank, memory = self._bank.get(), self._memory.get()
        yield from memory.stream(bank, question, top_k=self.top_k, where=where)


class _Writing:
    """The chunks of one answer, in their order: context, answer in pieces, usage and trace.

    Attributes:
        answer: The answer as the core gives it in the end.
    """

    def __init__(self) -> None:
        self.answer = ""
        self._context: list[Document] = []
        self._has_begun = False

    def take(self, event: Event) -> Iterator[AddableDict]:
        if isinstance(event, Opened):
            self._context.append(to_host(event.recall))
        elif isinstance(event, Token):
            yield from self._begin()
            yield AddableDict(answer=event.text)
        elif isinstance(event, Done):
            self.answer = event.answer.text
            if not self._has_begun:  # nothing was found, so nothing was written
                yield from self._begin()
                yield AddableDict(answer=self.answer)
            steps = [asdict(step) for step in event.answer.trace.steps]
            yield AddableDict(usage=asdict(event.answer.usage), trace=steps)

    def _begin(self) -> Iterator[AddableDict]:
        if not self._has_begun:
            self._has_begun = True
            yield AddableDict(context=self._context)


def _as_step(event: Event) -> dict[str, Any] | None:
    """Return a custom event's data; `None` for what is no step."""
    match event:
        case Scored(step):
            return {"stage": "scored", **asdict(step)}
        case Opened(recall):
            return {
                "stage": "opened",
                "chunk_id": recall.chunk.id,
                "gate_probability": recall.gate_probability,
                "step": recall.step,
            }
        case Noted(note):
            return {"stage": "noted", **asdict(note)}
        case _:
            return None


def _sum(pieces: Iterable[Any]) -> Any:
    """Add up pieces as LangChain does: one that cannot be added replaces what came before."""
    total = None
    for piece in pieces:
        try:
            total = piece if total is None else total + piece
        except TypeError:
            total = piece
    return total
