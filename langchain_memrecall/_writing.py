"""One answer's chunks, in their order: context, answer in pieces, usage and trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.documents import Document
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.utils import AddableDict
from memrecall_kv.types import Done, Event, Opened, Token

from langchain_memrecall._asked import Asked
from langchain_memrecall._convert import to_host
from langchain_memrecall._host_writer import HostWriter
from langchain_memrecall._runs import Runs
from langchain_memrecall._steps import Steps
from langchain_memrecall._telling import Telling, atold, told


class Writing:
    """Turns the core's events into chunks, and tells the callbacks; all runs end with the `with` block at the latest.

    The first chunk comes with the answer's first token: what fails before it has left nothing behind, and LangChain
    can fall back on something else.

    Args:
        kind: Of callback manager: sync or async, as the `with`.
        config: That of the run's children.
        asked: The question.
        sources: The host's documents by the core's ids, if they came with the question.
        writer: The host's model, if it writes the answer.
    """

    def __init__(
        self,
        kind: type[CallbackManager | AsyncCallbackManager],
        config: RunnableConfig,
        asked: Asked,
        sources: Mapping[str, Document],
        writer: HostWriter | None,
    ) -> None:
        self._runs = Runs(kind, config, asked.question)
        self._steps = Steps(kind, config)
        self._question = asked.question
        self._sources = sources
        self._writer = writer
        self._has_begun = False
        self._ready: list[AddableDict] = []

    def __enter__(self) -> Writing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        told(self._runs.end(error))

    async def __aenter__(self) -> Writing:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await atold(self._runs.end(error))

    def ready(self) -> list[AddableDict]:
        """Return the chunks that are made since it was asked last."""
        ready, self._ready = self._ready, []
        return ready

    def take(self, item: str | Event) -> Telling:
        """Take the name of the backbone, which comes first, or an event."""
        if isinstance(item, str):
            yield from self._runs.begin(item)
            return
        yield from self._steps.tell(item)
        match item:
            case Opened(recall):
                self._runs.context.append(to_host(recall, self._sources.get(recall.chunk.doc_id)))
            case Token(text):
                yield from self._begin()
                if self._writer is None:
                    yield from self._runs.wrote(text)
                self._ready.append(AddableDict(answer=text))
            case Done(answer):
                yield from self._runs.wrote_all(answer.usage)
                usage = asdict(answer.usage)
                if self._writer is not None:
                    usage["llm"] = self._writer.usage
                trace = [asdict(step) for step in answer.trace.steps]
                quotes = [asdict(quote) for quote in answer.quotes]
                self._ready.append(AddableDict(usage=usage, trace=trace, quotes=quotes))

    def _begin(self) -> Telling:
        if not self._has_begun:
            self._has_begun = True
            yield from self._runs.recalled()
            self._ready += [AddableDict(input=self._question), AddableDict(context=self._runs.context)]


def added_up(pieces: Iterable[Any]) -> Any:
    """Add up pieces as LangChain does: one that cannot be added replaces what came before."""
    total = None
    for piece in pieces:
        try:
            total = piece if total is None else total + piece
        except TypeError:
            total = piece
    return total
