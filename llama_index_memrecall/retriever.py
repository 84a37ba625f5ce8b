"""Recall as a retriever: what the gate opens, in the order it opens it, without an answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters
from memrecall_kv.lazy import LazyBank, LazyMemory

from llama_index_memrecall._source import Source
from llama_index_memrecall.events import dispatcher

if TYPE_CHECKING:  # both import torch
    from memrecall_kv import MemoryBank, MemRecall


class MemRecallRetriever(BaseRetriever):
    """Recalls nodes from a memory bank, first opened first.

    Nodes keep their ids, text and metadata; their score is the gate's probability in [0, 1], and
    `recall_step` in their metadata says when they were opened.

    Args:
        bank: A bank, or the directory of one, which is opened for reading on first use.
        memory: What recalls. Otherwise it is loaded on first use, by the next two arguments.
        name_or_path: What `MemRecall.from_pretrained` loads; `None` for its default.
        device: Where it is loaded.
        top_k: Blocks to open per question, exactly; `None` leaves it to the memory's settings.
        filters: Which documents may be recalled, by their metadata.
        callback_manager: For LlamaIndex's callbacks.
        object_map: What index nodes stand for, by their `index_id`.
        verbose: Print when a retrieval enters such an object.

    Raises:
        InputError: If a filter cannot be applied.

    Example:
        ```python
        retriever = MemRecallRetriever("handbook.bank", top_k=3)
        nodes = retriever.retrieve("Who approves travel?")
        ```
    """

    def __init__(
        self,
        bank: MemoryBank | str | Path | None,
        *,
        memory: MemRecall | None = None,
        name_or_path: str | None = None,
        device: str = "auto",
        top_k: int | None = None,
        filters: MetadataFilters | None = None,
        callback_manager: CallbackManager | None = None,
        object_map: dict[str, Any] | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(callback_manager=callback_manager, object_map=object_map, verbose=verbose)
        shared = LazyMemory(memory, name_or_path, device)
        self._source = Source(shared, LazyBank(bank, shared), LazyBank(None, shared), top_k=top_k, filters=filters)

    def close(self) -> None:
        """Close the bank if this retriever opened it."""
        self._source.close()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._source.recall(query_bundle.query_str)

    @dispatcher.span
    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)
