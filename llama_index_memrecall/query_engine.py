"""A query engine that answers out of compressed memory instead of retrieved text."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks.base import EventContext
from llama_index.core.indices import VectorStoreIndex
from llama_index.core.indices.base import BaseIndex
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent, RetrievalStartEvent
from llama_index.core.llms import LLM
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.prompts.mixin import PromptDictType, PromptMixinType
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle, QueryType
from llama_index.core.schema import Document as HostDocument
from llama_index.core.vector_stores.types import MetadataFilters
from memrecall_kv.errors import InputError
from memrecall_kv.lazy import LazyBank, LazyMemory

from llama_index_memrecall._answer import Asking
from llama_index_memrecall._convert import to_documents
from llama_index_memrecall._source import Source
from llama_index_memrecall._writer import TEXT_QA, HostWriter
from llama_index_memrecall.events import dispatcher

if TYPE_CHECKING:  # both import torch
    from memrecall_kv import MemoryBank, MemRecall


RESPONSE_MODES = (ResponseMode.COMPACT, ResponseMode.REFINE, ResponseMode.NO_TEXT, ResponseMode.CONTEXT_ONLY)


class EngineOptions(TypedDict, total=False):
    """What every way to make a `MemRecallQueryEngine` accepts."""

    memory: MemRecall | None
    name_or_path: str | None
    device: str
    streaming: bool
    top_k: int | None
    filters: MetadataFilters | None
    response_mode: ResponseMode | str
    llm: LLM | None
    text_qa_template: BasePromptTemplate | None
    callback_manager: CallbackManager | None


class MemRecallQueryEngine(BaseQueryEngine):
    """Answers questions about a memory bank, with its sources.

    Neither `Settings.llm` nor `Settings.embed_model` is ever read: the backbone that made the bank answers, or
    the LLM that is given.

    Args:
        bank: A bank, or the directory of one, which is opened for reading on first use.
        memory: What answers. Otherwise it is loaded on first use, by the next two arguments.
        name_or_path: What `MemRecall.from_pretrained` loads; `None` for its default.
        device: Where it is loaded.
        streaming: Whether `query` returns at the first token.
        top_k: Blocks to open per question, exactly; `None` leaves it to the memory's settings.
        filters: Which documents may be recalled, by their metadata.
        response_mode: "compact" and "refine" both answer block by block, which is what recall is; "no_text" answers
            nothing and gives the source nodes; "context_only" gives their text.
        llm: Writes the answer from what was recalled, instead of the memory's own reasoner.
        text_qa_template: What `llm` is asked; see `get_prompts`.
        callback_manager: For LlamaIndex's callbacks.

    Raises:
        InputError: If a filter or a response mode cannot be applied, or a template is given without `llm`.

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
        response_mode: ResponseMode | str = ResponseMode.COMPACT,
        llm: LLM | None = None,
        text_qa_template: BasePromptTemplate | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager)
        shared = LazyMemory(memory, name_or_path, device)
        self._source = Source(shared, LazyBank(bank, shared), LazyBank(None, shared), top_k=top_k, filters=filters)
        self._retriever: BaseRetriever | None = None
        self._streaming = streaming
        self._mode = _mode(response_mode)
        self._llm = llm
        self._template: BasePromptTemplate = TEXT_QA
        if text_qa_template is not None:
            self._update_prompts({"text_qa_template": text_qa_template})

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
        with engine._source.bank.writing() as writable:
            engine._source.memory.get().ingest(writable, documents, show_progress=show_progress)
            # what a node said before it became empty must not be recalled
            for node_id in sorted(silent):
                if node_id in writable:
                    writable.delete(node_id)
        return engine

    @classmethod
    def from_bank(cls, bank: MemoryBank | str | Path, **options: Unpack[EngineOptions]) -> Self:
        """Return an engine over a bank that was filled before, by any route; nothing is loaded yet."""
        return cls(bank, **options)

    @classmethod
    def from_index(
        cls,
        index: BaseIndex[Any],
        *,
        bank: MemoryBank | str | Path | None = None,
        show_progress: bool = False,
        **options: Unpack[EngineOptions],
    ) -> Self:
        """Return an engine over the nodes of an index of LlamaIndex's; arguments as for `from_documents`.

        Raises:
            InputError: If the index keeps its nodes' text in a vector store of its own, where no one can list them.
        """
        return cls.from_nodes(_nodes_of(index), bank=bank, show_progress=show_progress, **options)

    @classmethod
    def from_args(cls, retriever: BaseRetriever, **options: Unpack[EngineOptions]) -> Self:
        """Return an engine for which a retriever proposes nodes, among which the memory recalls.

        Nodes are compressed when they are first proposed and kept until `close`.

        Args:
            retriever: Any of LlamaIndex's; let it propose generously, `similarity_top_k=20` for example.
            **options: As for the class.
        """
        engine = cls(None, **options)
        engine._retriever = retriever
        return engine

    def close(self) -> None:
        """Close the bank if this engine opened it, and remove what was temporary."""
        self._source.close()

    @dispatcher.span
    def retrieve(self, query_bundle: QueryType) -> list[NodeWithScore]:
        """Return what is recalled for a question, in order of recall, without an answer."""
        bundle = _as_bundle(query_bundle)
        proposed = self._proposed(bundle)
        with self._retrieval(bundle) as nodes:
            nodes += self._source.recall(bundle.query_str, proposed)
        return nodes

    @dispatcher.span
    async def aretrieve(self, query_bundle: QueryType) -> list[NodeWithScore]:
        """Return what `retrieve` returns, without blocking the loop."""
        bundle = _as_bundle(query_bundle)
        proposed = await self._aproposed(bundle)
        with self._retrieval(bundle) as nodes:
            nodes += await asyncio.to_thread(self._source.recall, bundle.query_str, proposed)
        return nodes

    def synthesize(
        self,
        query_bundle: QueryType,
        nodes: Sequence[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """Return an answer from some nodes, among which the memory recalls.

        Args:
            query_bundle: The question.
            nodes: What may be recalled; compressed when first seen and kept until `close`.
            additional_source_nodes: Named as sources too, but not read.
        """
        asking = self._asking(_as_bundle(query_bundle), [node.node for node in nodes])
        response = asking.stream() if self._streaming else asking.respond()
        response.source_nodes.extend(additional_source_nodes or ())
        return response

    async def asynthesize(
        self,
        query_bundle: QueryType,
        nodes: Sequence[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """Return what `synthesize` returns, without blocking the loop."""
        asking = self._asking(_as_bundle(query_bundle), [node.node for node in nodes])
        response = await (asking.astream() if self._streaming else asking.arespond())
        response.source_nodes.extend(additional_source_nodes or ())
        return response

    def _proposed(self, query_bundle: QueryBundle) -> list[BaseNode] | None:
        if self._retriever is None:
            return None
        return [node.node for node in self._retriever.retrieve(query_bundle)]

    async def _aproposed(self, query_bundle: QueryBundle) -> list[BaseNode] | None:
        if self._retriever is None:
            return None
        return [node.node for node in await self._retriever.aretrieve(query_bundle)]

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
        response: RESPONSE_TYPE
        with self._querying(query_bundle) as event:
            asking = self._asking(query_bundle, self._proposed(query_bundle))
            response = asking.stream() if self._streaming else asking.respond()
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        response: RESPONSE_TYPE
        with self._querying(query_bundle) as event:
            asking = self._asking(query_bundle, await self._aproposed(query_bundle))
            response = await (asking.astream() if self._streaming else asking.arespond())
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    def _querying(self, query_bundle: QueryBundle) -> AbstractContextManager[EventContext]:
        return self.callback_manager.event(CBEventType.QUERY, payload={EventPayload.QUERY_STR: query_bundle.query_str})

    def _asking(self, query_bundle: QueryBundle, proposed: Sequence[BaseNode] | None) -> Asking:
        write = HostWriter(self._llm, self._template, streaming=self._streaming) if self._llm else None
        return Asking(
            self._source,
            query_bundle.query_str,
            mode=self._mode,
            proposed=proposed,
            write=write,
            callback_manager=self.callback_manager,
        )

    def _get_prompt_modules(self) -> PromptMixinType:
        return {}

    def _get_prompts(self) -> PromptDictType:
        return {"text_qa_template": self._template} if self._llm else {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        # LlamaIndex would ignore what it does not know, and the caller believe that it is used.
        unknown = sorted(set(prompts) - set(self._get_prompts()))
        if unknown:
            raise InputError(
                f"Expected {'text_qa_template alone' if self._llm else 'no prompts'}, got {', '.join(unknown)}.",
                "Only the prompt of an LLM given as llm= can be replaced: the reasoner's belong to its weights.",
            )
        self._template = prompts.get("text_qa_template", self._template)


def _mode(given: ResponseMode | str) -> ResponseMode:
    modes = [mode.value for mode in RESPONSE_MODES]
    if given not in modes:
        raise InputError(
            f"Expected a response_mode of {', '.join(modes)}, got {getattr(given, 'value', given)!r}.",
            "Take compact, or give the source nodes of no_text to a response synthesizer of LlamaIndex.",
        )
    return ResponseMode(given)


def _nodes_of(index: BaseIndex[Any]) -> list[BaseNode]:
    struct = index.index_struct
    ids = getattr(struct, "nodes_dict", None) or getattr(struct, "nodes", None) or getattr(struct, "all_nodes", None)
    listed = list((ids or {}).values()) if isinstance(ids, dict) else list(ids or ())
    nodes = index.docstore.get_nodes(listed, raise_error=False)
    if not nodes and (listed or not isinstance(index, VectorStoreIndex) or index.vector_store.stores_text):
        raise InputError(
            f"The {type(index).__name__} has no nodes in its docstore.",
            "Use from_args(retriever=index.as_retriever(...)), or from_nodes with the nodes themselves.",
        )
    return list(nodes)


def _as_bundle(query: QueryType) -> QueryBundle:
    return QueryBundle(query) if isinstance(query, str) else query
