"""The host's LLM writes the answer: LlamaIndex's own synthesizers, given what was noted and recalled."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing

from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import LLM
from llama_index.core.llms.utils import LLMType
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.response_synthesizers import BaseSynthesizer, ResponseMode, get_response_synthesizer
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from memrecall_kv.errors import InputError
from memrecall_kv.types import Note

MODES = (ResponseMode.COMPACT, ResponseMode.REFINE, ResponseMode.NO_TEXT, ResponseMode.CONTEXT_ONLY)


def checked_mode(mode: ResponseMode | str) -> ResponseMode:
    """Return a response mode.

    Raises:
        InputError: If it is unknown, or not one that recall can serve.
    """
    names = [known.value for known in MODES]
    if str(getattr(mode, "value", mode)) not in names:
        raise InputError(
            f"Expected response_mode to be one of {', '.join(names)}; got {getattr(mode, 'value', mode)!r}.",
            "For another one, put MemRecallRetriever into a RetrieverQueryEngine.",
        )
    return ResponseMode(mode)


def checked_llm(llm: LLMType | None) -> LLM | None:
    """Return an LLM.

    Raises:
        InputError: If it is something LlamaIndex would have to look up.
    """
    if llm is not None and not isinstance(llm, LLM):
        raise InputError(f"Expected llm to be one of LlamaIndex's LLMs, got {type(llm).__name__}.", "Pass an LLM.")
    return llm


def make_synthesizer(
    llm: LLM | None,
    mode: ResponseMode,
    *,
    streaming: bool,
    callback_manager: CallbackManager,
    text_qa_template: BasePromptTemplate | None,
    refine_template: BasePromptTemplate | None,
) -> BaseSynthesizer | None:
    """Return the host's synthesizer around its LLM; `None` without one, and where nothing is to be written.

    Raises:
        InputError: If `llm` is no LLM, or there are templates that no LLM would read.
    """
    templates = [template for template in (text_qa_template, refine_template) if template is not None]
    if llm is None or mode not in (ResponseMode.COMPACT, ResponseMode.REFINE):
        if templates:
            raise InputError(
                "Expected templates together with an llm that writes by them, got them alone.",
                "Pass llm=, or leave the templates out: MemRecall's own prompts cannot be replaced.",
            )
        return None
    checked_llm(llm)
    return get_response_synthesizer(
        llm=llm,
        # the synthesizer gives it to the LLM, which keeps its own if nobody listens to ours
        callback_manager=callback_manager if callback_manager.handlers else llm.callback_manager,
        response_mode=mode,
        streaming=streaming,
        text_qa_template=text_qa_template,
        refine_template=refine_template,
    )


def notes_node(notes: Sequence[Note]) -> list[NodeWithScore]:
    """Return the notes as one node to read; none if nothing was noted. Equal notes make equal ids."""
    if not notes:
        return []
    text = "\n".join(["Notes taken while reading:", *(f"- {note.text}" for note in notes)])
    name = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return [NodeWithScore(node=TextNode(id_=f"memrecall-notes-{name}", text=text))]


def pieces(
    synthesizer: BaseSynthesizer, query: QueryBundle, nodes: Sequence[NodeWithScore]
) -> Generator[str, None, None]:
    """Yield the text that the host's LLM writes, as it comes or all at once."""
    response = synthesizer.synthesize(query, list(nodes))
    if not isinstance(response, StreamingResponse):
        yield str(response)
        return
    # the LLM stops as soon as the reader does
    with closing(response.response_gen) as tokens:
        yield from tokens


async def apieces(
    synthesizer: BaseSynthesizer, query: QueryBundle, nodes: Sequence[NodeWithScore]
) -> AsyncGenerator[str, None]:
    """Yield what `pieces` yields, without blocking the loop any more than the LLM itself does."""
    response = await synthesizer.asynthesize(query, list(nodes))
    if not isinstance(response, AsyncStreamingResponse):
        yield str(response)
        return
    async with aclosing(response.response_gen) as tokens:
        async for token in tokens:
            yield token
