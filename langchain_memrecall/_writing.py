"""One answer's chunks, in their order: context, answer in pieces, usage and trace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from langchain_core.documents import Document
from langchain_core.runnables.utils import AddableDict
from memrecall_kv.types import Done, Event, Opened, Token

from langchain_memrecall._convert import to_host
from langchain_memrecall._host_writer import HostWriter
from langchain_memrecall._runs import Runs


class Writing:
    """Turns the core's events into chunks, and tells the runs of them.

    Args:
        runs: Of this answer.
        sources: The host's documents by the core's ids, if they came with the question.
        writer: The host's model, if it writes the answer.
    """

    def __init__(self, runs: Runs, sources: Mapping[str, Document], writer: HostWriter | None) -> None:
        self._runs = runs
        self._sources = sources
        self._writer = writer
        self._has_begun = False

    def take(self, event: Event) -> Iterator[AddableDict]:
        """Yield the chunks that an event makes: none for most."""
        match event:
            case Opened(recall):
                self._runs.context.append(to_host(recall, self._sources.get(recall.chunk.doc_id)))
            case Token(text):
                yield from self._begin()
                if self._writer is None:
                    self._runs.wrote(text)
                yield AddableDict(answer=text)
            case Done(answer):
                self._runs.wrote_all(answer.usage)
                usage = asdict(answer.usage)
                if self._writer is not None:
                    usage["llm"] = self._writer.usage
                yield AddableDict(usage=usage, trace=[asdict(step) for step in answer.trace.steps])

    def _begin(self) -> Iterator[AddableDict]:
        if not self._has_begun:
            self._has_begun = True
            self._runs.recalled()
            yield AddableDict(context=self._runs.context)


def added_up(pieces: Iterable[Any]) -> Any:
    """Add up pieces as LangChain does: one that cannot be added replaces what came before."""
    total = None
    for piece in pieces:
        try:
            total = piece if total is None else total + piece
        except TypeError:
            total = piece
    return total
