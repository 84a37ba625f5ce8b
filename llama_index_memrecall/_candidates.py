"""Nodes somebody else found, as what a question may recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore
from memrecall_kv.filters import Filter
from memrecall_kv.hosts.documents import TextCache
from memrecall_kv.types import Document, Recall

from llama_index_memrecall._convert import copied, has_text
from llama_index_memrecall._heading import to_heading
from llama_index_memrecall._scope import Scope

if TYPE_CHECKING:  # the bank imports torch
    from memrecall_kv.bank import MemoryBank


@dataclass(frozen=True)
class Candidates:
    """The nodes one question may recall, compressed.

    Attributes:
        bank: The cache's.
        where: Lets the texts of these nodes through, and nothing else that the cache holds.
        nodes: Nodes by the key of their text and what is shown with it; equal ones are judged once.
    """

    bank: MemoryBank
    where: Filter
    nodes: dict[str, list[BaseNode]]

    @classmethod
    def among(cls, nodes: Sequence[NodeWithScore], cache: TextCache) -> Self:
        """Return the nodes that have text, compressing what was never seen; what was found twice comes once.

        Args:
            nodes: What was found.
            cache: Keeps what is compressed.
        """
        texts: dict[str, Document] = {}
        by_key: dict[str, list[BaseNode]] = {}
        for node in distinct(nodes):
            if has_text(node):
                text = cache.entry(node.get_content(metadata_mode=MetadataMode.NONE), to_heading(node))
                texts[text.id] = text
                by_key.setdefault(text.id, []).append(node)
        bank, where = cache.keep(texts.values())
        return cls(bank, where, by_key)

    def scope(self) -> Scope:
        """Return them as what a question may recall."""
        return Scope(self.bank, self.where, self.sources, lambda recall: recall.chunk.doc_id)

    def count(self, recalls: Sequence[Recall]) -> int:
        """Return how many nodes `sources` returns."""
        return sum(len(self.nodes[key]) for key in {recall.chunk.doc_id for recall in recalls})

    def sources(self, recalls: Sequence[Recall]) -> list[NodeWithScore]:
        """Return copies of the nodes that were recalled; one with several blocks comes as it was opened first."""
        first: dict[str, Recall] = {}
        for recall in recalls:
            first.setdefault(recall.chunk.doc_id, recall)
        return [
            NodeWithScore(node=copied(node), score=recall.gate_probability)
            for key, recall in first.items()
            for node in self.nodes[key]
        ]


def distinct(nodes: Sequence[NodeWithScore]) -> list[BaseNode]:
    """Return the nodes in order; one that was found twice, with the same id and content, comes once."""
    found: dict[tuple[str, str], BaseNode] = {}
    for node in nodes:
        found.setdefault((node.node_id, node.node.hash), node.node)
    return list(found.values())
