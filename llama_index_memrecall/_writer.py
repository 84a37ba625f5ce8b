"""From recalled nodes to a response: whom to ask, what it gets to read, and which sources are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.response.schema import RESPONSE_TYPE, Response
from llama_index.core.response_synthesizers import BaseSynthesizer, ResponseMode
from llama_index.core.schema import NodeWithScore, QueryBundle
from memrecall_kv.hosts.lazy import LazyMemory

from llama_index_memrecall._host_llm import WRITES_NOTHING, notes_node
from llama_index_memrecall._reasoner import ReasonerSynthesizer
from llama_index_memrecall._response import whole
from llama_index_memrecall._walk import Found


@dataclass(frozen=True)
class Writer:
    """Turns nodes into responses.

    Attributes:
        memory: What has recalled.
        synthesizer: The host's, or the memory's reasoner as one.
        mode: What the answer is made of.
        streaming: Whether it comes piece by piece.
        takes_notes: Whether an LLM reads what was noted, besides the nodes.
        gate_veto: Whether nobody is asked where the gate believes in nothing it opened; `None`: unless the caller said
            how many nodes to find.
    """

    memory: LazyMemory
    synthesizer: BaseSynthesizer
    mode: ResponseMode
    streaming: bool
    takes_notes: bool
    gate_veto: bool | None

    def write(
        self,
        query: QueryBundle,
        nodes: list[NodeWithScore],
        kept: list[Found],
        additional: Sequence[NodeWithScore] | None = None,
        *,
        asked_for: int | None = None,
    ) -> RESPONSE_TYPE:
        """Return a response.

        Args:
            query: What is asked.
            nodes: What to answer from.
            kept: The walk that found them; replaced where they say something else by now.
            additional: Sources to be named that nobody reads.
            asked_for: How many nodes the caller wanted; `None` if that was left to the settings.
        """
        said = self._said_by_nobody(nodes, kept, asked_for)
        if said is not None:
            return whole(said, [*nodes, *(additional or ())], streaming=self.streaming)
        read, walked = self._reading(nodes, kept)
        response = self.synthesizer.synthesize(query, read, additional, **walked)
        return self._credited(response, [*nodes, *(additional or ())], kept)

    async def awrite(
        self,
        query: QueryBundle,
        nodes: list[NodeWithScore],
        kept: list[Found],
        additional: Sequence[NodeWithScore] | None = None,
        *,
        asked_for: int | None = None,
    ) -> RESPONSE_TYPE:
        """Return what `write` returns, without blocking the loop any more than an LLM of the host's does."""
        said = self._said_by_nobody(nodes, kept, asked_for)
        if said is not None:
            return whole(said, [*nodes, *(additional or ())], streaming=self.streaming, for_loop=True)
        read, walked = self._reading(nodes, kept)
        response = await self.synthesizer.asynthesize(query, read, additional, **walked)
        return self._credited(response, [*nodes, *(additional or ())], kept, for_loop=True)

    def _said_by_nobody(
        self, nodes: Sequence[NodeWithScore], kept: Sequence[Found], asked_for: int | None
    ) -> str | None:
        """Return the answer where nobody is to be asked for one; `None` where somebody is."""
        vetoes = asked_for is None if self.gate_veto is None else self.gate_veto
        is_doubted = vetoes and self.mode not in WRITES_NOTHING and any(not found.walk.has_found for found in kept)
        if nodes and not is_doubted:
            return None
        return "" if self.mode == ResponseMode.NO_TEXT else self.memory.get().config.reasoner.not_found

    def _reading(self, nodes: list[NodeWithScore], kept: list[Found]) -> tuple[list[NodeWithScore], dict[str, Any]]:
        """Return what the synthesizer reads, and for the reasoner the walk that it goes on from.

        What a postprocessor took away or covered up is not to be read by way of blocks and notes.
        """
        is_unchanged = bool(kept) and _contents(kept[0].sources()) == _contents(nodes)
        if isinstance(self.synthesizer, ReasonerSynthesizer):
            if not is_unchanged:
                kept.clear()
            return nodes, {"kept": kept, "sources": nodes}
        notes = notes_node(kept[0].walk.notes.notes) if self.takes_notes and is_unchanged else []
        return [*notes, *nodes], {}

    def _credited(
        self,
        response: RESPONSE_TYPE,
        sources: Sequence[NodeWithScore],
        kept: Sequence[Found],
        *,
        for_loop: bool = False,
    ) -> RESPONSE_TYPE:
        """Return a response that names its sources, and what the reasoner opened since, but not the notes."""
        named = {source.node_id for source in sources}
        if isinstance(self.synthesizer, ReasonerSynthesizer):
            sources = [*sources, *(more for found in kept for more in found.sources() if more.node_id not in named)]
        response.source_nodes = list(sources)
        response.metadata = {source.node_id: source.metadata for source in sources}
        if self.streaming and isinstance(response, Response):  # not everything the host writes comes in pieces
            return whole(response.response or "", sources, streaming=True, for_loop=for_loop)
        return response


def _contents(nodes: Sequence[NodeWithScore]) -> set[tuple[str, str]]:
    return {(node.node_id, node.node.hash) for node in nodes}
