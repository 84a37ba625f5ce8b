"""Nodes somebody else found, compressed on the fly and kept under the hash of their text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore
from memrecall_kv.lazy import LazyBank, LazyMemory
from memrecall_kv.types import Document, Metadata, Recall

from llama_index_memrecall._convert import has_text, with_step
from llama_index_memrecall._scope import Scope

if TYPE_CHECKING:  # the bank imports torch
    from memrecall_kv.bank import MemoryBank


@dataclass(frozen=True)
class Candidates:
    """The nodes one question may recall, in the cache.

    Attributes:
        bank: The cache.
        nodes: Nodes by the key of their text; equal texts are judged once.
    """

    bank: MemoryBank
    nodes: dict[str, list[BaseNode]]

    def scope(self) -> Scope:
        """Return them as what a question may recall."""
        return Scope(self.bank, self.where, self.sources)

    def where(self, doc_id: str, metadata: Metadata) -> bool:
        """Return whether the cache holds this text for one of the nodes; the core's filter."""
        return doc_id in self.nodes

    def count(self, recalls: Sequence[Recall]) -> int:
        """Return how many nodes `sources` returns."""
        return sum(len(self.nodes[key]) for key in {recall.chunk.doc_id for recall in recalls})

    def sources(self, recalls: Sequence[Recall]) -> list[NodeWithScore]:
        """Return copies of the nodes that were recalled; one with several blocks comes as it was opened first."""
        first: dict[str, Recall] = {}
        for recall in recalls:
            first.setdefault(recall.chunk.doc_id, recall)
        return [
            NodeWithScore(node=with_step(node, recall.step), score=recall.gate_probability)
            for key, recall in first.items()
            for node in self.nodes[key]
        ]


class NodeCache:
    """A bank of texts, each compressed once.

    Args:
        path: Where it is kept; `None` for a temporary one.
        memory: What compresses.
        mode: Which text of a node is compressed and judged.
    """

    def __init__(self, path: str | None, memory: LazyMemory, mode: MetadataMode) -> None:
        self._memory = memory
        self._bank = LazyBank(path, memory)
        self._mode = mode

    def candidates(self, nodes: Sequence[NodeWithScore]) -> Candidates:
        """Return the nodes that have text, compressing those that were never seen; what was found twice comes once."""
        texts: dict[str, str] = {}
        by_key: dict[str, list[BaseNode]] = {}
        for node in distinct(nodes):
            if has_text(node):
                text = node.get_content(metadata_mode=self._mode)
                key = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
                texts[key] = text
                by_key.setdefault(key, []).append(node)
        with self._bank.writing() as writable:
            self._memory.get().ingest(writable, [Document(id=key, text=text) for key, text in texts.items()])
        return Candidates(self._bank.get(), by_key)

    def clear(self) -> None:
        """Forget every text, and free the room it took.

        Raises:
            BankError: If the cache cannot be written.
        """
        with self._bank.writing() as writable:
            for document in writable.documents():
                writable.delete(document.id)
            writable.compact()

    def close(self) -> None:
        """Close the cache, and remove it if it was temporary."""
        self._bank.close()


def distinct(nodes: Sequence[NodeWithScore]) -> list[BaseNode]:
    """Return the nodes in order; one that was found twice, with the same id and content, comes once."""
    found: dict[tuple[str, str], BaseNode] = {}
    for node in nodes:
        found.setdefault((node.node_id, node.node.hash), node.node)
    return list(found.values())
