"""Who writes the answer, unless it is the memory's reasoner: LlamaIndex's own synthesizers, as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import LLM, MockLLM
from llama_index.core.llms.utils import LLMType
from llama_index.core.response_synthesizers import BaseSynthesizer, ResponseMode, get_response_synthesizer
from llama_index.core.response_synthesizers.context_only import ContextOnly
from llama_index.core.response_synthesizers.no_text import NoText
from llama_index.core.schema import NodeWithScore, TextNode
from memrecall_kv.errors import InputError
from memrecall_kv.hosts.lazy import LazyMemory
from memrecall_kv.types import Note

from llama_index_memrecall._reasoner import ReasonerSynthesizer
from llama_index_memrecall.backbone_llm import BackboneLLM

WRITES_NOTHING = {ResponseMode.NO_TEXT: NoText, ResponseMode.CONTEXT_ONLY: ContextOnly}
"""Modes in which sources are all there is to an answer."""


def checked_mode(mode: ResponseMode | str) -> ResponseMode:
    """Return a response mode.

    Raises:
        InputError: If it is unknown.
    """
    names = [known.value for known in ResponseMode]
    if str(getattr(mode, "value", mode)) not in names:
        raise InputError(
            f"Expected response_mode to be one of {', '.join(names)}; got {mode!r}.", "See LlamaIndex's ResponseMode."
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
    memory: LazyMemory,
    llm: LLM | None,
    mode: ResponseMode,
    *,
    top_k: int | None,
    streaming: bool,
    callback_manager: CallbackManager,
    options: dict[str, Any],
) -> BaseSynthesizer:
    """Return who writes: the LLM, or without one the memory's reasoner, or its backbone where that cannot.

    Args:
        memory: Whose reasoner, and backbone.
        llm: The host's.
        mode: What is written.
        top_k: How many of given texts the reasoner reads.
        streaming: Whether answers come piece by piece.
        callback_manager: For LlamaIndex's callbacks.
        options: Templates, and whatever else LlamaIndex's `get_response_synthesizer` takes.

    Raises:
        InputError: If there are templates that nobody would read.
    """
    if mode in WRITES_NOTHING:
        # the host would take the LLM of `Settings`, which nobody needs here
        return WRITES_NOTHING[mode](llm=MockLLM(), callback_manager=callback_manager)
    if llm is None and mode in (ResponseMode.COMPACT, ResponseMode.REFINE):
        unread = sorted(set(options).difference(("use_async", "verbose")))
        if unread:
            raise InputError(
                f"Expected {', '.join(unread)} together with an llm that writes by it, got it alone.",
                "Pass llm=, or leave it out: MemRecall's own prompts cannot be replaced.",
            )
        return ReasonerSynthesizer(memory, top_k=top_k, streaming=streaming, callback_manager=callback_manager)
    llm = llm or BackboneLLM(memory=memory.get())
    # the synthesizer gives it to the LLM, which keeps its own if nobody listens to ours
    manager = callback_manager if callback_manager.handlers else llm.callback_manager
    return get_response_synthesizer(
        llm=llm, callback_manager=manager, response_mode=mode, streaming=streaming, **options
    )


def notes_node(notes: Sequence[Note]) -> list[NodeWithScore]:
    """Return the notes as one node to read; none if nothing was noted. Equal notes make equal ids."""
    if not notes:
        return []
    text = "\n".join(["Notes taken while reading:", *(f"- {note.text}" for note in notes)])
    name = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return [NodeWithScore(node=TextNode(id_=f"memrecall-notes-{name}", text=text))]
