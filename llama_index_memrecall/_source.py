"""Where recall looks: a bank, or the nodes that somebody else proposes."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING

from llama_index.core.schema import BaseNode, NodeWithScore
from llama_index.core.vector_stores.types import MetadataFilters
from memrecall_kv.lazy import LazyBank, LazyMemory
from memrecall_kv.types import Metadata, Where

from llama_index_memrecall._convert import to_documents, to_source_nodes
from llama_index_memrecall._filters import to_where

if TYPE_CHECKING:  # both import torch
    from memrecall_kv import MemoryBank, MemRecall


class Source:
    """What may be recalled, and how much of it.

    Args:
        memory: What recalls.
        bank: What is looked at if nobody proposes nodes.
        cache: Where proposed nodes are kept compressed.
        top_k: Blocks to open, exactly; `None` leaves it to the gate.
        filters: Which documents may be recalled.
    """

    def __init__(
        self,
        memory: LazyMemory,
        bank: LazyBank,
        cache: LazyBank,
        *,
        top_k: int | None,
        filters: MetadataFilters | None,
    ) -> None:
        self.memory = memory
        self.bank = bank
        self.cache = cache
        self.top_k = top_k
        self.within: Callable[[], Container[str]] | None = None
        """The ids that may be recalled from the bank, asked for at every question; `None` for all."""
        self._where = to_where(filters)

    def open(self, proposed: Sequence[BaseNode] | None = None) -> tuple[MemRecall, MemoryBank, Where | None]:
        """Return what recalls, what it looks at, and which documents of it; proposed nodes are compressed first."""
        if proposed is None:
            bank = self.bank.get()  # before a model is loaded for nothing
            return self.memory.get(), bank, self._among(self.within()) if self.within else self._where
        memory, documents = self.memory.get(), to_documents(proposed)
        with self.cache.writing() as writable:
            memory.ingest(writable, documents)
        return memory, self.cache.get(), self._among({document.id for document in documents})

    def _among(self, ids: Container[str]) -> Where:
        def where(doc_id: str, metadata: Metadata) -> bool:
            return doc_id in ids and (self._where is None or self._where(doc_id, metadata))

        return where

    def recall(self, question: str, proposed: Sequence[BaseNode] | None = None) -> list[NodeWithScore]:
        """Return the nodes a question recalls, in that order."""
        memory, bank, where = self.open(proposed)
        return to_source_nodes(memory.recall(bank, question, top_k=self.top_k, where=where), bank)

    def close(self) -> None:
        """Close what was opened here, and remove what was temporary."""
        self.bank.close()
        self.cache.close()
