"""Recall as a tool that an agent calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.tools import StructuredTool, ToolException
from memrecall_kv.errors import InputError, MemRecallError
from pydantic import BaseModel, Field

from langchain_memrecall._convert import to_heading
from langchain_memrecall.retriever import MemRecallRetriever
from langchain_memrecall.runnable import MemRecallRunnable

_NOTHING = "Nothing was found."


class _Question(BaseModel):
    """What the agent's model fills in."""

    question: str = Field(description="what to find out, as a complete question")


def create_memrecall_tool(
    source: MemRecallRetriever | MemRecallRunnable,
    *,
    name: str = "recall",
    description: str = "Answers questions from the documents that were remembered.",
) -> StructuredTool:
    """Return a tool that recalls for an agent's question.

    The model reads the texts that a retriever recalls, behind its `metadata_keys`, or the answer of a runnable
    with the texts' ids. The tool message's artifact is what the model does not read: the documents with scores
    and places of a retriever, or the whole result of a runnable. An error of ours, such as that of an empty question,
    is what the model reads, in a message whose status is `error`: the agent goes on.

    Args:
        source: What recalls.
        name: What the agent's model calls the tool.
        description: When it should; say what the documents are about.

    Raises:
        InputError: If `source` is something else, or has no bank: a tool is asked a question and nothing more.

    Example:
        ```python
        tool = create_memrecall_tool(retriever, description="Finds rules in the travel handbook.")
        create_agent(model, tools=[tool])
        ```
    """
    if not isinstance(source, MemRecallRetriever | MemRecallRunnable):
        raise InputError(
            f"Expected a MemRecallRetriever or a MemRecallRunnable, got {type(source).__name__}.", "Make one first."
        )
    if source.bank is None:
        raise InputError("Expected a runnable over a bank, got one without a bank.", "Make it with bank=.")

    # to a parameter of this name LangChain passes the callbacks of the tool's children; `config` would be the caller's
    def recall(question: str, callbacks: Callbacks = None) -> tuple[str, Any]:
        with _for_the_model():
            return _read_out(source.invoke(question, {"callbacks": callbacks}), source.metadata_keys)

    async def arecall(question: str, callbacks: Callbacks = None) -> tuple[str, Any]:
        with _for_the_model():
            return _read_out(await source.ainvoke(question, {"callbacks": callbacks}), source.metadata_keys)

    return StructuredTool(
        name=name,
        description=description,
        func=recall,
        coroutine=arecall,
        args_schema=_Question,
        response_format="content_and_artifact",
        handle_tool_error=True,
        handle_validation_error=True,
    )


@contextmanager
def _for_the_model() -> Iterator[None]:
    """Turn an error of ours into one that LangChain makes a tool message of."""
    try:
        yield
    except MemRecallError as error:
        raise ToolException(str(error)) from error


def _read_out(found: list[Document] | dict[str, Any], metadata_keys: Sequence[str]) -> tuple[str, Any]:
    if isinstance(found, list):
        return "\n\n".join(_cited(document, metadata_keys) for document in found) or _NOTHING, found
    sources = list(dict.fromkeys(document.id for document in found["context"] if document.id))
    cited = f"\n\nSources: {', '.join(sources)}" if sources else ""
    return f"{found['answer']}{cited}", found


def _cited(document: Document, metadata_keys: Sequence[str]) -> str:
    text = to_heading(document.metadata, metadata_keys).read + document.page_content
    return f"[{document.id}] {text}" if document.id else text
