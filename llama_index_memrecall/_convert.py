"""LlamaIndex's nodes to MemRecall's values and back; nothing of the host's is written to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from llama_index.core.constants import DATA_KEY, TYPE_KEY
from llama_index.core.schema import (
    BaseNode,
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    ObjectType,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.schema import Document as HostDocument
from llama_index.core.storage.docstore.utils import json_to_doc
from memrecall_kv.errors import InputError
from memrecall_kv.hosts.arguments import distinct
from memrecall_kv.types import Document, Metadata, Recall

from llama_index_memrecall._heading import to_heading

if TYPE_CHECKING:  # the bank imports torch
    from memrecall_kv.bank import MemoryBank

HOST_KEY = "_llama_index"
"""Metadata key in the bank: what a host object holds beside id, text and metadata."""

REF_DOC_KEY = "_llama_index_ref_doc"
"""Metadata key in the bank: the id of the document that a node was cut from; filters look at it."""

ENCODER = "MemoryBlockEncoder"
"""Owner of what an ingestion pipeline puts into a bank; all other owners are indexes."""

_FORMATTING = (
    "excluded_embed_metadata_keys",
    "excluded_llm_metadata_keys",
    "metadata_template",
    "metadata_separator",
    "text_template",
)


def has_text(node: BaseNode) -> bool:
    """Return whether there is anything to read: image nodes without a caption and blank pages have nothing."""
    return bool(node.get_content(metadata_mode=MetadataMode.NONE).strip())


def to_documents(nodes: Iterable[BaseNode], *, owner: str | None = None) -> list[Document]:
    """Return one core document per node that has text, under the node's own id.

    Args:
        nodes: Nodes or documents of the host.
        owner: Who looks after these documents in the bank; `owner_of` tells.

    Raises:
        InputError: If two nodes share an id and differ in text, metadata or how it is shown: one would replace the
            other.
    """
    return distinct(_to_document(node, owner) for node in nodes if has_text(node))


def _to_document(node: BaseNode, owner: str | None) -> Document:
    _other_types(node)
    metadata = {**node.metadata, HOST_KEY: {**_host_fields(node), **({"owner": owner} if owner else {})}}
    if node.ref_doc_id is not None:
        metadata[REF_DOC_KEY] = node.ref_doc_id
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    return Document(id=node.node_id, text=text, metadata=metadata, heading=to_heading(node))


def owner_of(metadata: Metadata) -> str | None:
    """Return who looks after a document of a bank; `None` for nobody."""
    owner = metadata.get(HOST_KEY, {}).get("owner")
    return None if owner is None else str(owner)


def is_of_index(metadata: Metadata) -> bool:
    """Return whether an index looks after a document of a bank."""
    return owner_of(metadata) not in (None, ENCODER)


def is_of_nobody(metadata: Metadata) -> bool:
    """Return whether LlamaIndex's nodes or documents were put into a bank by themselves: nobody looks after them."""
    return HOST_KEY in metadata and owner_of(metadata) is None


def ref_doc_of(metadata: Metadata) -> str | None:
    """Return the id of the document that a node in a bank was cut from; `None` if it does not say."""
    data = metadata.get(HOST_KEY, {}).get("node", {}).get(DATA_KEY, {})
    source = data.get("relationships", {}).get(NodeRelationship.SOURCE.value)
    return None if source is None else str(source["node_id"])


def known_to_filters(node: BaseNode) -> Metadata:
    """Return a node's metadata as filters see them in a bank."""
    return {**node.metadata, REF_DOC_KEY: node.ref_doc_id}


def unit_of(recall: Recall) -> str:
    """Return what a recall is a part of: a node of the host, or in a bank filled with documents the chunk itself."""
    return recall.chunk.doc_id if "node" in recall.metadata.get(HOST_KEY, {}) else recall.chunk.id


def storable(node: BaseNode) -> BaseNode:
    """Return a node that LlamaIndex's stores can write: itself, or a copy with dates and the like as texts.

    Raises:
        InputError: If the metadata hold a set.
    """
    if _other_types(node):
        return json_to_doc({DATA_KEY: node.model_dump(mode="json"), TYPE_KEY: node.get_type()})
    return node


def _other_types(node: BaseNode) -> list[Any]:
    """Return what of a node's metadata JSON does not know.

    Raises:
        InputError: If it is a set: LlamaIndex hashes the text of the metadata, and a set's order is not the same in
            the next process.
    """
    found: list[Any] = []
    json.dumps(node.metadata, default=found.append)
    for value in found:
        if isinstance(value, Set):
            raise InputError(
                f"Expected metadata with an order, got a set in node {node.node_id!r}: {value!r}.", "Use a list."
            )
    return found


def _host_fields(node: BaseNode) -> dict[str, Any]:
    """Return what has to be stored so that `to_source_nodes` can build the same node again."""
    data = node.model_dump(mode="json")
    order = list(node.metadata)  # the order is part of the text models read, and JSON objects have none
    if isinstance(node, HostDocument):
        return {"order": order, "document": {name: data[name] for name in _FORMATTING}}
    # The bank holds these already.
    for name in ("text", "text_resource", "metadata", "embedding"):
        data.pop(name, None)
    return {"order": order, "node": {DATA_KEY: data, TYPE_KEY: json.loads(json.dumps(node.get_type()))}}


def to_source_nodes(recalls: Sequence[Recall], bank: MemoryBank) -> list[NodeWithScore]:
    """Return what was recalled, in that order, as the host's nodes.

    A chunk of a document becomes a text node of its own whose source is the document. A bank that was
    filled with nodes gives back these nodes, whole: one that was opened at several chunks comes once,
    as it was opened first.
    """
    sources: dict[str, NodeWithScore] = {}
    for recall in recalls:
        key = unit_of(recall)
        if key not in sources:
            sources[key] = NodeWithScore(node=_to_node(recall, bank), score=recall.gate_probability)
    return list(sources.values())


def _to_node(recall: Recall, bank: MemoryBank) -> BaseNode:
    host = recall.metadata.get(HOST_KEY, {})
    order = host.get("order", [name for name in recall.metadata if name not in (HOST_KEY, REF_DOC_KEY)])
    metadata = {name: recall.metadata[name] for name in order}
    if "node" not in host:
        return _chunk_node(recall, metadata, host.get("document", {}))
    node = json_to_doc(host["node"])
    node.metadata = metadata
    node.set_content(bank.document(recall.chunk.doc_id).text)
    return node


def _chunk_node(recall: Recall, metadata: dict[str, Any], formatting: Mapping[str, Any]) -> TextNode:
    chunk = recall.chunk
    source = RelatedNodeInfo(node_id=chunk.doc_id, node_type=ObjectType.DOCUMENT, metadata=metadata)
    return TextNode(
        id_=chunk.id,
        text=chunk.text,
        metadata=metadata,
        start_char_idx=chunk.start,
        end_char_idx=chunk.end,
        relationships={NodeRelationship.SOURCE: source},
        **formatting,
    )


def copied(node: BaseNode) -> BaseNode:
    """Return a copy that shares none of the dicts and lists that later stages of the host write to."""
    changes = {
        "metadata": dict(node.metadata),
        "excluded_embed_metadata_keys": list(node.excluded_embed_metadata_keys),
        "excluded_llm_metadata_keys": list(node.excluded_llm_metadata_keys),
        "relationships": dict(node.relationships),
    }
    return node.model_copy(update=changes)
