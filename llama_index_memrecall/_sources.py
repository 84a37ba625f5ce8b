"""Where a question is asked: a bank, a bank that follows an index, or whatever a host's retriever finds."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.data_structs import IndexDict, IndexList
from llama_index.core.indices.base import BaseIndex
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.simple import SimpleVectorStore
from memrecall_kv.errors import InputError
from memrecall_kv.filters import AmongIds, And, Filter
from memrecall_kv.hosts.documents import TextCache
from memrecall_kv.hosts.lazy import LazyBank, LazyMemory

from llama_index_memrecall._candidates import Candidates
from llama_index_memrecall._convert import owner_of, to_documents, to_source_nodes
from llama_index_memrecall._scope import Scope


class Source(Protocol):
    """What a retriever recalls from."""

    def propose(self, query_bundle: QueryBundle) -> Sequence[NodeWithScore]:
        """Return what the host's own retriever finds; nothing if there is none."""
        ...

    async def apropose(self, query_bundle: QueryBundle) -> Sequence[NodeWithScore]:
        """Return what `propose` returns, without blocking the loop."""
        ...

    def scope(self, proposed: Sequence[NodeWithScore]) -> Scope:
        """Return what may be recalled, compressing what never was; takes as long as that takes."""
        ...

    def close(self) -> None:
        """Close the files that were opened here."""
        ...


class BankSource:
    """All of a bank, or the documents a filter lets through."""

    def __init__(self, bank: LazyBank, where: Filter | None) -> None:
        self._bank = bank
        self._where = where

    def propose(self, query_bundle: QueryBundle) -> Sequence[NodeWithScore]:
        """Return nothing: the gate looks at every block."""
        return ()

    async def apropose(self, query_bundle: QueryBundle) -> Sequence[NodeWithScore]:
        """Return nothing: the gate looks at every block."""
        return ()

    def scope(self, proposed: Sequence[NodeWithScore]) -> Scope:
        """Return the bank."""
        bank = self._bank.get()
        return Scope(bank, self._where, lambda recalls: to_source_nodes(recalls, bank))

    def close(self) -> None:
        """Close the bank if it was opened here."""
        self._bank.close()


class Mirror:
    """A bank that holds what an index of the host holds, and nothing that was deleted there.

    Args:
        index: The index.
        owner: A name for what is put into the bank; what others put there is left alone.
        bank: The bank.
        memory: What compresses.
    """

    def __init__(self, index: BaseIndex[Any], owner: str, bank: LazyBank, memory: LazyMemory) -> None:
        self._index = index
        self._owner = owner
        self.bank = bank
        self._memory = memory
        self._synced: dict[str, str | None] | None = None
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def sync(self, *, show_progress: bool = False) -> frozenset[str]:
        """Make the bank hold what the index holds; compress only what changed, and return the nodes' ids.

        Raises:
            InputError: If the index does not keep a list of its nodes, or keeps their text in a vector store.
        """
        with self._lock:
            docstore = self._index.docstore
            # hashes alone: reading every node again for every question would take longer than the question
            state = {node_id: docstore.get_document_hash(node_id) for node_id in node_ids(self._index)}
            if state != self._synced:
                self._write(state, show_progress=show_progress)
            return frozenset(self._known)

    def close(self) -> None:
        """Close the bank; what was in a temporary one is compressed again when it is needed."""
        with self._lock:
            self.bank.close()
            self._synced = None
            self._known = set()

    def _write(self, state: dict[str, str | None], *, show_progress: bool) -> None:
        before, self._synced = self._synced, None  # should this fail, the next question tries again
        old = before or {}
        changed = [node_id for node_id, digest in state.items() if node_id not in old or old[node_id] != digest]
        owner = self._owner
        documents = to_documents(self._index.docstore.get_nodes(changed, raise_error=False), owner=owner)
        kept = {document.id for document in documents}
        self._known = {node_id for node_id in self._known if node_id in state}.difference(changed) | kept
        with self.bank.writing() as writable:
            # the first time, also what an earlier process left behind
            stored = [document.id for document in writable.documents()] if before is None else [*old, *changed]
            writable.delete_many(
                node_id
                for node_id in stored
                if node_id not in self._known and node_id in writable and owner_of(writable.metadata(node_id)) == owner
            )
            self._memory.get().ingest(writable, documents, defer=self.bank.defer, show_progress=show_progress)
        self._synced = state


class MirrorSource(BankSource):
    """An index, as it is when the question is asked.

    Args:
        mirror: The bank that follows the index.
        where: Which of its documents may be recalled.
        closes: Whether the mirror is this source's to close.
    """

    def __init__(self, mirror: Mirror, where: Filter | None, *, closes: bool) -> None:
        super().__init__(mirror.bank, where)
        self._mirror = mirror
        self._closes = closes

    def close(self) -> None:
        """Close the bank, unless the index keeps it."""
        if self._closes:
            self._mirror.close()

    def scope(self, proposed: Sequence[NodeWithScore]) -> Scope:
        """Follow the index, and return what it holds now."""
        ids = self._mirror.sync()
        scope = super().scope(proposed)
        held = AmongIds(ids)
        where = held if self._where is None else And((held, self._where))
        return Scope(scope.bank, where, scope.sources)


class RetrieverSource:
    """What a retriever of the host finds: it proposes, memory recalls among that."""

    def __init__(self, retriever: BaseRetriever, memory: LazyMemory, where: Filter | None) -> None:
        self._retriever = retriever
        self._where = where
        self._cache = TextCache(None, memory)

    def propose(self, query_bundle: QueryBundle) -> Sequence[NodeWithScore]:
        """Return what the host's retriever finds."""
        return self._retriever.retrieve(query_bundle)

    async def apropose(self, query_bundle: QueryBundle) -> Sequence[NodeWithScore]:
        """Return what the host's retriever finds."""
        return await self._retriever.aretrieve(query_bundle)

    def scope(self, proposed: Sequence[NodeWithScore]) -> Scope:
        """Return what was proposed, compressing what was never seen."""
        where = self._where
        kept = [node for node in proposed if where is None or where(node.node_id, node.metadata)]
        return Candidates.among(kept, self._cache).scope()

    def close(self) -> None:
        """Remove the cache."""
        self._cache.close()


def node_ids(index: BaseIndex[Any]) -> list[str]:
    """Return the ids of an index's nodes as it is now; the docstore that holds them may hold those of others too.

    Raises:
        InputError: If the index does not keep a list of its nodes, or keeps their text in a vector store.
    """
    struct, store = index.index_struct, index.storage_context.vector_store
    hint = "Use from_args(retriever=index.as_retriever())."
    if isinstance(struct, IndexDict):
        ids = list(struct.nodes_dict.values())
        if not ids and store.stores_text:
            raise InputError(
                f"Expected an index whose docstore holds its nodes, got one that keeps them in {type(store).__name__}.",
                f"Build it with store_nodes_override=True. {hint}",
            )
        if isinstance(store, SimpleVectorStore):
            # delete_nodes takes a node out of the vector store, and only if asked out of the list as well
            return [node_id for key, node_id in struct.nodes_dict.items() if key in store.data.embedding_dict]
        return ids
    if isinstance(struct, IndexList):
        return list(struct.nodes)
    raise InputError(f"Expected an index with a list of its nodes, got {type(index).__name__}.", hint)
