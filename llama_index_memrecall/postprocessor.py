"""The gate as a node postprocessor: behind any retriever, it decides which nodes matter and in what order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from memrecall_kv.hosts.documents import blocks_for
from memrecall_kv.hosts.settings import RerankerSettings
from memrecall_kv.types import Note, Noted, Opened

from llama_index_memrecall._candidates import Candidates, distinct
from llama_index_memrecall._convert import copied, has_text
from llama_index_memrecall._host_llm import notes_node
from llama_index_memrecall._memory_settings import MemorySettings
from llama_index_memrecall._scope import Scope
from llama_index_memrecall._walk import Found
from llama_index_memrecall.events import dispatcher


class MemRecallPostprocessor(RerankerSettings, MemorySettings, BaseNodePostprocessor):
    """Keeps the nodes the gate opens, in the order it opens them.

    Each node is compressed once and kept in a cache under the hash of its text, so that a node seen
    before costs a gate forward only. The nodes that come back are copies with the gate's probability
    as score. A node without text (an image without a caption) cannot be judged: it scores 0.0, comes last under
    `top_n`, and is left out otherwise.

    Attributes:
        top_n: Nodes to return, exactly, as long as there are as many; `None` leaves it to the memory's
            settings: the nodes of `scan.top_k` blocks, or of all above `gate.threshold`.
        working_memory: Whether the notes taken while reading come as one more node, the last, without a score;
            it does not count as one of `top_n`.
        cache_path: Directory of the cache; `None` for a temporary one, removed by `close` or at the end.
        name_or_path, device, memory: Which `MemRecall`; see `MemorySettings`.

    Raises:
        pydantic.ValidationError: If an argument is unknown or out of range.
    """

    working_memory: bool = False

    @classmethod
    def class_name(cls) -> str:
        """Return the name in serialised form."""
        return "MemRecallPostprocessor"

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
        silent = [node for node in distinct(nodes) if not has_text(node)]
        kept, notes = self._recalled(nodes, question) if len(silent) < len(distinct(nodes)) else ([], ())
        if self.top_n is not None:
            kept = [*kept, *(NodeWithScore(node=copied(node), score=0.0) for node in silent)][: self.top_n]
        return [*kept, *notes_node(notes)] if self.working_memory else kept

    def _recalled(self, nodes: Sequence[NodeWithScore], question: str) -> tuple[list[NodeWithScore], Sequence[Note]]:
        """Return the nodes that are opened, until there are `top_n`, and what was learned."""
        candidates, has_all = Candidates.among(nodes, self._cache), False
        bank, where = candidates.bank, candidates.where
        blocks = None if self.top_n is None else blocks_for(bank, self.top_n, where)
        found = Found.begin(self._memory.get(), Scope(bank, where, candidates.sources), question, top_k=blocks)
        with closing(found.events()) as events:
            for event in events:
                if has_all and not isinstance(event, Noted):
                    break  # the last node's note is in, if there is one
                if isinstance(event, Opened):
                    has_all = self.top_n is not None and candidates.count(found.walk.recalls) >= self.top_n
                    if has_all and not self.working_memory:
                        break
        return candidates.sources(found.walk.recalls), found.walk.notes.notes


def _query_of(query_bundle: QueryBundle | None) -> QueryBundle:
    if query_bundle is None:
        raise ValueError("Missing query bundle: the gate judges nodes by the question. Pass query_bundle or query_str.")
    return query_bundle
