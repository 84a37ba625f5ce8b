"""Where a question is asked: a bank, a bank that follows an index, or whatever a host's retriever finds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.data_structs import IndexDict, IndexList
from llama_index.core.indices.base import BaseIndex
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle
from llama_index.core.storage.docstore.types import BaseDocumentStore
from llama_index.core.vector_stores.simple import SimpleVectorStore
from memrecall_kv.errors import InputError
from memrecall_kv.filters import AmongIds, Filter, all_of
from memrecall_kv.hosts.documents import TextCache
from memrecall_kv.hosts.lazy import LazyBank, LazyMemory
from memrecall_kv.hosts.served import ServedBank

from llama_index_memrecall._candidates import Candidates
from llama_index_memrecall._convert import known_to_filters, to_source_nodes, unit_of
from llama_index_memrecall._docstore import read_nodes
from llama_index_memrecall._holding import Holding
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
        return self._scope(self._where)

    def close(self) -> None:
        """Close the bank if it was opened here."""
        self._bank.close()

    def _scope(self, where: Filter | None) -> Scope:
        opened = self._bank.get()
        bank = opened.for_a_question() if isinstance(opened, ServedBank) else opened
        return Scope(bank, where, lambda recalls: to_source_nodes(recalls, bank), unit_of)


class IndexSource(BankSource):
    """What an index of this package lists when the question is asked: it has written its bank itself.

    Args:
        index: The index.
        holding: What it keeps in its bank.
        fill: Makes the bank again if it is lost.
        where: Which of it may be recalled.
    """

    def __init__(self, index: BaseIndex[Any], holding: Holding, fill: Callable[[], None], where: Filter | None) -> None:
        super().__init__(holding.bank, where)
        self._index = index
        self._fill = fill

    def scope(self, proposed: Sequence[NodeWithScore]) -> Scope:
        """Return what the index lists; its docstore is not read, unless the bank is lost."""
        self._fill()
        return self._scope(_among(self._index.index_struct.nodes, self._where))

    def close(self) -> None:
        """Do nothing: the bank is the index's."""


class Mirror:
    """Brings a bank to what an index of the host holds, and out of it what the index was seen to lose.

    Args:
        index: The index.
        holding: What it keeps in the bank.
    """

    def __init__(self, index: BaseIndex[Any], holding: Holding) -> None:
        self._index = index
        self.holding = holding
        self._synced: dict[str, str | None] | None = None
        self._lock = threading.Lock()

    def claim(self, *, show_progress: bool = False) -> None:
        """Make the bank this index's, and store its nodes; raises as `sync` and `Holding.claim` do."""
        with self._lock:
            state = self._state()
            self.holding.claim(self._read(list(state), len(state)), show_progress=show_progress)
            self._synced = state

    def sync(self) -> list[str]:
        """Compress what is new, delete what was lost since, and return the nodes' ids.

        Raises:
            BankError: If another index was built into the bank.
            InputError: If the index does not keep a list of its nodes, or keeps their text in a vector store.
        """
        with self._lock:
            state, old = self._state(), self._synced or {}
            self.holding.confirm(list(old or state))
            if state != self._synced:
                self._synced = None  # should this fail, the next question tries again
                changed = [name for name, digest in state.items() if name not in old or old[name] != digest]
                nodes = self._read(changed, len(state))
                self.holding.put(nodes)
                self.holding.drop({*old, *changed}.difference(state) | set(changed).difference(_ids(nodes)))
                self._synced = state
            return list(state)

    def _state(self) -> dict[str, str | None]:
        return hashes(self._index.docstore, node_ids(self._index))

    def _read(self, ids: Sequence[str], size: int) -> list[BaseNode]:
        return read_nodes(self._index.docstore, ids, size)

    def close(self) -> None:
        """Close the bank; what was in a temporary one is compressed again when it is needed."""
        with self._lock:
            self.holding.close()
            self._synced = None


class MirrorSource(BankSource):
    """An index of the host, as it is when the question is asked.

    Args:
        mirror: Follows the index.
        where: Which of its nodes may be recalled.
    """

    def __init__(self, mirror: Mirror, where: Filter | None) -> None:
        super().__init__(mirror.holding.bank, where)
        self._mirror = mirror

    def close(self) -> None:
        """Close the bank."""
        self._mirror.close()

    def scope(self, proposed: Sequence[NodeWithScore]) -> Scope:
        """Follow the index, and return what it holds now."""
        return self._scope(_among(self._mirror.sync(), self._where))


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
        kept = [node for node in proposed if where is None or where(node.node_id, known_to_filters(node.node))]
        return Candidates.among(kept, self._cache).scope()

    def close(self) -> None:
        """Remove the cache."""
        self._cache.close()


def _ids(nodes: Iterable[BaseNode]) -> list[str]:
    return [node.node_id for node in nodes]


def _among(ids: Sequence[str], where: Filter | None) -> Filter:
    held = AmongIds(frozenset(ids))
    return held if where is None else all_of([held, where])


def hashes(docstore: BaseDocumentStore, ids: Sequence[str]) -> dict[str, str | None]:
    """Return the hashes of nodes, read from a docstore at once: it may be far away.

    LlamaIndex lists them by hash, and of nodes that say the same only one: the others are looked up.
    """
    listed = {node_id: digest for digest, node_id in docstore.get_all_document_hashes().items()} if ids else {}
    return {node_id: listed.get(node_id) or docstore.get_document_hash(node_id) for node_id in ids}


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
