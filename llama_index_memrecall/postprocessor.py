"""The gate as a node postprocessor: behind any retriever, it decides which nodes matter and in what order."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import Container, Generator, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from memrecall_kv.lazy import LazyBank, LazyMemory
from memrecall_kv.types import Document, Metadata, Opened, Recall

from llama_index_memrecall._convert import has_text, with_step
from llama_index_memrecall.events import dispatcher

if TYPE_CHECKING:  # both import torch
    from memrecall_kv import MemoryBank, MemRecall


class MemRecallPostprocessor(BaseNodePostprocessor):
    """Keeps the nodes the gate opens, in the order it opens them.

    Each node is compressed once and kept in a cache under the hash of its text, so that a node seen
    before costs a gate forward only. The nodes that come back are copies with the gate's probability
    as score and `recall_step` in their metadata. A node without text (an image without a caption)
    cannot be judged: it scores 0.0, comes last under `top_n`, and is left out otherwise.

    Attributes:
        top_n: Nodes to return, exactly, as long as there are as many; `None` leaves it to the memory's
            settings: the nodes of `scan.top_k` blocks, or of all above `gate.threshold`.
        name_or_path: What `MemRecall.from_pretrained` loads on first use; `None` for its default.
        device: Where it is loaded.
        cache_path: Directory of the cache; `None` for a temporary one, removed by `close` or at the end.
        memory: A `MemRecall` to use instead of loading one; not part of `to_dict`.

    Raises:
        pydantic.ValidationError: If an argument is unknown or out of range.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    top_n: int | None = Field(default=None, ge=1)
    name_or_path: str | None = None
    device: str = "auto"
    cache_path: str | None = None
    memory: Any = Field(default=None, exclude=True, repr=False)

    _memory: LazyMemory = PrivateAttr()
    _cache: LazyBank = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Prepare the model and the cache, loading neither."""
        super().model_post_init(context)
        self._memory = LazyMemory(self.memory, self.name_or_path, self.device)
        self._cache = LazyBank(self.cache_path, self._memory)

    @classmethod
    def class_name(cls) -> str:
        """Return the name in serialised form."""
        return "MemRecallPostprocessor"

    def close(self) -> None:
        """Close the cache, and remove it if it was temporary."""
        self._cache.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings alone: a copy loads its model by name and has a cache of its own."""
        return type(self).from_dict, (self.to_dict(),)

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query_of(query_bundle)
        if not nodes:
            return []
        with self._reranking(nodes, query) as kept:
            kept += self._select(nodes, query.query_str)
        return kept

    @dispatcher.span
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query_of(query_bundle)
        if not nodes:
            return []
        with self._reranking(nodes, query) as kept:
            kept += await asyncio.to_thread(self._select, nodes, query.query_str)
        return kept

    @contextlib.contextmanager
    def _reranking(self, nodes: list[NodeWithScore], query: QueryBundle) -> Iterator[list[NodeWithScore]]:
        """Tell LlamaIndex of a reranking around the block that fills the yielded list."""
        kept: list[NodeWithScore] = []
        top_n = self.top_n or len(nodes)
        name = self.name_or_path or "memrecall"
        dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=name))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: name,
            EventPayload.QUERY_STR: query.query_str,
            EventPayload.TOP_K: top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield kept
            event.on_end(payload={EventPayload.NODES: kept})
        dispatcher.event(ReRankEndEvent(nodes=kept))

    def _select(self, nodes: Sequence[NodeWithScore], question: str) -> list[NodeWithScore]:
        """Return copies of the nodes that are kept; `nodes` are neither changed nor handed out."""
        readable: dict[str, list[BaseNode]] = {}  # by the text that is judged: equal texts are judged once
        silent: list[BaseNode] = []
        for node in _distinct(nodes):
            if has_text(node):
                readable.setdefault(node.get_content(metadata_mode=MetadataMode.EMBED), []).append(node)
            else:
                silent.append(node)
        kept: list[NodeWithScore] = []
        wanted = min(self.top_n or len(nodes), sum(map(len, readable.values())))
        with closing(self._recalls(list(readable), question)) as recalls:
            for text, recall in recalls:
                kept += [_judged(node, recall.gate_probability, recall.step) for node in readable[text]]
                if len(kept) >= wanted:
                    break
        if self.top_n is None:
            return kept
        return [*kept, *(_judged(node, 0.0, None) for node in silent)][: self.top_n]

    def _recalls(self, texts: Sequence[str], question: str) -> Generator[tuple[str, Recall], None, None]:
        """Yield each text that is opened, once, with how it was opened."""
        documents = {hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest(): text for text in texts}
        if not documents:
            return
        memory = self._memory.get()
        with self._cache.writing() as writable:
            memory.ingest(writable, [Document(id=key, text=text) for key, text in documents.items()])
        cache = self._cache.get()
        seen: set[str] = set()
        with closing(self._opened(memory, cache, question, documents)) as opened:
            for recall in opened:
                key = recall.chunk.doc_id
                # A node longer than a chunk has several blocks; it counts as it was opened first.
                if key not in seen:
                    seen.add(key)
                    yield documents[key], recall

    def _opened(
        self, memory: MemRecall, cache: MemoryBank, question: str, among: Container[str]
    ) -> Generator[Recall, None, None]:
        def where(key: str, _: Metadata) -> bool:
            return key in among

        if self.top_n is None:
            yield from memory.recall(cache, question, where=where)
            return
        # The fewest blocks that are sure to hold `top_n` nodes; the caller stops when it has them.
        sizes = sorted(Counter(chunk.doc_id for chunk in cache.chunks(where)).values(), reverse=True)
        enough = sum(sizes[: self.top_n - 1]) + 1
        for event in memory.walk(cache, question, top_k=enough, where=where):
            if isinstance(event, Opened):
                yield event.recall


def _distinct(nodes: Sequence[NodeWithScore]) -> list[BaseNode]:
    """Return the nodes in order; one that was found twice, with the same id and content, comes once."""
    distinct: dict[tuple[str, str], BaseNode] = {}
    for node in nodes:
        distinct.setdefault((node.node_id, node.node.hash), node.node)
    return list(distinct.values())


def _judged(node: BaseNode, score: float, step: int | None) -> NodeWithScore:
    return NodeWithScore(node=with_step(node, step), score=score)


def _query_of(query_bundle: QueryBundle | None) -> QueryBundle:
    if query_bundle is None:
        raise ValueError("Missing query bundle: the gate judges nodes by the question. Pass query_bundle or query_str.")
    return query_bundle
