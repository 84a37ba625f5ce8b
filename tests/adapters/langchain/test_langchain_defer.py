"""Adapters that store texts first and compress what a question comes near; caches that are told to forget."""

import pytest
from langchain_core.documents import Document

from langchain_memrecall import MemRecallDocumentCompressor, MemRecallRetriever, MemRecallRunnable, MemRecallStore

QUESTION = "Who approves trips?"


def ids(documents):
    return [document.id for document in documents]


def test_a_deferring_retriever_finds_what_another_does(memory, documents, bank, tmp_path):
    expected = ids(MemRecallRetriever(bank=bank, memory=memory, k=2).invoke(QUESTION))
    retriever = MemRecallRetriever.from_documents(documents, bank=tmp_path / "new", memory=memory, k=2, defer=True)
    assert retriever._bank.get().stats().chunks_deferred == len(documents)
    assert ids(retriever.invoke(QUESTION)) == expected
    retriever.close()
    runnable = MemRecallRunnable(bank=tmp_path / "new", memory=memory, top_k=2, defer=True)
    assert runnable.invoke(QUESTION)["context"]
    runnable.close()


@pytest.mark.parametrize("path", ["new", None])
def test_a_deferring_store_is_used_like_any_other(memory, documents, tmp_path, path):
    store = MemRecallStore(path and tmp_path / path, memory=memory, defer=True)
    assert store.similarity_search(QUESTION, k=2) == []
    store.add_documents(documents)
    assert store._bank.get().stats().blocks == 0
    assert len(store.similarity_search(QUESTION, k=2)) == 2
    assert store._bank.get().stats().blocks > 0
    store.add_documents([Document(id="lunch", page_content="Lunch is at one.")])
    store.delete(["travel", "nobody"])
    assert ids(store.get_by_ids(["travel", "lunch"])) == ["lunch"]
    assert len(store.similarity_search(QUESTION, k=9)) == 3
    store.close()
    if path is None:
        store.add_documents(documents[:1])  # what was temporary is made again
        assert ids(store.similarity_search(QUESTION, k=2)) == ["travel"]
        store.close()


def test_a_kept_cache_can_be_made_to_forget(memory, documents, tmp_path):
    reranker = MemRecallDocumentCompressor(memory=memory, top_n=2, cache_path=str(tmp_path / "cache"))
    expected = reranker.compress_documents(documents, QUESTION)
    reranker.clear_cache()
    left = b"".join(path.read_bytes() for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert b"Dana" not in left
    assert reranker.compress_documents(documents, QUESTION) == expected
    reranker.close()
