"""A retriever that recalls: nodes in the order the gate opens them, with what was learned on the way in mind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.indices.base import BaseIndex
from llama_index.core.schema import BaseNode, IndexNode, NodeWithScore, QueryBundle
from llama_index.core.schema import Document as HostDocument
from llama_index.core.settings import Settings
from llama_index.core.vector_stores.types import MetadataFilters
from memrecall_kv.config import check_count
from memrecall_kv.errors import InputError
from memrecall_kv.filters import Filter
from memrecall_kv.hosts.arguments import OwnNames
from memrecall_kv.hosts.lazy import LazyBank, LazyMemory
from memrecall_kv.hosts.served import at_url, settled
from memrecall_kv.hosts.streaming import gathered

from llama_index_memrecall._closing import Closing
from llama_index_memrecall._convert import is_of_nobody, to_documents
from llama_index_memrecall._filters import narrowed
from llama_index_memrecall._holding import Holding
from llama_index_memrecall._sources import BankSource, Mirror, MirrorSource, RetrieverSource, Source
from llama_index_memrecall._walk import Found
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
    node_ids: Sequence[str] | None
    doc_ids: Sequence[str] | None
    verbose: bool
    callback_manager: CallbackManager | None
    object_map: Mapping[str, Any] | None
    defer: bool


RETRIEVER_OPTIONS = ("top_k", "similarity_top_k", "filters", "node_ids", "doc_ids", "verbose")
"""What `MemRecallIndex.as_retriever` takes."""


class MemRecallRetriever(OwnNames, Closing, BaseRetriever):
    """Returns what is recalled for a question, in order of recall.

    Args:
        bank: A bank, or the directory of one, which is opened for reading on first use; or the URL of a served one.
        memory: What recalls. Otherwise it is loaded on first use, by the next two arguments.
        name_or_path: What `MemRecall.from_pretrained` loads; `None` for its default.
        device: Where it is loaded.
        top_k: Nodes to return per question, exactly, as long as there are as many; `None` leaves it to the memory's
            settings, which count blocks.
        filters: Which documents may be recalled, by their metadata.
        node_ids: Only these nodes may be recalled.
        doc_ids: Only these documents, and nodes cut from them, may be recalled.
        verbose: Whether to print what index nodes lead to.
        callback_manager: For LlamaIndex's callbacks; `None` for that of `Settings`.
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
        node_ids: Sequence[str] | None = None,
        doc_ids: Sequence[str] | None = None,
        verbose: bool = False,
        callback_manager: CallbackManager | None = None,
        object_map: Mapping[str, Any] | None = None,
        defer: bool = False,
    ) -> None:
        super().__init__(
            callback_manager or Settings.callback_manager, object_map=dict(object_map or {}), verbose=verbose
        )
        self.top_k = check_count("top_k", top_k)
        memory, bank = settled(memory, bank)
        self.lazy_memory = LazyMemory(memory, name_or_path, device)
        self._bank = LazyBank(bank, self.lazy_memory, defer=defer)
        self._where = narrowed(filters, node_ids, doc_ids)
        self._kept: list[Found] | None = None
        self._expects_answer = False
        self._source: Source = BankSource(self._bank, self._where)

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[HostDocument],
        *,
        bank: MemoryBank | str | Path | None = None,
        replace: bool = False,
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
            replace: Whether what earlier calls of `from_documents` and `from_nodes` put there, and what is not among
                the documents any more, is deleted. What came there by other routes stays in either case.
            show_progress: Whether to draw a progress bar.
            **options: As for the class.

        Raises:
            InputError: If two different documents share an id, or there are none to replace those in the bank.
        """
        return cls.from_nodes(documents, bank=bank, replace=replace, show_progress=show_progress, **options)

    @classmethod
    def from_nodes(
        cls,
        nodes: Sequence[BaseNode],
        *,
        bank: MemoryBank | str | Path | None = None,
        replace: bool = False,
        show_progress: bool = False,
        **options: Unpack[RecallOptions],
    ) -> Self:
        """Return a retriever over nodes that were cut elsewhere; arguments as for `from_documents`.

        What it returns are these nodes again, whole and with their ids. What an `IndexNode` stands for is followed.

        Raises:
            InputError: If two different nodes share an id, or there are none to replace those in the bank.
        """
        plain, objects = _without_objects(nodes)
        options["object_map"] = {**objects, **(options.get("object_map") or {})}
        retriever = cls(bank, **options)
        documents = to_documents(plain)
        kept, given = {document.id for document in documents}, {node.node_id for node in nodes}
        with retriever._bank.writing() as writable:
            earlier = set(writable.ids(lambda _, metadata: is_of_nobody(metadata))) if replace else set()
            if earlier and not nodes:
                raise InputError(
                    f"Expected documents to replace the {len(earlier)} in {writable.path}, got none.",
                    "Use from_bank for a bank as it is, or leave replace=True out.",
                )
            retriever.lazy_memory.get().ingest(
                writable, documents, defer=retriever._bank.defer, show_progress=show_progress
            )
            # a node that became empty is not to be recalled by what it said before
            writable.delete_many(name for name in sorted((earlier | given) - kept) if name in writable)
        return retriever

    @classmethod
    def from_bank(cls, bank: MemoryBank | str | Path, **options: Unpack[RecallOptions]) -> Self:
        """Return a retriever over a bank that was filled before, by any route; nothing is loaded yet."""
        return cls(bank, **options)

    @classmethod
    def from_url(
        cls,
        url: str,
        bank: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | None = None,
        **options: Unpack[RecallOptions],
    ) -> Self:
        """Return a retriever over a bank that `memrecall-kv serve` serves; no model is loaded here.

        Args:
            url: Of the server, or of the bank.
            bank: The bank's name on the server.
            api_key: For a server with keys; `None` for that in `MEMRECALL_API_KEY`.
            timeout: Seconds to wait for the next sign of the server's.
            **options: As for the class.

        Raises:
            InputError: If URL or name is none.
        """
        _, served = at_url(url, bank, api_key, timeout)
        return cls(served, **options)  # type: ignore[arg-type]  # what a retriever asks of a bank is there

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
        compressed, and what was deleted from the index since is deleted. What was deleted while nobody followed
        stays in the bank, and is not recalled here. A bank is one index's: what another one left there is replaced.

        Args:
            index: A `VectorStoreIndex` or another index whose docstore holds its nodes.
            bank: As for `from_documents`; one of its own for each index.
            show_progress: Whether to draw a progress bar.
            **options: As for the class.

        Raises:
            InputError: If the index keeps its nodes elsewhere.
        """
        retriever = cls(bank, **options)
        mirror = Mirror(index, Holding(index.index_id, retriever._bank, retriever.lazy_memory))
        mirror.claim(show_progress=show_progress)
        return retriever._over(partial(MirrorSource, mirror), retriever.lazy_memory)

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
        return recaller._over(partial(RetrieverSource, retriever, recaller.lazy_memory), recaller.lazy_memory)

    def _over(self, source: Callable[[Filter | None], Source], memory: LazyMemory) -> Self:
        """Return this retriever over another source, recalling with another memory."""
        self._source, self.lazy_memory = source(self._where), memory
        return self

    def keeping(self, kept: list[Found], *, expects_answer: bool) -> Self:
        """Return a copy that puts all it finds into a list, for who is to answer from it.

        Args:
            kept: The list.
            expects_answer: Whether the memory itself is going to answer.
        """
        keeper = copy(self)
        keeper._kept, keeper._expects_answer = kept, expects_answer
        return keeper

    def close(self) -> None:
        """Close the bank if it was opened here, and remove it if it was temporary."""
        self._source.close()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        *_, found = self._steps(query_bundle, self._source.propose(query_bundle))
        return [] if found is None else found.sources()

    @dispatcher.span
    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        proposed = await self._source.apropose(query_bundle)
        (found,) = await gathered(lambda: self._steps(query_bundle, proposed))
        return await asyncio.to_thread(found.sources)

    def _steps(
        self, query_bundle: QueryBundle, proposed: Sequence[NodeWithScore]
    ) -> Generator[Found | None, None, None]:
        # Inside the generator, so that a model is loaded in the thread that runs it.
        scope, memory = self._source.scope(proposed), self.lazy_memory.get()
        search = "\n".join(query_bundle.embedding_strs) if query_bundle.custom_embedding_strs else None
        found = Found.begin(memory, scope, query_bundle.query_str, top_k=self.top_k, search=search)
        if self._expects_answer:
            found.expect_answer()
        for _ in found.events():
            yield None
        if self._kept is not None:
            self._kept.append(found)
        yield found


def _without_objects(nodes: Sequence[BaseNode]) -> tuple[list[BaseNode], dict[str, Any]]:
    """Return nodes that can be stored, and what index nodes among them stand for, by `index_id`."""
    objects = {node.index_id: node.obj for node in nodes if isinstance(node, IndexNode) and node.obj is not None}
    plain = [
        node.model_copy(update={"obj": None}) if isinstance(node, IndexNode) and node.obj is not None else node
        for node in nodes
    ]
    return plain, objects
