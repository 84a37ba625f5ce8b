"""The memory's own backbone as an LLM of LlamaIndex, for what needs one and should need no other model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

from llama_index.core.base.llms.types import (
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from memrecall_kv.hosts.streaming import in_thread

from llama_index_memrecall._memory_settings import MemorySettings


class BackboneLLM(MemorySettings, CustomLLM):
    """Completes prompts with the backbone that also reads memory blocks, greedily; no weights are loaded twice.

    It is as small as the backbone: `MemRecallIndex.as_chat_engine` uses it where no `llm` is given.

    Attributes:
        max_tokens: Most tokens of a reply.
        name_or_path, device, memory: Which `MemRecall`; see `MemorySettings`.

    Raises:
        pydantic.ValidationError: If an argument is unknown or out of range.
    """

    max_tokens: int = Field(default=128, ge=1)

    @classmethod
    def class_name(cls) -> str:
        """Return the name in serialised form."""
        return "BackboneLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """Window and name of the backbone, which is loaded for it."""
        backbone = self._memory.get().backbone
        return LLMMetadata(context_window=backbone.window, num_output=self.max_tokens, model_name=backbone.name)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the whole reply."""
        last = CompletionResponse(text="")
        for last in self._replies(prompt):  # noqa: B007  # the last one is whole
            pass
        return last

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Yield the reply as it grows."""
        yield from self._replies(prompt)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return what `complete` returns, without blocking the loop."""
        last = CompletionResponse(text="")
        async with aclosing(in_thread(lambda: self._replies(prompt))) as replies:
            async for last in replies:  # noqa: B007
                pass
        return last

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Yield what `stream_complete` yields, without blocking the loop."""

        async def replies() -> CompletionResponseAsyncGen:
            async with aclosing(in_thread(lambda: self._replies(prompt))) as made:
                async for reply in made:
                    yield reply

        return replies()

    def _replies(self, prompt: str) -> CompletionResponseGen:
        from memrecall_kv.backbone.decoding import generate, growing_text

        backbone = self._memory.get().backbone
        request = backbone.chat(prompt)
        written = 0

        def steps() -> Iterator[list[int | None]]:
            yield from generate(backbone, backbone.kv.place([[]]), [request], self.max_tokens)

        def tokens() -> Iterator[int]:
            nonlocal written
            for (token,) in backbone.scheduler.each(steps()):
                if token is None:
                    return
                written += 1
                yield token

        said = ""
        for text in growing_text(backbone, tokens()):
            usage = {"prompt_tokens": len(request), "completion_tokens": written}
            yield CompletionResponse(text=text, delta=text[len(said) :], raw={"usage": usage})
            said = text
