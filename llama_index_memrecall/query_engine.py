"""A query engine that answers out of compressed memory instead of retrieved text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.callbacks.base import EventContext
from llama_index.core.indices.base import BaseIndex
from llama_index.core.llms import LLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import BaseSynthesizer, ResponseMode
from llama_index.core.schema import BaseNode, NodeWithScore, QueryBundle, QueryType
from llama_index.core.schema import Document as HostDocument
from memrecall_kv.errors import InputError
from memrecall_kv.hosts.arguments import OwnNames, refuse_names_of_others

from llama_index_memrecall._closing import Closing
from llama_index_memrecall._host_llm import WRITES_NOTHING, checked_llm, checked_mode, make_synthesizer
from llama_index_memrecall._reasoner import ReasonerSynthesizer
from llama_index_memrecall._response import Ending
from llama_index_memrecall._walk import Found
from llama_index_memrecall._writer import Writer
from llama_index_memrecall.events import dispatcher
from llama_index_memrecall.retriever import MemRecallRetriever, RecallOptions

if TYPE_CHECKING:  # it imports torch
    from memrecall_kv import MemoryBank


class EngineOptions(RecallOptions, total=False):
    """What every way to make a `MemRecallQueryEngine` accepts."""

    streaming: bool
    response_mode: ResponseMode | str
    llm: LLM | None
    gate_veto: bool | None
    node_postprocessors: Sequence[BaseNodePostprocessor] | None
    response_synthesizer: BaseSynthesizer | None
    text_qa_template: BasePromptTemplate | None
    refine_template: BasePromptTemplate | None
    summary_template: BasePromptTemplate | None
    simple_template: BasePromptTemplate | None
    output_cls: type[BaseModel] | None
    use_async: bool


_WRITING_OPTIONS = (
    "text_qa_template",
    "refine_template",
    "summary_template",
    "simple_template",
    "output_cls",
    "use_async",
)
"""What LlamaIndex's `get_response_synthesizer` takes."""

ENGINE_OPTIONS = tuple(sorted(set(EngineOptions.__annotations__) - set(RecallOptions.__annotations__)))
"""What `MemRecallQueryEngine` takes beside what recalls."""


class FillOptions(EngineOptions, total=False):
    """What the ways to make one that fill a bank accept besides; see `MemRecallRetriever.from_documents`."""

    bank: MemoryBank | str | Path | None
    show_progress: bool


class DocumentOptions(FillOptions, total=False):
    """What the ways to make one of documents or nodes accept besides; see `MemRecallRetriever.from_documents`."""

    replace: bool


class MemRecallQueryEngine(OwnNames, Closing, RetrieverQueryEngine):
    """Answers questions about a memory bank, with its sources: LlamaIndex's own query engine around our retriever.

    Neither `Settings.llm` nor `Settings.embed_model` is ever read. The backbone that made the bank answers,
    or the `llm` that is given.

    Args:
        bank: A bank, or the directory of one, which is opened for reading on first use; or a
            `MemRecallRetriever`, and then none of the retriever's own options.
        streaming: Whether `query` returns at the first token.
        response_mode: One of LlamaIndex's. Without `llm`, `compact` and `refine` are the reasoner's answer, and what
            else is to be written the backbone writes, through `BackboneLLM`.
        llm: Writes the answer from the notes and the recalled nodes' text; `None` for the local reasoner.
        gate_veto: Whether the answer is "not found", and nobody asked, where the gate believes in nothing it opened;
            `None`: only if `top_k` is not given. The local reasoner never answers from what the gate does not believe.
        node_postprocessors: Change what was recalled before it is answered from.
        response_synthesizer: Writes the answer instead of `llm`, from the recalled nodes alone.
        **options: As for `MemRecallRetriever`: `memory`, `name_or_path`, `device`, `top_k`, `filters`, `node_ids`,
            `doc_ids`, `callback_manager`, `object_map`. As LlamaIndex's engine: `verbose`, `use_async`, `output_cls`,
            and `text_qa_template`, `refine_template`, `summary_template` and `simple_template`, which need a model
            that reads by them.

    Raises:
        InputError: If the response mode is unknown, or an option cannot be used as given.

    Example:
        ```python
        with MemRecallQueryEngine.from_documents(documents) as engine:
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
        gate_veto: bool | None = None,
        node_postprocessors: Sequence[BaseNodePostprocessor] | None = None,
        response_synthesizer: BaseSynthesizer | None = None,
        **options: Any,
    ) -> None:
        _refuse_unknown(type(self), options, EngineOptions)
        writing = {name: options.pop(name) for name in _WRITING_OPTIONS if name in options}
        if options.get("verbose"):
            writing["verbose"] = True
        self._closes_retriever = not isinstance(bank, MemRecallRetriever)
        retriever = _retriever(bank, options)
        mode, manager = checked_mode(response_mode), retriever.callback_manager
        if response_synthesizer is None:
            response_synthesizer = make_synthesizer(
                retriever.lazy_memory,
                checked_llm(llm),
                mode,
                top_k=retriever.top_k,
                streaming=streaming,
                callback_manager=manager,
                options={name: value for name, value in writing.items() if value is not None},
            )
            takes_notes = llm is not None and mode not in WRITES_NOTHING
        else:
            takes_notes = False
        super().__init__(retriever, response_synthesizer, list(node_postprocessors or ()), manager)
        self._writer = Writer(
            retriever.lazy_memory,
            response_synthesizer,
            mode,
            streaming=streaming,
            takes_notes=takes_notes,
            gate_veto=gate_veto,
        )

    @classmethod
    def from_documents(cls, documents: Sequence[HostDocument], **options: Unpack[DocumentOptions]) -> Self:
        """Return an engine over documents; see `MemRecallRetriever.from_documents`."""
        return cls._made(partial(MemRecallRetriever.from_documents, documents), options, DocumentOptions)

    @classmethod
    def from_nodes(cls, nodes: Sequence[BaseNode], **options: Unpack[DocumentOptions]) -> Self:
        """Return an engine over nodes that were cut elsewhere; see `MemRecallRetriever.from_nodes`."""
        return cls._made(partial(MemRecallRetriever.from_nodes, nodes), options, DocumentOptions)

    @classmethod
    def from_bank(cls, bank: MemoryBank | str | Path, **options: Unpack[EngineOptions]) -> Self:
        """Return an engine over a bank that was filled before, by any route; nothing is loaded yet."""
        return cls(bank, **options)

    @classmethod
    def from_url(
        cls,
        url: str,
        bank: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | None = None,
        **options: Unpack[EngineOptions],
    ) -> Self:
        """Return an engine over a bank that `memrecall-kv serve` serves; see `MemRecallRetriever.from_url`."""
        make = partial(MemRecallRetriever.from_url, url, bank, api_key=api_key, timeout=timeout)
        return cls._made(make, options, EngineOptions)

    @classmethod
    def from_index(cls, index: BaseIndex[Any], **options: Unpack[FillOptions]) -> Self:
        """Return an engine over the nodes of an index, which it follows; see `MemRecallRetriever.from_index`."""
        return cls._made(partial(MemRecallRetriever.from_index, index), options, FillOptions)

    @classmethod
    def from_args(  # type: ignore[override]  # ours are more, and some of the host's have no meaning here
        cls, retriever: BaseRetriever, **options: Unpack[EngineOptions]
    ) -> Self:
        """Return an engine that recalls among what a retriever finds; see `MemRecallRetriever.from_args`."""
        if isinstance(retriever, MemRecallRetriever):
            return cls(retriever, **options)
        return cls._made(partial(MemRecallRetriever.from_args, retriever), options, EngineOptions)

    @classmethod
    def _made(
        cls,
        make: Callable[..., MemRecallRetriever],
        options: EngineOptions | FillOptions | DocumentOptions,
        takes: type,
    ) -> Self:
        """Return an engine over the retriever that `make` makes with its share of the options, of those it takes."""
        recall, answer = _split(cls, options, takes)
        engine = cls(make(**recall), **answer)
        engine._closes_retriever = True
        return engine

    def close(self) -> None:
        """Close the bank if this engine opened it, and remove what was temporary; a retriever that was given stays."""
        if self._closes_retriever:
            self.retriever.close()
        if isinstance(self._response_synthesizer, ReasonerSynthesizer):
            self._response_synthesizer.close()

    @property
    def _is_reasoned(self) -> bool:
        """Whether the memory's own reasoner answers."""
        return isinstance(self._response_synthesizer, ReasonerSynthesizer)

    @property
    def retriever(self) -> MemRecallRetriever:
        """What recalls for this engine."""
        return cast(MemRecallRetriever, self._retriever)

    @dispatcher.span
    def retrieve(self, query_bundle: QueryType) -> list[NodeWithScore]:
        """Return what is recalled for a question, in order of recall, without an answer."""
        return super().retrieve(_as_bundle(query_bundle))

    @dispatcher.span
    async def aretrieve(self, query_bundle: QueryType) -> list[NodeWithScore]:
        """Return what `retrieve` returns, without blocking the loop."""
        return await super().aretrieve(_as_bundle(query_bundle))

    @dispatcher.span
    def synthesize(
        self,
        query_bundle: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """Return an answer from nodes that were found elsewhere; the local reasoner reads those the gate opens."""
        query, kept = _as_bundle(query_bundle), list[Found]()
        with Ending(query, kept) as ending:
            return ending.complete(self._writer.write(query, nodes, kept, additional_source_nodes))

    @dispatcher.span
    async def asynthesize(
        self,
        query_bundle: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
    ) -> RESPONSE_TYPE:
        """Return what `synthesize` returns, without blocking the loop."""
        query, kept = _as_bundle(query_bundle), list[Found]()
        with Ending(query, kept) as ending:
            return await ending.acomplete(await self._writer.awrite(query, nodes, kept, additional_source_nodes))

    @dispatcher.span
    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        kept: list[Found] = []
        with self._querying(query_bundle) as event, Ending(query_bundle, kept) as ending:
            nodes = self.retriever.keeping(kept, expects_answer=self._is_reasoned).retrieve(query_bundle)
            nodes = self._apply_node_postprocessors(nodes, query_bundle)
            response = ending.complete(self._writer.write(query_bundle, nodes, kept, asked_for=self.retriever.top_k))
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    @dispatcher.span
    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        kept: list[Found] = []
        with self._querying(query_bundle) as event, Ending(query_bundle, kept) as ending:
            nodes = await self.retriever.keeping(kept, expects_answer=self._is_reasoned).aretrieve(query_bundle)
            nodes = await self._async_apply_node_postprocessors(nodes, query_bundle)
            response = await ending.acomplete(
                await self._writer.awrite(query_bundle, nodes, kept, asked_for=self.retriever.top_k)
            )
            event.on_end(payload={EventPayload.RESPONSE: response})
        return response

    def _querying(self, query_bundle: QueryBundle) -> AbstractContextManager[EventContext]:
        return self.callback_manager.event(CBEventType.QUERY, payload={EventPayload.QUERY_STR: query_bundle.query_str})

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


def _retriever(
    bank: MemRecallRetriever | MemoryBank | str | Path | None, options: dict[str, Any]
) -> MemRecallRetriever:
    """Return the retriever that was given, or one over the bank."""
    if not isinstance(bank, MemRecallRetriever):
        return MemRecallRetriever(bank, **options)
    options.pop("verbose", None)  # the retriever has its own
    if options:
        raise InputError(
            f"Expected no further options beside a retriever, got {', '.join(sorted(options))}.",
            "Give them to the retriever.",
        )
    return bank


def _split(
    engine: type, options: EngineOptions | FillOptions | DocumentOptions, takes: type
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options for recall and those for the answer, refusing what is neither before anything is done."""
    _refuse_unknown(engine, options, takes)
    checked_mode(options.get("response_mode", ResponseMode.COMPACT))
    recall = {name: value for name, value in options.items() if name not in ENGINE_OPTIONS}
    answer = {name: value for name, value in options.items() if name in (*ENGINE_OPTIONS, "verbose")}
    return recall, answer


def _refuse_unknown(engine: type, given: Iterable[str], known: type) -> None:
    refuse_names_of_others(engine.__name__, given)
    takes = sorted(known.__annotations__)
    unknown = sorted(set(given).difference(takes))
    if unknown:
        raise TypeError(
            f"{engine.__name__} got an unexpected keyword argument {unknown[0]!r}; it takes {', '.join(takes)}."
        )
