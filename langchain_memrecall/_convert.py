"""LangChain's documents and arguments to MemRecall's values and back; nothing of the host's is written to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.documents import Document as HostDocument
from memrecall_kv.errors import InputError
from memrecall_kv.hosts.arguments import distinct
from memrecall_kv.hosts.documents import TextCache
from memrecall_kv.types import NO_HEADING, Document, Heading, Recall

KEY = "memrecall"
"""The one key of a document's metadata that is ours."""
_OF_THE_QUESTION = ("score", "recall_step")


class Recalled(dict[str, Any]):
    """What is known of a recalled text: `score` and `recall_step` of this question, and where it stands.

    Two of the same text are equal, whatever was asked: LangChain drops documents that several questions found twice.
    """

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self.place == {name: other[name] for name in other if name not in _OF_THE_QUESTION}

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # as of any dict

    @property
    def place(self) -> dict[str, Any]:
        """Where the text stands, whatever was asked."""
        return {name: value for name, value in self.items() if name not in _OF_THE_QUESTION}


def to_documents(documents: Iterable[HostDocument], metadata_keys: Sequence[str] = ()) -> list[Document]:
    """Return one core document per document that has text, under its own id.

    A document without an id gets one made of its text and metadata, the same every time.

    Args:
        documents: Of the host.
        metadata_keys: Metadata that models see with the text.

    Raises:
        InputError: If something else is among them, none has text, or two different ones share an id: one would
            replace the other.
    """
    with_text = (host for host in check_documents(documents) if host.page_content.strip())
    converted = distinct(to_document(host, metadata_keys) for host in with_text)
    if not converted:
        raise InputError("Expected documents with text, got none.", "Pass bank= alone to use what it holds already.")
    return converted


def to_document(host: HostDocument, metadata_keys: Sequence[str] = ()) -> Document:
    """Return the core's document for one of LangChain's, under its id or one made of its content.

    What a question found out about it is no part of it.
    """
    metadata = {name: value for name, value in host.metadata.items() if not isinstance(value, Recalled)}
    heading = to_heading(metadata, metadata_keys)
    return Document(host.id or _content_id(host, metadata), host.page_content, metadata, heading)


def to_entry(host: HostDocument, metadata_keys: Sequence[str]) -> Document:
    """Return what a cache keeps of a document: its text and heading, under an id made of both."""
    return TextCache.entry(host.page_content, to_heading(host.metadata, metadata_keys))


def to_heading(metadata: Mapping[str, Any], keys: Sequence[str]) -> Heading:
    """Return metadata as what models see in front of a text: a line for each key that has a value, in their order."""
    values = {key: metadata.get(key) for key in keys}
    said = {
        key: ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for key, value in values.items()
        if value is not None
    }
    lines = "".join(f"{key}: {' '.join(text.split())}\n" for key, text in said.items() if text.strip())
    return Heading(f"{lines}\n", f"{lines}\n") if lines else NO_HEADING


def _content_id(document: HostDocument, metadata: Mapping[str, Any]) -> str:
    try:
        content = json.dumps([document.page_content, metadata], sort_keys=True, default=str)
    except TypeError as error:
        raise InputError(
            f"Expected the keys of a document's metadata to be texts, got {list(document.metadata)}.", "Use texts."
        ) from error
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def to_host(recall: Recall, source: HostDocument | None = None) -> HostDocument:
    """Return a recalled chunk under its document's id.

    To the document's metadata one key is added, `memrecall`, with `score` (the gate's probability, [0, 1]),
    `recall_step` (0 for the chunk opened first), `chunk_id` and `start_index`, its place in the document's text.

    Args:
        recall: From the core.
        source: Whose id and metadata to use, if the bank does not know them.
    """
    chunk = recall.chunk
    place = {"chunk_id": chunk.id, "start_index": chunk.start}
    return HostDocument(
        id=source.id if source else chunk.doc_id,
        page_content=chunk.text,
        metadata=with_recall(source.metadata if source else recall.metadata, recall, place),
    )


def with_recall(metadata: Mapping[str, Any], recall: Recall, place: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document's metadata with what a question found out about it, and where it stands."""
    found = Recalled(score=recall.gate_probability, recall_step=recall.step, **place)
    return {**metadata, KEY: found}


def check_documents(given: Iterable[Any]) -> list[HostDocument]:
    """Return what was given as a list of documents.

    Raises:
        InputError: If it is something else, or something else is among it.
    """
    several = isinstance(given, Iterable) and not isinstance(given, str | Mapping | HostDocument)
    listed = list(given) if several else []
    strange = sorted({type(one).__name__ for one in listed if not isinstance(one, HostDocument)})
    if strange or not several:
        raise InputError(
            f"Expected a list of documents, got {', '.join(strange) or type(given).__name__}.",
            "Use langchain_core.documents.Document.",
        )
    return listed


def to_question(given: Any) -> str:
    """Return a question that is one.

    Raises:
        InputError: If it is empty or no text.
    """
    if isinstance(given, str) and given.strip():
        return given
    got = "an empty text" if isinstance(given, str) else type(given).__name__
    raise InputError(f"Expected a question, got {got}.", "Pass what is asked as a text.")
