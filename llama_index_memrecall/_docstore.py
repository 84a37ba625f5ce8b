"""LlamaIndex's docstore: read in one go where it may be far away, and put back as it was when a write fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from llama_index.core.schema import BaseNode
from llama_index.core.storage.docstore.types import BaseDocumentStore


def read_nodes(docstore: BaseDocumentStore, ids: Sequence[str], size: int) -> list[BaseNode]:
    """Return nodes in the order of their ids, those that are gone left out.

    LlamaIndex's `get_nodes` asks for them one by one, and there is no other way to ask for some. Half of an index or
    more is read as all that the docstore holds, which is one call.

    Args:
        docstore: Where they are.
        ids: Which.
        size: How many nodes the index has.
    """
    if not ids or 2 * len(ids) < size:
        return docstore.get_nodes(list(ids), raise_error=False)
    held = docstore.docs
    return [held[node_id] for node_id in ids if node_id in held]


@contextmanager
def restored(docstore: BaseDocumentStore, node_ids: Iterable[str], doc_ids: Iterable[str] = ()) -> Iterator[None]:
    """Put nodes and documents' hashes back as they are now if the block fails.

    Args:
        docstore: Where they are.
        node_ids: The nodes that the block may add, replace or delete.
        doc_ids: The documents whose hash it may set or delete.
    """
    wanted = list(dict.fromkeys(node_ids))
    nodes = docstore.get_nodes(wanted, raise_error=False)
    hashes = {doc_id: docstore.get_document_hash(doc_id) for doc_id in doc_ids}
    try:
        yield
    except BaseException:
        new = [doc_id for doc_id, digest in hashes.items() if digest is None]
        for node_id in [*set(wanted).difference(node.node_id for node in nodes), *new]:
            docstore.delete_document(node_id, raise_error=False)
        docstore.add_documents(nodes, allow_update=True)
        for doc_id, digest in hashes.items():
            if digest is not None:
                docstore.set_document_hash(doc_id, digest)
        raise
