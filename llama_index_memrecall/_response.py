"""LlamaIndex's response objects, with what recall adds to them: cost, decisions, and an end of their own."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from llama_index.core.base.response.schema import (
    RESPONSE_TYPE,
    AsyncStreamingResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.schema import NodeWithScore, QueryBundle
from memrecall_kv.recall.quotes import quotes_of
from memrecall_kv.types import Usage

from llama_index_memrecall._walk import Found
from llama_index_memrecall.events import RecallFinishedEvent, dispatcher


class ResponseMetadata(dict[str, Any]):
    """Each source node's metadata under its id, as LlamaIndex has it, and apart from them what the answer cost.

    `metadata["usage"]`, `metadata["trace"]` and `metadata["quotes"]` are known once the answer is complete. They are no
    keys: whoever goes through keys, values or items meets nodes alone.
    """

    def __init__(self, nodes: dict[str, Any]) -> None:
        super().__init__(nodes)
        self.recall: dict[str, Any] = {}

    def __missing__(self, key: str) -> Any:
        return self.recall[key]

    def get(self, key: str, default: Any = None) -> Any:
        """Return what `metadata[key]` does, or the default."""
        return super().get(key, self.recall.get(key, default))


class Ending:
    """Completes the response to one question, whichever way it comes.

    Args:
        query: The question.
        kept: What the retriever, or the reasoner after it, has found; filled by them.
    """

    def __init__(self, query: QueryBundle, kept: list[Found]) -> None:
        self._question = query.query_str
        self._kept = kept
        self._metadata = ResponseMetadata({})
        # events of a stream are told after the span that started it has ended
        self._context = contextvars.copy_context()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.tell("", is_complete=False)

    def complete(self, response: RESPONSE_TYPE) -> RESPONSE_TYPE:
        """Return the response with its metadata; if it is a stream, its end tells what the end of an answer tells."""
        self._metadata = ResponseMetadata(response.metadata or {})
        response.metadata = self._metadata
        if isinstance(response, StreamingResponse):
            pieces = self._pieces(response.response_gen)
            next(pieces)
            response.response_gen = pieces
        elif isinstance(response, AsyncStreamingResponse):
            raise TypeError("an async stream is completed by acomplete")
        else:
            self.tell(str(response), is_complete=True)
        return response

    async def acomplete(self, response: RESPONSE_TYPE) -> RESPONSE_TYPE:
        """Return what `complete` does, an async stream too."""
        if not isinstance(response, AsyncStreamingResponse):
            return self.complete(response)
        self._metadata = ResponseMetadata(response.metadata or {})
        response.metadata = self._metadata
        pieces = self._apieces(response.response_gen)
        await anext(pieces)
        response.response_gen = pieces
        return response

    def tell(self, text: str, *, is_complete: bool) -> None:
        """Tell the dispatcher that the answer is complete, or was given up."""
        self._context.copy().run(self._tell, text, is_complete)

    def _pieces(self, written: Generator[str, None, None]) -> Generator[str, None, None]:
        """Yield an empty piece, and what is written: a generator that was started ends even if nobody reads on."""
        text, is_complete = "", False
        try:
            with closing(written):
                yield ""
                for piece in written:
                    text += piece
                    yield piece
            is_complete = True
        finally:
            self.tell(text, is_complete=is_complete)

    async def _apieces(self, written: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        text, is_complete = "", False
        try:
            async with aclosing(written):
                yield ""
                async for piece in written:
                    text += piece
                    yield piece
            is_complete = True
        finally:
            self.tell(text, is_complete=is_complete)

    def _tell(self, text: str, is_complete: bool) -> None:
        usage = Usage(blocks_opened=sum(len(found.walk.recalls) for found in self._kept))
        if is_complete and self._kept:
            cost = self._kept[-1].cost()
            usage = cost.usage
            # another model's text is quoted here, the reasoner's was
            own = cost.text == text
            quotes = cost.quotes if own else quotes_of(text, self._question, self._kept[-1].walk.recalls)
            self._metadata.recall.update(
                usage=asdict(usage),
                trace=[asdict(step) for step in cost.trace.steps],
                quotes=[asdict(quote) for quote in quotes],
            )
        dispatcher.event(
            RecallFinishedEvent(
                query=self._question,
                response=text,
                interrupted=not is_complete,
                blocks_scored=usage.blocks_scored,
                blocks_opened=usage.blocks_opened,
                prompt_tokens=usage.prompt_tokens,
                generated_tokens=usage.generated_tokens,
                seconds=usage.seconds,
            )
        )


def whole(text: str, sources: Sequence[NodeWithScore], *, streaming: bool, for_loop: bool = False) -> RESPONSE_TYPE:
    """Return a response that consists of one text, in the form in which an answer would come."""
    nodes, metadata = list(sources), {source.node_id: source.metadata for source in sources}
    if not streaming:
        return Response(text, nodes, metadata)
    if for_loop:
        return AsyncStreamingResponse(_aonce(text), nodes, metadata)
    return StreamingResponse(_once(text), nodes, metadata)


def _once(text: str) -> Generator[str, None, None]:
    yield text


async def _aonce(text: str) -> AsyncGenerator[str, None]:
    yield text
