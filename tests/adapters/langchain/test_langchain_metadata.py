"""What a question finds out about a document stands under one key of its metadata; all others are the user's."""

import copy
import json
import pickle

import pytest
from langchain_classic.retrievers import MultiQueryRetriever
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel

from langchain_memrecall import MemRecallDocumentCompressor, MemRecallRetriever, MemRecallRunnable, MemRecallStore

QUESTION = "Who approves trips?"
OWN = {"score": 4.5, "recall_step": "none", "chunk_id": "mine", "start_index": 360, "source": "h.md"}


@pytest.fixture
def review():
    return Document(id="a", page_content="Dana approves trips.", metadata=dict(OWN))


@pytest.fixture
def retriever(memory, review):
    made = MemRecallRetriever.from_documents([review], memory=memory, k=1)
    yield made
    made.close()


async def test_the_users_keys_are_untouched_on_every_route(memory, review, retriever):
    ask = MemRecallRunnable(bank=retriever.bank, memory=memory, top_k=1)
    store = MemRecallStore.from_documents([review], memory=memory)
    compressor = MemRecallDocumentCompressor(memory=memory, top_n=1)
    found = [
        *retriever.invoke(QUESTION),
        *await retriever.ainvoke(QUESTION),
        *ask.invoke(QUESTION)["context"],
        *ask.invoke({"input": QUESTION, "documents": [review]})["context"],
        *store.similarity_search(QUESTION, k=1),
        *compressor.compress_documents([review], QUESTION),
        *await compressor.acompress_documents([review], QUESTION),
    ]
    assert len(found) == 7
    for document in found:
        assert {key: value for key, value in document.metadata.items() if key != "memrecall"} == OWN
    store.close()
    compressor.close()


def test_what_is_ours_names_score_step_and_place(memory):
    long = Document(id="a", page_content="The limit is 800 euros. " * 9)
    retriever = MemRecallRetriever.from_documents([long], memory=memory, k=3)
    for step, found in enumerate(retriever.invoke(QUESTION)):
        ours = found.metadata["memrecall"]
        assert 0.0 <= ours["score"] <= 1.0
        assert ours["recall_step"] == step
        assert ours["chunk_id"].startswith("a#")
        start = ours["start_index"]
        assert long.page_content[start : start + len(found.page_content)] == found.page_content
    retriever.close()


def test_one_text_found_by_two_questions_is_one_document(memory, bank):
    retriever = MemRecallRetriever(bank=bank, memory=memory, k=4)
    first, other = retriever.invoke(QUESTION), retriever.invoke("When is lunch, and what is broken?")
    scores = [{document.id: document.metadata["memrecall"]["score"] for document in found} for found in (first, other)]
    assert scores[0] != scores[1]
    assert all(document in other for document in first)
    assert first[0] != first[1]
    several = MultiQueryRetriever.from_llm(
        retriever, FakeListChatModel(responses=["When is lunch?\nWhat is broken?"]), include_original=True
    )
    assert len(several.invoke(QUESTION)) == 4


def test_a_chunk_is_another_document_than_the_next_with_the_same_words(memory):
    twice = Document(id="a", page_content="Dana approves trips, and lunch is at noon in the hall of the east " * 2)
    retriever = MemRecallRetriever.from_documents([twice], memory=memory, k=9)
    found = retriever.invoke(QUESTION)
    assert len({document.metadata["memrecall"]["chunk_id"] for document in found}) == len(found) > 1
    assert all(one is other or one != other for one in found for other in found)
    retriever.close()


def test_what_was_recalled_is_remembered_as_it_was(memory, retriever, review):
    """A text that two questions found is stored once, without what they found out."""
    (first,), (other,) = retriever.invoke(QUESTION), retriever.invoke("Lunch?")
    first.id = other.id = None
    store = MemRecallStore.from_documents([first, other], memory=memory)
    (stored,) = store.similarity_search(QUESTION, k=9)
    assert stored.metadata == review.metadata
    store.close()


def test_what_is_ours_is_data(retriever):
    (found,) = retriever.invoke(QUESTION)
    ours = found.metadata["memrecall"]
    assert json.loads(json.dumps(ours)) == ours
    assert pickle.loads(pickle.dumps(found)) == found == copy.deepcopy(found) == found.model_copy(deep=True)  # noqa: S301


def test_a_reranker_keeps_where_a_chunk_stands(memory, retriever):
    compressor = MemRecallDocumentCompressor(memory=memory, top_n=1)
    (found,) = retriever.invoke(QUESTION)
    (kept,) = compressor.compress_documents([found], "When is lunch?")
    assert kept == found
    assert kept.metadata["memrecall"]["chunk_id"] == "a#0"
    compressor.close()
