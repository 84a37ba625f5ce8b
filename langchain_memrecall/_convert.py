"""LangChain's documents, inputs and filters to MemRecall's values and back; nothing of the host's is written to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.documents import Document as HostDocument
from memrecall_kv.errors import InputError
from memrecall_kv.types import Document, Recall, Where


def to_documents(documents: Iterable[HostDocument]) -> list[Document]:
    """Return one core document per document that has text, under its own id.

    A document without an id gets one made of its text and metadata, the same every time.

    Raises:
        InputError: If something else is among them, none has text, or two different ones share an id: one would
            replace the other.
    """
    converted: dict[str, Document] = {}
    for host in documents:
        if not isinstance(host, HostDocument):
            raise InputError(
                f"Expected documents, got {type(host).__name__}.", "Use langchain_core.documents.Document."
            )
        if not host.page_content.strip():
            continue
        document = to_document(host)
        if converted.setdefault(document.id, document) != document:
            raise InputError(
                f"Expected ids to be unique, got different documents under the id {document.id!r}.",
                "Give each document an id of its own.",
            )
    if not converted:
        raise InputError("Expected documents with text, got none.", "Pass bank= alone to use what it holds already.")
    return list(converted.values())


def to_document(host: HostDocument) -> Document:
    """Return the core's document for one of LangChain's, under its id or one made of its content."""
    return Document(id=host.id or _content_id(host), text=host.page_content, metadata=dict(host.metadata))


def _content_id(document: HostDocument) -> str:
    content = json.dumps([document.page_content, document.metadata], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def to_host(recall: Recall, source: HostDocument | None = None) -> HostDocument:
    """Return a recalled chunk under its document's id.

    To the document's metadata are added `score` (the gate's probability, [0, 1]), `recall_step` (0 for
    the chunk opened first), `chunk_id` and `start_index`, the chunk's place in the document's text.

    Args:
        recall: From the core.
        source: Whose id and metadata to use, if the bank does not know them.
    """
    return HostDocument(
        id=source.id if source else recall.chunk.doc_id,
        page_content=recall.chunk.text,
        metadata={
            **(source.metadata if source else recall.metadata),
            "score": recall.gate_probability,
            "recall_step": recall.step,
            "chunk_id": recall.chunk.id,
            "start_index": recall.chunk.start,
        },
    )


def to_where(*filters: Mapping[str, Any] | None) -> Where | None:
    """Return the core's filter for metadata that equals all of `filters`; `None` if there are none.

    Raises:
        InputError: If a filter is no mapping, or holds an operator instead of a value.
    """
    wanted: list[tuple[str, Any]] = []
    for condition in filters:
        if condition is None:
            continue
        if not isinstance(condition, Mapping):
            raise InputError(
                f"Expected a filter to be a dict of metadata, got {type(condition).__name__}.",
                'Write it like {"team": "finance"}.',
            )
        for key, value in condition.items():
            if key.startswith("$") or (isinstance(value, Mapping) and any(str(name).startswith("$") for name in value)):
                raise InputError(
                    f"Expected values that metadata must equal, got the operator {key}: {value!r}.",
                    "Give the value itself; other comparisons are not supported.",
                )
            wanted.append((key, value))
    if not wanted:
        return None
    return lambda _, metadata: all(key in metadata and metadata[key] == value for key, value in wanted)
