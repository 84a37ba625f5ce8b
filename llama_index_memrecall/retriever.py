"""A retriever that recalls: nodes in the order the gate opens them, with what was learned on the way in mind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.indices.base import BaseIndex
from llama_index.core.schema import BaseNode, IndexNode, NodeWithScore, QueryBundle
from llama_index.core.schema import Document as HostDocument
from llama_index.core.vector_stores.types import MetadataFilters
from memrecall_kv.config import check_count
from memrecall_kv.errors import InputError
from memrecall_kv.hosts.lazy import LazyBank, LazyMemory

from llama_index_memrecall._convert import to_documents
from llama_index_memrecall._filters import to_where
from llama_index_memrecall._scope import Scope
from llama_index_memrecall._sources import (
    BankSource,
    Mirror,
    MirrorSource,
    RetrieverSource,
    Source,
)
from llama_index_memrecall._walk import Findings
from llama_index_memrecall.events import dispatcher

if TYPE_CHECKING:  # both import torch
    from memrecall_kv import MemoryBank, MemRecall


class RecallOptions(TypedDict, total=False):
    """What every way to make a `MemRecallRetriever` accepts."""

    memory: MemRecall | None
    name_or_path: str | None
    device: str
    top_k: int | None
    filters: MetadataFilters | None
    callback_manager: CallbackManager | None
    object_map: Mapping[str, Any] | None
    defer: bool


class MemRecallRetriever(BaseRetriever):
    """Returns what is recalled for a question, in order of recall.

    Args:
        bank: A bank, or the directory of one, which is opened for reading on first use.
        memory: What recalls. Otherwise it is loaded on first use, by the next two arguments.
        name_or_path: What `MemRecall.from_pretrained` loads; `None` for its default.
        device: Where it is loaded.
        top_k: Blocks to open per question, exactly; `None` leaves it to the memory's settings.
        filters: Which documents may be recalled, by their metadata.
        callback_manager: For LlamaIndex's callbacks.
        object_map: What an `IndexNode` stands for, by its `index_id`.
        defer: Store texts alone; a question compresses what it comes near. The bank is then kept open for writing.

    Attributes:
        lazy_memory: The memory, which may not be loaded yet.
        top_k: As given.

    Raises:
        InputError: If `top_k` is below 1 or a filter's value does not suit its operator.

    Example:
        ```python
        retriever = MemRecallRetriever.from_documents(documents, top_k=3)
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
        object_map: Mapping[str, Any] | None = None,
        defer: bool = False,
    ) -> None:
        super().__init__(callback_manager, object_map=dict(object_map or {}))
        self.top_k = check_count("top_k", top_k)
        self.lazy_memory = LazyMemory(memory, name_or_path, device)
        self._bank = LazyBank(bank, self.lazy_memory, defer=defer)
        self._where = to_where(filters)
        self._source: Source = BankSource(self._bank, self._where)

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[HostDocument],
        *,
        bank: MemoryBank | str | Path | None = None,
        show_progress: bool = False,
        **options: Unpack[RecallOptions],
    ) -> Self:
        """Return a retriever over documents, compressing those the bank does not hold yet.

        What it returns are the recalled chunks; their `ref_doc_id` is the document's id.

        Args:
            documents: What to remember. One whose id is in the bank replaces what is there; one without
                text (a blank page) is left out.
            bank: Where to: a bank, or a directory that is created if need be. `None` uses a temporary
                one, which `close` removes.
            show_progress: Whether to draw a progress bar.
            **options: As for the class.

        Raises:
            InputError: If two different documents share an id.
        """
        return cls.from_nodes(documents, bank=bank, show_progress=show_progress, **options)

    @classmethod
    def from_nodes(
        cls,
        nodes: Sequence[BaseNode],
        *,
        bank: MemoryBank | str | Path | None = None,
        show_progress: bool = False,
        **options: Unpack[RecallOptions],
    ) -> Self:
        """Return a retriever over nodes that were cut elsewhere; arguments as for `from_documents`.

        What it returns are these nodes again, whole and with their ids. A node longer than a chunk of the
        core has several blocks, and `top_k` counts blocks. What an `IndexNode` stands for is followed.

        Raises:
            InputError: If two different nodes share an id.
        """
        plain, objects = _without_objects(nodes)
        options["object_map"] = {**objects, **(options.get("object_map") or {})}
        retriever = cls(bank, **options)
        documents = to_documents(plain)
        silent = {node.node_id for node in nodes} - {document.id for document in documents}
        with retriever._bank.writing() as writable:
            retriever.lazy_memory.get().ingest(
                writable, documents, defer=retriever._bank.defer, show_progress=show_progress
            )
            # what a node said before it became empty must not be recalled
            writable.delete_many(node_id for node_id in sorted(silent) if node_id in writable)
        return retriever

    @classmethod
    def from_bank(cls, bank: MemoryBank | str | Path, **options: Unpack[RecallOptions]) -> Self:
        """Return a retriever over a bank that was filled before, by any route; nothing is loaded yet."""
        return cls(bank, **options)

    @classmethod
    def from_index(
        cls,
        index: BaseIndex[Any],
        *,
        bank: MemoryBank | str | Path | None = None,
        show_progress: bool = False,
        **options: Unpack[RecallOptions],
    ) -> Self:
        """Return a retriever over the nodes of an index that exists, and follow the index from then on.

        Before each question the bank is brought to what the index holds: only nodes that are new are
        compressed, and what was deleted from the index is deleted.

        Args:
            index: A `VectorStoreIndex` or another index whose docstore holds its nodes.
            bank: As for `from_documents`; one of its own for each index.
            show_progress: Whether to draw a progress bar.
            **options: As for the class.

        Raises:
            InputError: If the index keeps its nodes elsewhere.
        """
        retriever = cls(bank, **options)
        mirror = Mirror(index, index.index_id, retriever._bank, retriever.lazy_memory)
        mirror.sync(show_progress=show_progress)
        return retriever._over(MirrorSource(mirror, retriever._where, closes=True), retriever.lazy_memory)

    @classmethod
    def from_args(cls, retriever: BaseRetriever, **options: Unpack[RecallOptions]) -> Self:
        """Return a retriever that recalls among what another one finds.

        Each node that is found is compressed once and kept, while this retriever lives, under the hash of its text.

        Args:
            retriever: What proposes: ask it for more than will be needed.
            **options: As for the class.

        Raises:
            InputError: If it is no retriever.
        """
        if not isinstance(retriever, BaseRetriever):
            raise InputError(
                f"Expected a retriever of LlamaIndex, got {type(retriever).__name__}.",
                "Pass index.as_retriever(), or use from_index(index).",
            )
        recaller = cls(None, **options)
        return recaller._over(RetrieverSource(retriever, recaller.lazy_memory, recaller._where), recaller.lazy_memory)

    def _over(self, source: Source, memory: LazyMemory) -> Self:
        """Return this retriever over another source, recalling with another memory."""
        self._source, self.lazy_memory = source, memory
        return self

    def close(self) -> None:
        """Close the bank if it was opened here, and remove it if it was temporary."""
        self._source.close()

    def propose(self, query_bundle: QueryBundle) -> Callable[[], Scope]:
        """Return a function that returns what may be recalled; it may take long."""
        return partial(self._source.scope, self._source.propose(query_bundle))

    async def apropose(self, query_bundle: QueryBundle) -> Callable[[], Scope]:
        """Return what `propose` returns, without blocking the loop while another retriever works."""
        return partial(self._source.scope, await self._source.apropose(query_bundle))

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._recall(query_bundle, self.propose(query_bundle))

    @dispatcher.span
    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._recall, query_bundle, await self.apropose(query_bundle))

    def _recall(self, query_bundle: QueryBundle, prepare: Callable[[], Scope]) -> list[NodeWithScore]:
        scope, findings = prepare(), Findings()
        for _ in findings.walk(self.lazy_memory.get(), scope.bank, scope.where, query_bundle.query_str, self.top_k):
            pass
        return scope.sources(findings.recalls)


def _without_objects(nodes: Sequence[BaseNode]) -> tuple[list[BaseNode], dict[str, Any]]:
    """Return nodes that can be stored, and what index nodes among them stand for, by `index_id`."""
    objects = {node.index_id: node.obj for node in nodes if isinstance(node, IndexNode) and node.obj is not None}
    plain = [
        node.model_copy(update={"obj": None}) if isinstance(node, IndexNode) and node.obj is not None else node
        for node in nodes
    ]
    return plain, objects
