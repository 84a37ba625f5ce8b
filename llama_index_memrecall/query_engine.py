"""A query engine that answers out of compressed memory instead of retrieved text."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks.base import EventContext
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent, RetrievalStartEvent
from llama_index.core.prompts.mixin import PromptDictType, PromptMixinType
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle, QueryType
from llama_index.core.schema import Document as HostDocument
from llama_index.core.vector_stores.types import MetadataFilters
from memrecall_kv.errors import InputError
from memrecall_kv.lazy import LazyBank, LazyMemory

from llama_index_memrecall._answer import Asking
from llama_index_memrecall._convert import to_documents, to_source_nodes, to_where
from llama_index_memrecall.events import dispatcher

if TYPE_CHECKING:  # both import torch
    from memrecall_kv import MemoryBank, MemRecall


class EngineOptions(TypedDict, total=False):
    """What every way to make a `MemRecallQueryEngine` accepts."""

    memory: MemRecall | None
    name_or_path: str | None
    device: str
    streaming: bool
    top_k: int | None
    filters: MetadataFilters | None
    callback_manager: CallbackManager | None


class MemRecallQueryEngine(BaseQueryEngine):
    """Answers questions about a memory bank, with its sources.

    Neither `Settings.llm` nor `Settings.embed_model` is ever read: the backbone that made the bank answers.

    Args:
        bank: A bank, or the directory of one, which is opened for reading on first use.
        memory: What answers. Otherwise it is loaded on first use, by the next two arguments.
        name_or_path: What `MemRecall.from_pretrained` loads; `None` for its default.
        device: Where it is loaded.
        streaming: Whether `query` returns at the first token.
        top_k: Blocks to open per question, exactly; `None` leaves it to the memory's settings.
        filters: Which documents may be recalled, by their metadata: `EQ` and `IN`, combined by `AND`.
        callback_manager: For LlamaIndex's callbacks.

    Raises:
        InputError: If a filter is of another kind.

    Example:
        ```python
        engine = MemRecallQueryEngine.from_documents(documents)
        response = engine.query("Who approves travel?")
        ```
    """

    def __init__(
        self,
        bank: MemoryBank | str | Path | None,
        *,
        memory: MemRecall | None = None,
        name_or_path: str | None = None,
        device: str = "auto",
        streaming: bool = False,
        top_k: int | None = None,
        filters: MetadataFilters | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager)
        self._memory = LazyMemory(memory, name_or_path, device)
        self._bank = LazyBank(bank, self._memory)
        self._streaming = streaming
        self._top_k = top_k
        self._where = to_where(filters)

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[HostDocument],
        *,
        bank: MemoryBank | str | Path | None = None,
        show_progress: bool = False,
        **options: Unpack[EngineOptions],
    ) -> Self:
        """Return an engine over documents, compressing those the bank does not hold yet.

        Source nodes are the recalled chunks; their `ref_doc_id` is the document's id.

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
        **options: Unpack[EngineOptions],
    ) -> Self:
        """Return an engine over nodes that were cut elsewhere; arguments as for `from_documents`.

        Source nodes are these nodes again, whole and with their ids. A node longer than a chunk of the
        core has several blocks, and `top_k` counts blocks.

        Raises:
            InputError: If two different nodes share an id.
        """
        engine = cls(bank, **options)
        documents = to_documents(nodes)
        silent = {node.node_id for node in nodes} - {document.id for document in documents}
        with engine._bank.writing() as writable:
            engine._memory.get().ingest(writable, documents, show_progress=show_progress)
            # what a node said before it became empty must not be recalled
            for node_id in sorted(silent):
                if node_id in writable:
                    writable.delete(node_id)
        return engine

    @classmethod
    def from_bank(cls, bank: MemoryBank | str | Path, **options: Unpack[EngineOptions]) -> Self:
        """Return an engine over a bank that was filled before, by any route; nothing is loaded yet."""
        return cls(bank, **options)

    def close(self) -> None:
        """Close the bank if this engine opened it, and remove it if it was temporary."""
        self._bank.close()

    @dispatcher.span
    def retrieve(self, query_bundle: QueryType) -> list[NodeWithScore]:
        """Return what is recalled for a question, in order of recall, without an answer."""
        bundle = _as_bundle(query_bundle)
        with self._retrieval(bundle) as nodes:
            nodes += self._recall(bundle)
        return nodes

    @dispatcher.span
    async def aretrieve(self, query_bundle: QueryType) -> list[NodeWithScore]:
        """Return what `retrieve` returns, without blocking the loop."""
        bundle = _as_bundle(query_bundle)
        with self._retrieval(bundle) as nodes:
            nodes += await asyncio.to_thread(self._recall, bundle)
        return nodes

    def _recall(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        bank = self._bank.get()
        memory = self._memory.get()
        return to_source_nodes(memory.recall(bank, query_bundle.query_str, top_k=self._top_k, where=self._where), bank)

    @contextlib.contextmanager
    def _retrieval(self, query_bundle: QueryBundle) -> Iterator[list[NodeWithScore]]:
        """Tell LlamaIndex of a retrieval around the block that fills the yielded list."""
        nodes: list[NodeWithScore] = []
        dispatcher.event(RetrievalStartEvent(str_or_query_bundle=query_bundle))
        payload: dict[str, Any] = {EventPayload.QUERY_STR: query_bundle.query_str}
        with (
            self.callback_manager.as_trace("query"),
            self.callback_manager.event(CBEventType.RETRIEVE, payload=payload) as event,
        ):
            yield nodes
            event.on_end(payload={EventPayload.NODES: nodes})
        dispatcher.event(RetrievalEndEvent(str_or_query_bundle=query_bundle, nodes=nodes))

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        asking = self._asking(query_bundle)
        response: RESPONSE_TYPE
        with self._querying(query_bundle) as event:
            response = asking.stream() if self._streaming else asking.respond()
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        asking = self._asking(query_bundle)
        response: RESPONSE_TYPE
        with self._querying(query_bundle) as event:
            response = await (asking.astream() if self._streaming else asking.arespond())
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    def _querying(self, query_bundle: QueryBundle) -> AbstractContextManager[EventContext]:
        return self.callback_manager.event(CBEventType.QUERY, payload={EventPayload.QUERY_STR: query_bundle.query_str})

    def _asking(self, query_bundle: QueryBundle) -> Asking:
        return Asking(self._memory, self._bank, query_bundle.query_str, top_k=self._top_k, where=self._where)

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        # LlamaIndex would ignore them, and the caller believe that they are used.
        if prompts:
            raise InputError(
                f"Expected no prompts, got {', '.join(sorted(prompts))}.",
                "MemRecall's prompts cannot be replaced: leave them out.",
            )


def _as_bundle(query: QueryType) -> QueryBundle:
    return QueryBundle(query) if isinstance(query, str) else query
