"""An argument that users of other stores write is refused with what to write here, before anything is done."""

import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from memrecall_kv.errors import InputError

from llama_index_memrecall import (
    MemoryBlockEncoder,
    MemRecallIndex,
    MemRecallMemoryBlock,
    MemRecallPostprocessor,
    MemRecallQueryEngine,
    MemRecallRetriever,
)

NAMES = {
    "persist_dir": 'Name a directory: (bank="handbook.bank"|cache_path="cache")',
    "persist_directory": "Name a directory",
    "collection_name": "Give each collection a directory of its own",
    "vector_store": "There is no server",
    "embed_model": "no embedding model is needed",
}
KINDS = [
    MemoryBlockEncoder,
    MemRecallIndex,
    MemRecallMemoryBlock,
    MemRecallPostprocessor,
    MemRecallQueryEngine,
    MemRecallRetriever,
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_argument_of_another_store_says_what_to_write_here(kind, name):
    with pytest.raises(InputError, match=f"{kind.__name__} takes no {name}=.*{NAMES[name]}"):
        kind(**{name: "anything"})


@pytest.mark.parametrize("name", NAMES)
def test_so_does_every_way_to_make_one_and_nothing_is_done(memory, documents, nodes, tmp_path, name):
    index = VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=4))
    options = {"bank": tmp_path / "bank", "memory": memory, name: "anything"}
    ways = [(MemRecallIndex.from_documents, documents)]
    for kind in (MemRecallQueryEngine, MemRecallRetriever):
        ways += [(kind.from_documents, documents), (kind.from_nodes, nodes), (kind.from_index, index)]
    for way, source in ways:
        with pytest.raises(InputError, match=f"takes no {name}=.*{NAMES[name]}"):
            way(source, **options)
    assert not [*tmp_path.iterdir()]
    own = MemRecallIndex(nodes, memory=memory)
    for ask in (own.as_retriever, own.as_query_engine):
        with pytest.raises(InputError, match=f"takes no {name}="):
            ask(**{name: "anything"})
    own.close()
