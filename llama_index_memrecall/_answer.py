"""One question's events, folded into LlamaIndex's response objects."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.callbacks import CallbackManager
from llama_index.core.response_synthesizers.type import ResponseMode
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore
from memrecall_kv.streaming import in_thread
from memrecall_kv.types import Answer, Done, Event, Noted, Opened, Recall, Scored, Token, Usage, Writer

from llama_index_memrecall._convert import to_source_nodes
from llama_index_memrecall._source import Source
from llama_index_memrecall._telling import Telling
from llama_index_memrecall.events import BlockGatedEvent, RecallFinishedEvent, WorkingMemoryUpdatedEvent, dispatcher

if TYPE_CHECKING:  # the bank imports torch
    from memrecall_kv import MemoryBank

_WITHOUT_ANSWER = (ResponseMode.NO_TEXT, ResponseMode.CONTEXT_ONLY)


class Asking:
    """One question being answered.

    Args:
        source: What may be recalled.
        question: The question.
        mode: How the answer comes about; see `MemRecallQueryEngine`.
        proposed: Nodes to recall among, instead of the source's bank.
        write: What writes the answer; `None` for the memory's own reasoner.
        callback_manager: For LlamaIndex's callbacks.
    """

    def __init__(
        self,
        source: Source,
        question: str,
        *,
        mode: ResponseMode = ResponseMode.COMPACT,
        proposed: Sequence[BaseNode] | None = None,
        write: Writer | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        self._source = source
        self._question = question
        self._mode = mode
        self._proposed = proposed
        self._write = write
        self._telling = Telling(question, callback_manager or CallbackManager())
        self._bank: MemoryBank | None = None
        self._recalls: list[Recall] = []
        self._text = ""
        self._has_begun = False
        self._answer: Answer | None = None
        self._source_nodes: list[NodeWithScore] = []
        self._metadata: dict[str, Any] = {}

    def respond(self) -> Response:
        """Return the whole answer."""
        with closing(self._texts()) as texts:
            for _ in texts:
                pass
        return self._response()

    async def arespond(self) -> Response:
        """Return the whole answer without blocking the loop; cancelling stops the work."""
        async with aclosing(self._atexts()) as texts:
            async for _ in texts:
                pass
        return self._response()

    def stream(self) -> StreamingResponse:
        """Return at the first token, when the sources are known; usage and trace come with the last."""
        texts = self._texts()
        next(texts)
        return StreamingResponse(texts, self._source_nodes, self._metadata)

    async def astream(self) -> AsyncStreamingResponse:
        """Return what `stream` does, for an event loop."""
        texts = self._atexts()
        await anext(texts)
        return AsyncStreamingResponse(texts, self._source_nodes, self._metadata)

    def _response(self) -> Response:
        return Response(self._text, self._source_nodes, self._metadata)

    def _texts(self) -> Generator[str, None, None]:
        with closing(self._steps()) as steps:
            for pieces in steps:
                yield from pieces

    async def _atexts(self) -> AsyncGenerator[str, None]:
        async with aclosing(in_thread(self._steps)) as steps:
            async for pieces in steps:
                for piece in pieces:
                    yield piece

    def _steps(self) -> Generator[Sequence[str], None, None]:
        """Yield, for each of the core's events, the pieces of text it adds; most add none."""
        try:
            # Inside the generator, so that a model is loaded in the thread that runs it.
            memory, self._bank, where = self._source.open(self._proposed)
            if self._mode in _WITHOUT_ANSWER:
                events = memory.walk(self._bank, self._question, top_k=self._source.top_k, where=where)
            else:
                events = memory.stream(
                    self._bank, self._question, top_k=self._source.top_k, where=where, write=self._write
                )
            with closing(events):
                for event in events:
                    yield self._take(event)
        finally:
            self._finish()

    def _take(self, event: Event) -> Sequence[str]:
        match event:
            case Scored(step):
                dispatcher.event(
                    BlockGatedEvent(
                        chunk_id=step.chunk_id,
                        gate_probability=step.gate_probability,
                        opened=step.opened,
                        round=step.round,
                    )
                )
            case Opened(recall):
                self._recalls.append(recall)
            case Noted(note):
                dispatcher.event(WorkingMemoryUpdatedEvent(text=note.text, chunk_id=note.chunk_id))
            case Token(text):
                if not self._has_begun and self._write is None:
                    self._telling.begin()
                self._text += text
                return [*self._begin(), text]
            case Done(answer):
                begun = self._begin()
                text = self._joined() if self._mode == ResponseMode.CONTEXT_ONLY else answer.text
                # Nothing found means nothing written: the answer is then what stands for that.
                pieces = [*begun, text] if begun else []
                self._answer = answer
                self._text = text
                self._metadata["usage"] = asdict(answer.usage)
                self._metadata["trace"] = [asdict(step) for step in answer.trace.steps]
                return pieces
        return ()

    def _begin(self) -> list[str]:
        """Make the sources known before the first piece of text.

        They are filled into the objects that a streaming response has been given already. The empty piece
        is for `stream`: a generator that was started runs its `finally` even if nobody reads on.
        """
        if self._has_begun:
            return []
        self._has_begun = True
        if self._bank is not None:
            self._source_nodes += to_source_nodes(self._recalls, self._bank)
        self._metadata.update({source.node_id: source.metadata for source in self._source_nodes})
        return [""]

    def _joined(self) -> str:
        return "\n\n".join(source.get_content(metadata_mode=MetadataMode.LLM) for source in self._source_nodes)

    def _finish(self) -> None:
        usage = self._answer.usage if self._answer else Usage(blocks_opened=len(self._recalls))
        self._telling.end(self._text, usage)
        dispatcher.event(
            RecallFinishedEvent(
                query=self._question,
                response=self._text,
                interrupted=self._answer is None,
                blocks_scored=usage.blocks_scored,
                blocks_opened=usage.blocks_opened,
                prompt_tokens=usage.prompt_tokens,
                generated_tokens=usage.generated_tokens,
                seconds=usage.seconds,
            )
        )
