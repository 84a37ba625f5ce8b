"""A query engine that answers out of compressed memory instead of retrieved text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.callbacks.base import EventContext
from llama_index.core.indices.base import BaseIndex
from llama_index.core.llms import LLM
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.prompts.mixin import PromptDictType, PromptMixinType
from llama_index.core.response_synthesizers import ResponseMode
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle, QueryType
from llama_index.core.schema import Document as HostDocument
from memrecall_kv.errors import InputError
from memrecall_kv.hosts.documents import TextCache

from llama_index_memrecall._answer import Asking
from llama_index_memrecall._candidates import Candidates
from llama_index_memrecall._host_llm import checked_mode, make_synthesizer
from llama_index_memrecall._scope import Scope
from llama_index_memrecall.events import dispatcher
from llama_index_memrecall.retriever import MemRecallRetriever, RecallOptions

if TYPE_CHECKING:  # it imports torch
    from memrecall_kv import MemoryBank


class EngineOptions(RecallOptions, total=False):
    """What every way to make a `MemRecallQueryEngine` accepts."""

    streaming: bool
    response_mode: ResponseMode | str
    llm: LLM | None
    text_qa_template: BasePromptTemplate | None
    refine_template: BasePromptTemplate | None


class FillOptions(EngineOptions, total=False):
    """What the ways to make one that fill a bank accept besides; see `MemRecallRetriever.from_documents`."""

    bank: MemoryBank | str | Path | None
    show_progress: bool


class MemRecallQueryEngine(BaseQueryEngine):
    """Answers questions about a memory bank, with its sources.

    Neither `Settings.llm` nor `Settings.embed_model` is ever read. The backbone that made the bank answers,
    or the `llm` that is given.

    Args:
        bank: A bank, or the directory of one, which is opened for reading on first use; or a
            `MemRecallRetriever`, and then none of the retriever's own options.
        streaming: Whether `query` returns at the first token.
        response_mode: `compact` and `refine` write an answer (without `llm` they are the same: memory is
            read block by block anyway), `no_text` only recalls, `context_only` answers with the recalled text.
        llm: Writes the answer from the notes and the recalled text; `None` for the local reasoner.
        text_qa_template: What `llm` is asked.
        refine_template: What `llm` is asked to improve its answer.
        **options: As for `MemRecallRetriever`: `memory`, `name_or_path`, `device`, `top_k`, `filters`,
            `callback_manager`, `object_map`.

    Raises:
        InputError: If the response mode is another one, or an option cannot be used as given.

    Example:
        ```python
        engine = MemRecallQueryEngine.from_documents(documents)
        response = engine.query("Who approves travel?")
        ```
    """

    def __init__(
        self,
        bank: MemRecallRetriever | MemoryBank | str | Path | None,
        *,
        streaming: bool = False,
        response_mode: ResponseMode | str = ResponseMode.COMPACT,
        llm: LLM | None = None,
        text_qa_template: BasePromptTemplate | None = None,
        refine_template: BasePromptTemplate | None = None,
        **options: Unpack[RecallOptions],
    ) -> None:
        _refuse_unknown(type(self), options, RecallOptions)
        if isinstance(bank, MemRecallRetriever) and options:
            raise InputError(
                f"Expected no further options beside a retriever, got {', '.join(sorted(options))}.",
                "Give them to the retriever.",
            )
        self._closes_retriever = not isinstance(bank, MemRecallRetriever)
        self._retriever = bank if isinstance(bank, MemRecallRetriever) else MemRecallRetriever(bank, **options)
        super().__init__(self._retriever.callback_manager)
        self._streaming = streaming
        self._mode = checked_mode(response_mode)
        self._synthesizer = make_synthesizer(
            llm,
            self._mode,
            streaming=streaming,
            callback_manager=self.callback_manager,
            text_qa_template=text_qa_template,
            refine_template=refine_template,
        )
        # for nodes that are handed to `synthesize`
        self._given = TextCache(None, self._retriever.lazy_memory)

    @classmethod
    def from_documents(cls, documents: Sequence[HostDocument], **options: Unpack[FillOptions]) -> Self:
        """Return an engine over documents; see `MemRecallRetriever.from_documents`."""
        return cls._made(partial(MemRecallRetriever.from_documents, documents), options)

    @classmethod
    def from_nodes(cls, nodes: Sequence[BaseNode], **options: Unpack[FillOptions]) -> Self:
        """Return an engine over nodes that were cut elsewhere; see `MemRecallRetriever.from_nodes`."""
        return cls._made(partial(MemRecallRetriever.from_nodes, nodes), options)

    @classmethod
    def from_bank(cls, bank: MemoryBank | str | Path, **options: Unpack[EngineOptions]) -> Self:
        """Return an engine over a bank that was filled before, by any route; nothing is loaded yet."""
        return cls(bank, **options)

    @classmethod
    def from_index(cls, index: BaseIndex[Any], **options: Unpack[FillOptions]) -> Self:
        """Return an engine over the nodes of an index, which it follows; see `MemRecallRetriever.from_index`."""
        return cls._made(partial(MemRecallRetriever.from_index, index), options)

    @classmethod
    def from_args(cls, retriever: BaseRetriever, **options: Unpack[EngineOptions]) -> Self:
        """Return an engine that recalls among what a retriever finds; see `MemRecallRetriever.from_args`."""
        if isinstance(retriever, MemRecallRetriever):
            return cls(retriever, **options)
        return cls._made(partial(MemRecallRetriever.from_args, retriever), options)

    @classmethod
    def _made(cls, make: Callable[..., MemRecallRetriever], options: EngineOptions | FillOptions) -> Self:
        """Return an engine over the retriever that `make` makes with its share of the options."""
        recall, answer = _split(cls, options)
        engine = cls(make(**recall), **answer)
        engine._closes_retriever = True
        return engine

    def close(self) -> None:
        """Close the bank if this engine opened it, and remove what was temporary; a retriever that was given stays."""
        if self._closes_retriever:
            self._retriever.close()
        self._given.close()

    @property
    def retriever(self) -> MemRecallRetriever:
        """What recalls for this engine."""
        return self._retriever

    @dispatcher.span
    def retrieve(self, query_bundle: QueryType) -> list[NodeWithScore]:
        """Return what is recalled for a question, in order of recall, without an answer."""
        return self._retriever.retrieve(query_bundle)

    @dispatcher.span
    async def aretrieve(self, query_bundle: QueryType) -> list[NodeWithScore]:
        """Return what `retrieve` returns, without blocking the loop."""
        return await self._retriever.aretrieve(query_bundle)

    @dispatcher.span
    def synthesize(
        self,
        query_bundle: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """Return an answer from nodes that were found elsewhere.

        With an `llm` it reads all of them; the local reasoner reads, and names as sources, those the gate opens.
        """
        if self._synthesizer is not None:
            return self._synthesizer.synthesize(query_bundle, nodes, additional_source_nodes)
        asking = self._asking_of(query_bundle, nodes, additional_source_nodes)
        return asking.stream() if self._streaming else asking.respond()

    @dispatcher.span
    async def asynthesize(
        self,
        query_bundle: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """Return what `synthesize` returns, without blocking the loop."""
        if self._synthesizer is not None:
            return await self._synthesizer.asynthesize(query_bundle, nodes, additional_source_nodes)
        asking = self._asking_of(query_bundle, nodes, additional_source_nodes)
        return await (asking.astream() if self._streaming else asking.arespond())

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        response: RESPONSE_TYPE
        with self._querying(query_bundle) as event:
            asking = self._asking(query_bundle, self._retriever.propose(query_bundle))
            response = asking.stream() if self._streaming else asking.respond()
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        response: RESPONSE_TYPE
        with self._querying(query_bundle) as event:
            asking = self._asking(query_bundle, await self._retriever.apropose(query_bundle))
            response = await (asking.astream() if self._streaming else asking.arespond())
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    def _querying(self, query_bundle: QueryBundle) -> AbstractContextManager[EventContext]:
        return self.callback_manager.event(CBEventType.QUERY, payload={EventPayload.QUERY_STR: query_bundle.query_str})

    def _asking(
        self, query_bundle: QueryBundle, scope: Callable[[], Scope], additional: Sequence[NodeWithScore] = ()
    ) -> Asking:
        return Asking(
            self._retriever.lazy_memory,
            scope,
            query_bundle,
            top_k=self._retriever.top_k,
            mode=self._mode,
            synthesizer=self._synthesizer,
            callback_manager=self.callback_manager,
            additional=additional,
        )

    def _asking_of(
        self, query: QueryType, nodes: Sequence[NodeWithScore], additional: Sequence[NodeWithScore] | None
    ) -> Asking:
        def scope() -> Scope:
            return Candidates.among(nodes, self._given).scope()

        return self._asking(_as_bundle(query), scope, additional or ())

    def _get_prompt_modules(self) -> PromptMixinType:
        return {} if self._synthesizer is None else {"response_synthesizer": self._synthesizer}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        # LlamaIndex would ignore them, and the caller believe that they are used.
        unknown = sorted(set(prompts) - set(self.get_prompts()))
        if unknown:
            raise InputError(
                f"Expected prompts out of {sorted(self.get_prompts())}, got {', '.join(unknown)}.",
                "Pass llm= to use prompts of your own: the local reasoner's belong to how it was trained.",
            )


def _as_bundle(query: QueryType) -> QueryBundle:
    return QueryBundle(query) if isinstance(query, str) else query


def _split(engine: type, options: EngineOptions | FillOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options for recall and those for the answer, refusing what is neither before anything is done."""
    _refuse_unknown(engine, options, FillOptions)
    checked_mode(options.get("response_mode", ResponseMode.COMPACT))
    ours = set(EngineOptions.__annotations__) - set(RecallOptions.__annotations__)
    recall = {name: value for name, value in options.items() if name not in ours}
    answer = {name: value for name, value in options.items() if name in ours}
    return recall, answer


def _refuse_unknown(engine: type, given: Iterable[str], known: type) -> None:
    takes = sorted(known.__annotations__)
    unknown = sorted(set(given).difference(takes))
    if unknown:
        raise TypeError(
            f"{engine.__name__} got an unexpected keyword argument {unknown[0]!r}; it takes {', '.join(takes)}. "
            "For other options of LlamaIndex's, such as node_postprocessors, put MemRecallRetriever into a "
            "RetrieverQueryEngine."
        )
