"""The memory's own reasoner as one of LlamaIndex's synthesizers: it reads memory blocks, not texts."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import MockLLM
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.types import RESPONSE_TEXT_TYPE
from memrecall_kv.hosts.documents import TextCache
from memrecall_kv.hosts.lazy import LazyMemory
from memrecall_kv.hosts.streaming import in_thread
from memrecall_kv.types import Done, Token

from llama_index_memrecall._candidates import Candidates
from llama_index_memrecall._walk import Found, tell
from llama_index_memrecall.events import tell_llm_call


class ReasonerSynthesizer(BaseSynthesizer):
    """Goes on where a question's walk has ended, or walks texts it is given, and answers from the blocks it opened.

    Args:
        memory: Whose reasoner.
        top_k: Texts to read of those it is given, exactly; `None` leaves it to the memory's settings.
        streaming: Whether answers come piece by piece.
        callback_manager: Is told of the local model's work.
    """

    def __init__(
        self, memory: LazyMemory, *, top_k: int | None, streaming: bool, callback_manager: CallbackManager
    ) -> None:
        # LlamaIndex wants an LLM of every synthesizer; this one asks none, and must not load one
        super().__init__(llm=MockLLM(), callback_manager=callback_manager, streaming=streaming)
        self._memory = memory
        self._top_k = top_k
        self._given = TextCache(None, memory)

    def close(self) -> None:
        """Remove what was compressed of given texts."""
        self._given.close()

    def get_response(
        self,
        query_str: str,
        text_chunks: Sequence[str],
        kept: list[Found] | None = None,
        sources: Sequence[NodeWithScore] = (),
        **response_kwargs: Any,
    ) -> RESPONSE_TEXT_TYPE:
        """Return the answer.

        Args:
            query_str: What is asked.
            text_chunks: What to answer from, unless a walk has been there.
            kept: The walk that found these texts; if there is none, the one that is made is put here.
            sources: Whose texts they are: what of their metadata is judged, and what is read.
            **response_kwargs: Nothing; LlamaIndex's signature has it.
        """
        pieces = self._pieces(query_str, text_chunks, sources, [] if kept is None else kept)
        if not self._streaming:
            return "".join(piece for piece in pieces if piece)
        next(pieces)  # up to the first token: until then more may be opened
        return _texts(pieces)

    async def aget_response(
        self,
        query_str: str,
        text_chunks: Sequence[str],
        kept: list[Found] | None = None,
        sources: Sequence[NodeWithScore] = (),
        **response_kwargs: Any,
    ) -> RESPONSE_TEXT_TYPE:
        """Return what `get_response` does, without blocking the loop; cancelling stops the work."""
        pieces = in_thread(lambda: self._pieces(query_str, text_chunks, sources, [] if kept is None else kept))
        if self._streaming:
            await anext(pieces)
            return pieces
        return "".join([piece async for piece in pieces])

    def _pieces(
        self, question: str, texts: Sequence[str], sources: Sequence[NodeWithScore], kept: list[Found]
    ) -> Generator[str | None, None, None]:
        """Yield the pieces of an answer, and an empty one before the first; `None` marks any other step."""
        if not kept:
            given = sources or [NodeWithScore(node=TextNode(text=text)) for text in texts]
            scope = Candidates.among(given, self._given).scope()
            kept.append(Found.begin(self._memory.get(), scope, question, top_k=self._top_k))
            kept[0].expect_answer()
            for _ in kept[0].events():
                yield None
        found, text = kept[0], ""
        try:
            with closing(found.conclude()) as events:
                for event in events:
                    if isinstance(event, Token):
                        if not text:
                            yield ""
                        text += event.text
                        yield event.text
                    elif isinstance(event, Done):
                        found.answer = event.answer
                    else:
                        tell(event)
                        yield None
        finally:
            usage = None if found.answer is None else found.answer.usage
            tell_llm_call(self._callback_manager, question, text, usage)

    def _get_prompts(self) -> PromptDictType:
        """Return nothing: the reasoner's prompts belong to how it was trained."""
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        """Change nothing; the engine refuses before."""


def _texts(pieces: Generator[str | None, None, None]) -> Generator[str, None, None]:
    with closing(pieces):
        yield from (piece for piece in pieces if piece is not None)
