import asyncio

import pytest
from langchain_core.documents import Document
from langchain_tests.integration_tests import RetrieversIntegrationTests
from memrecall_kv.errors import BankError, InputError
from memrecall_kv.types import Document as CoreDocument
from pydantic import ValidationError

from langchain_memrecall import MemRecallRetriever

QUESTION = "Who approves trips?"


@pytest.fixture
def retriever(memory, bank):
    return MemRecallRetriever(bank=bank, memory=memory)


class TestStandard(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _given(self, memory, bank):
        self.params = {"bank": bank, "memory": memory, "k": 2}

    @property
    def retriever_constructor(self):
        return MemRecallRetriever

    @property
    def retriever_constructor_params(self):
        return self.params

    @property
    def retriever_query_example(self):
        return QUESTION


def test_an_open_bank_may_hold_deferred_documents(memory, documents, bank, tmp_path):
    texts = [CoreDocument(document.id, document.page_content, document.metadata) for document in documents]
    with memory.open_bank(tmp_path / "deferred") as deferred:
        memory.ingest(deferred, texts, defer=True)
        found = MemRecallRetriever(bank=deferred, memory=memory, k=2).invoke(QUESTION)
    assert found == MemRecallRetriever(bank=bank, memory=memory, k=2).invoke(QUESTION)


def test_k_of_the_call_wins_over_k_of_the_constructor(memory, bank):
    retriever = MemRecallRetriever(bank=bank, memory=memory, k=1)
    assert [len(retriever.invoke(QUESTION)), len(retriever.invoke(QUESTION, k=3))] == [1, 3]


def test_k_above_the_number_of_chunks_returns_all_of_them(retriever, bank):
    assert len(retriever.invoke(QUESTION, k=100)) == len(bank)


async def test_k_and_filter_reach_the_async_route(retriever):
    found = await retriever.ainvoke(QUESTION, k=1, filter={"team": "facilities"})
    assert [document.metadata["team"] for document in found] == ["facilities"]


def test_sources_keep_id_text_and_metadata_and_gain_score_step_and_place(retriever, documents):
    by_id = {document.id: document for document in documents}
    found = retriever.invoke(QUESTION, k=len(documents))
    assert {document.id for document in found} == set(by_id)
    for step, document in enumerate(found):
        added = document.metadata["memrecall"]
        assert document.page_content == by_id[document.id].page_content
        assert document.metadata == {**by_id[document.id].metadata, "memrecall": added}
        assert 0.0 <= added["score"] <= 1.0
        assert (added["recall_step"], added["chunk_id"], added["start_index"]) == (step, f"{document.id}#0", 0)


def test_changing_a_source_changes_nothing_in_the_bank(retriever):
    first = retriever.invoke(QUESTION, k=1)[0]
    first.metadata["team"] = "changed"
    assert retriever.invoke(QUESTION, k=1)[0].metadata["team"] != "changed"


def test_without_k_the_settings_decide(bank, open_only):
    assert [found.id for found in MemRecallRetriever(bank=bank, memory=open_only(17)).invoke(QUESTION)] == ["lunch"]


@pytest.mark.parametrize(
    "settings", [{"top_k": 3}, {"k": 0}, {"bank": None}, {"bank": ""}, {"bank": 7}, {"memory": "x"}, {"modle": "typo"}]
)
def test_a_mistyped_or_impossible_setting_is_refused(memory, bank, settings):
    with pytest.raises(ValidationError):
        MemRecallRetriever(**{"bank": bank, "memory": memory, **settings})


def test_an_error_of_the_core_passes_through_and_is_reported_to_callbacks(memory, tmp_path):
    with pytest.raises(BankError):
        MemRecallRetriever(bank=tmp_path / "nowhere", memory=memory).invoke(QUESTION)


async def test_an_error_of_the_core_passes_through_the_async_route(memory, tmp_path):
    with pytest.raises(BankError):
        await MemRecallRetriever(bank=str(tmp_path / "nowhere"), memory=memory).ainvoke(QUESTION)


async def test_concurrent_questions_get_the_answers_they_get_alone(retriever):
    questions = ["Who approves trips?", "When is lunch?", "What is broken?"]
    alone = [retriever.invoke(question, k=2) for question in questions]
    together = await asyncio.gather(*(retriever.ainvoke(question, k=2) for question in questions))
    assert together == alone


def test_from_documents_remembers_forgets_nothing_and_skips_blank_pages(memory, tmp_path):
    path = tmp_path / "bank"
    documents = [Document(page_content="Dana approves trips."), Document(id="blank", page_content=" \n")]
    first = MemRecallRetriever.from_documents(documents, bank=path, memory=memory, k=10)
    first.close()
    again = MemRecallRetriever.from_documents(
        [*documents, Document(id="b", page_content="Lunch is at noon.")], bank=path, memory=memory, k=10
    )
    assert sorted(document.page_content for document in again.invoke(QUESTION)) == [
        "Dana approves trips.",
        "Lunch is at noon.",
    ]
    again.close()


def test_from_documents_refuses_two_texts_under_one_id(memory, tmp_path):
    documents = [Document(id="a", page_content="One."), Document(id="a", page_content="Two.")]
    with pytest.raises(InputError, match="'a'"):
        MemRecallRetriever.from_documents(documents, bank=tmp_path / "bank", memory=memory)


@pytest.mark.parametrize("documents", [[], [Document(page_content=" ")], ["a text"], [{"page_content": "a dict"}]])
def test_from_documents_refuses_what_holds_no_text_and_writes_nothing(memory, tmp_path, documents):
    with pytest.raises(InputError, match=r"Expected .*documents"):
        MemRecallRetriever.from_documents(documents, bank=tmp_path / "bank", memory=memory)
    assert not (tmp_path / "bank").exists()


@pytest.mark.parametrize("k", [0, -1, "3", 2.0])
async def test_k_that_is_no_number_of_chunks_is_refused_on_both_routes(retriever, k):
    with pytest.raises(InputError, match="at least 1, got"):
        retriever.invoke(QUESTION, k=k)
    with pytest.raises(InputError, match="at least 1, got"):
        await retriever.ainvoke(QUESTION, k=k)


@pytest.mark.parametrize("question", ["", " ", None, {"input": QUESTION}])
async def test_a_question_that_is_missing_or_no_text_is_refused_on_both_routes(retriever, question):
    with pytest.raises(InputError, match="Expected a question, got"):
        retriever.invoke(question)
    with pytest.raises(InputError, match="Expected a question, got"):
        await retriever.ainvoke(question)


async def test_a_mistyped_argument_of_a_call_is_refused_by_name(retriever):
    with pytest.raises(TypeError, match="fliter"):
        retriever.invoke(QUESTION, fliter={"team": "finance"})
    with pytest.raises(TypeError, match="fliter"):
        await retriever.ainvoke(QUESTION, fliter={"team": "finance"})


def test_from_documents_leaves_the_documents_as_they_were(memory, tmp_path, documents):
    before = [document.model_copy(deep=True) for document in documents]
    MemRecallRetriever.from_documents(documents, bank=tmp_path / "bank", memory=memory, k=1).invoke(QUESTION)
    assert documents == before
