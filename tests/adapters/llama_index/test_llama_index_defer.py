"""Adapters that store texts first and compress what a question comes near."""

import pytest
from llama_index.core import StorageContext, load_index_from_storage

from llama_index_memrecall import MemRecallIndex, MemRecallQueryEngine, MemRecallRetriever

QUESTION = "Who approves trips?"


def texts(nodes):
    return [node.get_content() for node in nodes]


@pytest.mark.parametrize("given", [True, False])
def test_a_deferring_retriever_finds_what_another_does(memory, documents, tmp_path, given):
    plain = MemRecallRetriever.from_documents(documents, memory=memory, top_k=2)
    expected = texts(plain.retrieve(QUESTION))
    path = tmp_path / "bank" if given else None
    retriever = MemRecallRetriever.from_documents(documents, bank=path, memory=memory, top_k=2, defer=True)
    assert retriever._bank.get().stats().chunks_deferred == len(documents)
    assert texts(retriever.retrieve(QUESTION)) == expected
    again = MemRecallRetriever.from_documents(documents, memory=memory, top_k=2, defer=True)
    assert texts(again.retrieve(QUESTION)) == expected
    for each in (plain, retriever, again):
        each.close()


def test_an_index_defers_what_is_put_into_it_and_asked_of_it(memory, documents, tmp_path):
    index = MemRecallIndex.from_documents(documents, bank=tmp_path / "bank", memory=memory, defer=True)
    bank = index._holding.bank
    assert bank.get().stats().blocks == 0
    found = texts(index.as_retriever(top_k=2).retrieve(QUESTION))
    assert len(found) == 2
    assert bank.get().stats().blocks > 0
    index.delete_ref_doc("lunch", delete_from_docstore=True)
    index.insert(documents[2].model_copy(update={"text": "Lunch is at one."}))
    assert index.as_query_engine(similarity_top_k=2).query(QUESTION).source_nodes
    index.storage_context.persist(tmp_path / "kept")
    index.close()
    loaded = load_index_from_storage(
        StorageContext.from_defaults(persist_dir=tmp_path / "kept"), memory=memory, defer=True
    )
    assert texts(loaded.as_retriever(top_k=2).retrieve(QUESTION)) == found
    loaded.close()


def test_an_engine_takes_the_option_too(memory, documents):
    engine = MemRecallQueryEngine.from_documents(documents, memory=memory, top_k=2, defer=True)
    assert len(engine.query(QUESTION).source_nodes) == 2
    engine.close()
