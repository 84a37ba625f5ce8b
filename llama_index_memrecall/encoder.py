"""Compression as a step of LlamaIndex's ingestion pipeline."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Self

from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import BaseNode, TransformComponent
from llama_index.core.storage.docstore.types import BaseDocumentStore
from memrecall_kv.hosts.settings import BankSettings
from memrecall_kv.types import Metadata, Where

from llama_index_memrecall._convert import ENCODER, has_text, owner_of, ref_doc_of, to_documents
from llama_index_memrecall._memory_settings import MemorySettings

_CALL = "call"


class MemoryBlockEncoder(BankSettings, MemorySettings, TransformComponent):
    """Compresses the nodes that pass through it into a bank, and hands them on as they came.

    All nodes of a document come in one call, as they do in an `IngestionPipeline` without worker processes: what
    the bank holds of an earlier version of the document is deleted. Ask with `MemRecallQueryEngine.from_bank`.

    LlamaIndex's ingestion cache is passed by, because a cached result would leave a bank empty that has lost its
    text since; the bank itself knows what it has compressed.

    Attributes:
        bank: Directory of the bank, created if need be.
        docstore: That of the pipeline, for calling `prune` with it on every run; not part of `to_dict`.
        name_or_path, device, memory: Which `MemRecall`; see `MemorySettings`.

    Raises:
        pydantic.ValidationError: If an argument is unknown or missing.
    """

    bank: str
    docstore: BaseDocumentStore | None = Field(default=None, exclude=True, repr=False)

    @classmethod
    def class_name(cls) -> str:
        """Return the name in serialised form."""
        return "MemoryBlockEncoder"

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return the settings, and a mark of this call, which keeps LlamaIndex from taking a cached result."""
        return {**super().to_dict(**kwargs), _CALL: uuid.uuid4().hex}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Return an encoder with the settings that `to_dict` returned."""
        return super().from_dict({name: value for name, value in data.items() if name != _CALL}, **kwargs)

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Compress what is new, forget what these documents said before, and return the nodes.

        Raises:
            InputError: If two different nodes share an id.
            BankError: If the bank cannot be written, or was made by another model.
        """
        documents = to_documents(nodes, owner=ENCODER)
        incoming = {node.node_id for node in nodes}
        sources = {node.ref_doc_id for node in nodes if node.ref_doc_id is not None}
        kept = {document.id for document in documents}
        is_gone = _gone_from(self.docstore)

        def is_stale(node_id: str, metadata: Metadata) -> bool:
            again = node_id in incoming or ref_doc_of(metadata) in sources
            return node_id not in kept and (again or is_gone(_source_of(node_id, metadata)))

        self._bank.ingest(documents)
        self._forget(is_stale)
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Do what a call does, without blocking the loop."""
        return await asyncio.to_thread(self.__call__, nodes, **kwargs)

    def delete_ref_doc(self, ref_doc_id: str) -> None:
        """Delete what the bank holds of a document; an unknown one is no mistake."""
        self._forget(lambda node_id, metadata: ref_doc_id in (node_id, ref_doc_of(metadata)))

    def prune(self, docstore: BaseDocumentStore) -> None:
        """Delete what the bank holds of documents that are no longer in a pipeline's docstore, or blank there.

        An `IngestionPipeline` tells its transformations of neither: call this after a run with
        `DocstoreStrategy.UPSERTS_AND_DELETE`, unless the encoder has the pipeline's `docstore`.
        """
        is_gone = _gone_from(docstore)
        self._forget(lambda node_id, metadata: is_gone(_source_of(node_id, metadata)))

    def _forget(self, is_stale: Where) -> None:
        self._bank.forget(
            lambda node_id, metadata: owner_of(metadata) == ENCODER and is_stale(node_id, metadata), compact=False
        )


def _source_of(node_id: str, metadata: Metadata) -> str:
    """Return the id under which a pipeline's docstore knows what a node in a bank was cut from."""
    return ref_doc_of(metadata) or node_id


def _gone_from(docstore: BaseDocumentStore | None) -> Callable[[str], bool]:
    """Return a function that says whether a document was deleted from a docstore, or is blank there."""

    @cache
    def is_gone(doc_id: str) -> bool:
        # by its hash: a pipeline with `store_doc_text=False` keeps nothing else
        if docstore is None or docstore.get_document_hash(doc_id) is None:
            return docstore is not None
        held = docstore.get_document(doc_id, raise_error=False)
        return held is not None and not has_text(held)

    return is_gone
