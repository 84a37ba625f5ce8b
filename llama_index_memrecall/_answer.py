"""One question's events, folded into LlamaIndex's response objects."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any

from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.callbacks import CallbackManager
from llama_index.core.response_synthesizers import BaseSynthesizer, ResponseMode
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from memrecall_kv.hosts.lazy import LazyMemory
from memrecall_kv.hosts.streaming import in_thread
from memrecall_kv.types import Answer, Done, Event, Token, Usage

from llama_index_memrecall._host_llm import apieces, notes_node, pieces
from llama_index_memrecall._scope import Scope
from llama_index_memrecall._walk import Findings
from llama_index_memrecall.events import RecallFinishedEvent, dispatcher, tell_llm_call

if TYPE_CHECKING:  # the pipeline imports torch
    from memrecall_kv.pipeline import MemRecall


class Asking:
    """One question being answered.

    Args:
        memory: What recalls.
        scope: Returns what may be recalled; called once, in the thread that does the work.
        query: The question.
        top_k: Blocks to open, exactly; `None` leaves it to the gate.
        mode: What the answer is made of.
        synthesizer: The host's LLM behind the host's prompts; `None` for the memory's own reasoner.
        callback_manager: Is told of the local model's work.
        additional: Sources to add to those that are recalled.
    """

    def __init__(
        self,
        memory: LazyMemory,
        scope: Callable[[], Scope],
        query: QueryBundle,
        *,
        top_k: int | None,
        mode: ResponseMode,
        synthesizer: BaseSynthesizer | None,
        callback_manager: CallbackManager,
        additional: Sequence[NodeWithScore] = (),
    ) -> None:
        self._memory = memory
        self._prepare = scope
        self._query = query
        self._question = query.query_str
        self._top_k = top_k
        self._mode = mode
        self._synthesizer = synthesizer
        self._callback_manager = callback_manager
        self._additional = additional
        # events of a stream are told after the span that started it has ended
        self._context = contextvars.copy_context()
        self._scope: Scope | None = None
        self._findings = Findings()
        self._text = ""
        self._has_begun = self._is_complete = self._is_hosts_turn = False
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
        try:
            with closing(self._steps()) as steps:
                for texts in steps:
                    yield from texts
            if self._synthesizer is not None and self._is_hosts_turn:
                yield from self._begin()
                with closing(pieces(self._synthesizer, self._query, self._evidence())) as written:
                    for piece in written:
                        self._text += piece
                        yield piece
                self._complete()
        finally:
            self._finish()

    async def _atexts(self) -> AsyncGenerator[str, None]:
        try:
            async with aclosing(in_thread(self._steps)) as steps:
                async for texts in steps:
                    for text in texts:
                        yield text
            if self._synthesizer is not None and self._is_hosts_turn:
                for text in self._begin():
                    yield text
                async with aclosing(apieces(self._synthesizer, self._query, self._evidence())) as written:
                    async for piece in written:
                        self._text += piece
                        yield piece
                self._complete()
        finally:
            self._finish()

    def _steps(self) -> Generator[Sequence[str], None, None]:
        """Yield, for each of the core's events, the pieces of text it adds; most add none."""
        # Inside the generator, so that a model is loaded in the thread that runs it.
        scope, memory = self._prepare(), self._memory.get()
        self._scope = scope
        if self._synthesizer is None and self._mode in (ResponseMode.COMPACT, ResponseMode.REFINE):
            try:
                for event in memory.stream(scope.bank, self._question, top_k=self._top_k, where=scope.where):
                    yield self._take(event)
            finally:
                tell_llm_call(self._callback_manager, self._question, self._text, self._findings.usage)
            return
        for _ in self._findings.walk(memory, scope.bank, scope.where, self._question, self._top_k):
            yield ()
        yield self._conclude(memory)

    def _take(self, event: Event) -> Sequence[str]:
        self._findings.take(event)
        match event:
            case Token(text):
                self._text += text
                return [*self._begin(), text]
            case Done(answer):
                return self._done(answer)
        return ()

    def _done(self, answer: Answer) -> Sequence[str]:
        # Nothing found means nothing written: the answer is then what stands for that.
        texts = [] if self._has_begun else [*self._begin(), answer.text]
        self._text = answer.text
        self._complete()
        return texts

    def _conclude(self, memory: MemRecall) -> Sequence[str]:
        """Return what an answer consists of that needs no reasoner; nothing if it is the host's turn to write it."""
        texts = self._begin()
        recalled = self._source_nodes[: len(self._source_nodes) - len(self._additional)]
        if self._mode == ResponseMode.NO_TEXT:
            self._text = ""
        elif self._mode == ResponseMode.CONTEXT_ONLY and recalled:
            self._text = "\n\n".join(node.get_content(MetadataMode.LLM) for node in recalled)
        elif self._mode != ResponseMode.CONTEXT_ONLY and self._findings.found:
            self._is_hosts_turn = True
            return texts
        else:
            self._text = memory.config.reasoner.not_found
        self._complete()
        return [*texts, self._text]

    def _begin(self) -> list[str]:
        """Make the sources known before the first piece of text.

        They are filled into the objects that a streaming response has been given already. The empty piece
        is for `stream`: a generator that was started runs its `finally` even if nobody reads on.
        """
        if self._has_begun or self._scope is None:
            return []
        self._has_begun = True
        self._source_nodes += [*self._scope.sources(self._findings.recalls), *self._additional]
        self._metadata.update({source.node_id: source.metadata for source in self._source_nodes})
        return [""]

    def _evidence(self) -> list[NodeWithScore]:
        """Return what the host's LLM reads: the notes, if there are any, and the recalled nodes' text."""
        return [*notes_node(self._findings.notes), *self._source_nodes]

    def _complete(self) -> None:
        self._is_complete = True
        self._metadata.update(self._findings.metadata())

    def _finish(self) -> None:
        self._context.copy().run(self._tell_end)

    def _tell_end(self) -> None:
        usage = self._findings.usage if self._findings.usage and self._is_complete else None
        usage = usage or Usage(blocks_opened=len(self._findings.recalls))
        dispatcher.event(
            RecallFinishedEvent(
                query=self._question,
                response=self._text,
                interrupted=not self._is_complete,
                blocks_scored=usage.blocks_scored,
                blocks_opened=usage.blocks_opened,
                prompt_tokens=usage.prompt_tokens,
                generated_tokens=usage.generated_tokens,
                seconds=usage.seconds,
            )
        )
