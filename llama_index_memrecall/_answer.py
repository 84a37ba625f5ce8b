"""One question's events, folded into LlamaIndex's response objects."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing
from dataclasses import asdict
from typing import Any

from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.schema import NodeWithScore
from memrecall_kv.lazy import LazyBank, LazyMemory
from memrecall_kv.streaming import in_thread
from memrecall_kv.types import Answer, Done, Event, Noted, Opened, Recall, Scored, Token, Usage, Where

from llama_index_memrecall._convert import to_source_nodes
from llama_index_memrecall.events import BlockGatedEvent, RecallFinishedEvent, WorkingMemoryUpdatedEvent, dispatcher


class Asking:
    """One question being answered.

    Args:
        memory: What answers.
        bank: What it reads.
        question: The question.
        top_k: Blocks to open, exactly; `None` leaves it to the gate.
        where: Which documents may be recalled.
    """

    def __init__(
        self, memory: LazyMemory, bank: LazyBank, question: str, *, top_k: int | None, where: Where | None
    ) -> None:
        self._memory = memory
        self._bank = bank
        self._question = question
        self._top_k = top_k
        self._where = where
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
            bank, memory = self._bank.get(), self._memory.get()
            for event in memory.stream(bank, self._question, top_k=self._top_k, where=self._where):
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
                self._text += text
                return [*self._begin(), text]
            case Done(answer):
                # Nothing found means nothing written: the answer is then what stands for that.
                pieces = [] if self._has_begun else [*self._begin(), answer.text]
                self._answer = answer
                self._text = answer.text
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
        self._source_nodes += to_source_nodes(self._recalls, self._bank.get())
        self._metadata.update({source.node_id: source.metadata for source in self._source_nodes})
        return [""]

    def _finish(self) -> None:
        usage = self._answer.usage if self._answer else Usage(blocks_opened=len(self._recalls))
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
