import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import VectorStoreRetriever
from langchain_tests.integration_tests import VectorStoreIntegrationTests
from memrecall_kv.errors import BankError, FingerprintMismatchError, InputError
from memrecall_kv.testing import tiny_backbone, tiny_memory
from patience import PATIENCE

from langchain_memrecall import MemRecallStore

QUESTION = "Who approves trips?"


@pytest.fixture
def store(worded, tmp_path):
    made = MemRecallStore(tmp_path / "bank", memory=worded)
    yield made
    made.close()


class TestStandard(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, store):
        return store


def test_a_search_returns_exactly_k_whole_documents_with_scores(store):
    long = Document(id="long", page_content="The limit is 800 euros. " * 20, metadata={"team": "finance"})
    store.add_documents([long, Document(id="short", page_content="Lunch is at noon.")])
    assert store.similarity_search("What is the limit?", k=1) == [long]
    scored = store.similarity_search_with_score("What is the limit?", k=2)
    assert [document.id for document, _ in scored] == ["long", "short"]
    assert all(0.0 <= score <= 1.0 for _, score in scored)


async def test_the_async_routes_find_what_the_sync_ones_find(store, documents):
    store.add_documents(documents)
    assert await store.asimilarity_search(QUESTION, k=2) == store.similarity_search(QUESTION, k=2)
    expected = store.similarity_search_with_score(QUESTION, k=3)
    assert await store.asimilarity_search_with_score(QUESTION, k=3) == expected


def test_k_above_the_number_of_documents_returns_all_of_them(store, documents):
    store.add_documents(documents)
    assert len(store.similarity_search(QUESTION, k=100)) == len(documents)


@pytest.mark.parametrize(
    "arguments", [{"k": 0}, {"k": -1}, {"k": "3"}, {"fliter": {}}, {"filter": "x"}, {"filter": {"$gt": 1}}]
)
def test_a_search_that_cannot_be_meant_is_refused(store, documents, arguments):
    store.add_documents(documents)
    with pytest.raises(InputError, match="Expected"):
        store.similarity_search(QUESTION, **arguments)


def test_an_empty_question_is_refused_and_an_empty_store_finds_nothing(store):
    assert store.similarity_search(QUESTION) == []
    with pytest.raises(InputError, match="question"):
        store.similarity_search(" ")


async def test_what_needs_vectors_is_refused_with_what_to_use_instead(store):
    vector, mmr = (
        r"Expected a question, got a vector .* Use similarity_search",
        r"got .*\(mmr\).* Use similarity_search",
    )
    with pytest.raises(NotImplementedError, match=vector):
        store.similarity_search_by_vector([0.0])
    with pytest.raises(NotImplementedError, match=vector):
        await store.asimilarity_search_by_vector([0.0])
    with pytest.raises(NotImplementedError, match=vector):
        store.max_marginal_relevance_search_by_vector([0.0])
    with pytest.raises(NotImplementedError, match=mmr):
        store.as_retriever(search_type="mmr").invoke(QUESTION)
    with pytest.raises(NotImplementedError, match=mmr):
        await store.as_retriever(search_type="mmr").ainvoke(QUESTION)
    assert store.embeddings is None


def test_as_retriever_takes_langchains_search_arguments(store, documents):
    store.add_documents(documents)
    retriever = store.as_retriever(search_kwargs={"k": 1, "filter": {"team": "kitchen"}})
    assert isinstance(retriever, VectorStoreRetriever)
    assert [document.id for document in retriever.invoke(QUESTION)] == ["lunch"]
    strict = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.9, "k": 4}
    )
    assert [document.id for document in strict.invoke("Dana approves trips.")] == ["travel"]


@pytest.mark.parametrize("make", ["texts", "documents"])
def test_it_is_made_as_other_stores_are(worded, documents, make):
    embedding = DeterministicFakeEmbedding(size=4)
    if make == "texts":
        made = MemRecallStore.from_texts(["Ada pays.", "Bo signs."], embedding, [{"n": 1}, {"n": 2}], memory=worded)
        expected = {"Ada pays.", "Bo signs."}
    else:
        made = MemRecallStore.from_documents(documents, embedding, memory=worded)
        expected = {document.page_content for document in documents}
    assert {document.page_content for document in made.similarity_search(QUESTION, k=9)} == expected
    made.close()


def test_ids_may_be_given_beside_the_documents(worded, documents):
    made = MemRecallStore.from_documents(documents, ids=["a", "b", "c", "d"], memory=worded)
    assert [document.page_content for document in made.get_by_ids(["d"])] == ["The lift is broken."]
    assert [document.id for document in documents] == ["travel", "limits", "lunch", "lift"]
    made.close()


async def test_what_an_iterator_gives_is_all_remembered(store):
    ids = [*store.add_texts(iter(["Ada pays."])), *await store.aadd_texts(iter(["Bo signs."]), ids=["b"])]
    ids += store.add_documents(iter([Document(page_content="Cy checks.")]), ids=["c"])
    assert [document.page_content for document in store.get_by_ids(ids)] == ["Ada pays.", "Bo signs.", "Cy checks."]


def test_documents_without_ids_or_sense_are_refused_and_nothing_is_written(store, compressions):
    good = Document(id="a", page_content="Ada pays.")
    for bad, ids in (
        ([Document(id="b", page_content=" "), Document(id="a", page_content="Bo signs."), good], None),
        ([good, Document(id="a", page_content="Bo signs.")], None),
        ([good], ["a", "b"]),
        ([good], "a"),
        (["Ada pays."], None),
        ([good, Document(page_content="Bo signs.", metadata={1: 2, "a": 3})], None),
        ([good, Document(id="b", page_content="Bo signs.", metadata={1: 2})], None),
        ([good, Document(page_content="Bo signs.", metadata={"of": object()})], None),
        (good, None),
        ([good, Document(id="b", page_content="Bo signs.")], ["c", "c"]),
    ):
        with pytest.raises(InputError, match=r"Expected|is not JSON"):
            store.add_documents(bad, ids=ids)
    assert (store.get_by_ids(["a", "b"]), compressions) == ([], [])
    assert store.add_documents([]) == []


@pytest.mark.parametrize("ids", [None, "lift"])
def test_deleting_without_a_list_of_ids_is_refused_and_deletes_nothing(store, documents, ids):
    store.add_documents([*documents, Document(id="l", page_content="A letter.")][1:])
    with pytest.raises(InputError, match="list of ids"):
        store.delete(ids)
    assert len(store.similarity_search(QUESTION, k=9)) == len(documents)


@pytest.mark.parametrize("bank", ["", 7, DeterministicFakeEmbedding(size=4)])
def test_what_is_no_bank_is_refused(worded, bank):
    with pytest.raises(InputError, match="bank"):
        MemRecallStore(bank, memory=worded)


def test_what_is_no_memory_is_refused(tmp_path):
    with pytest.raises(InputError, match="name_or_path"):
        MemRecallStore(tmp_path, memory="some/model")


def test_a_file_is_refused_as_a_bank_by_reading_as_by_writing(worded, documents, tmp_path):
    (tmp_path / "file").write_text("kept")
    store = MemRecallStore(tmp_path / "file", memory=worded)
    for use in (lambda: store.similarity_search(QUESTION), lambda: store.add_documents(documents)):
        with pytest.raises(BankError, match="is a file"):
            use()
    assert (tmp_path / "file").read_text() == "kept"


def test_numbers_as_ids_are_the_texts_they_are_in_langchains_documents(store):
    assert store.add_texts(["Ada pays.", "Bo signs."], ids=[0, 1]) == ["0", "1"]
    assert [document.page_content for document in store.get_by_ids([1])] == ["Bo signs."]
    store.delete([1])
    assert [document.id for document in store.similarity_search(QUESTION, k=9)] == ["0"]


def test_a_directory_of_another_model_is_refused_and_left_as_it_is(store, worded, documents, tmp_path):
    store.add_documents(documents)
    other = MemRecallStore(tmp_path / "bank", memory=tiny_memory(backbone=tiny_backbone(seed=1)))
    for use in (lambda: other.similarity_search(QUESTION), lambda: other.add_documents(documents)):
        with pytest.raises(FingerprintMismatchError):
            use()
    assert len(store.similarity_search(QUESTION, k=9)) == len(documents)


def test_an_open_bank_is_used_and_left_open(worded, bank):
    store = MemRecallStore(bank, memory=worded)
    assert len(store.similarity_search(QUESTION, k=9)) == 4
    store.close()
    assert len(bank) == 4


async def test_the_loop_goes_on_while_the_gate_reads(documents, waiting, meanwhile, tmp_path):
    store = MemRecallStore.from_documents(documents, bank=tmp_path / "bank", memory=waiting[0])
    assert len(await meanwhile(store.asimilarity_search(QUESTION, k=1))) == 1
    store.close()


async def test_blank_pages_are_left_out_on_every_route(store, worded):
    pages = [
        Document(id="a", page_content="Ada pays."),
        Document(id="blank", page_content=" \n"),
        Document(page_content=""),
    ]
    ids = store.add_documents(pages)
    assert ids[:2] == ["a", "blank"]
    assert len(ids) == 3
    assert await store.aadd_documents(pages[1:]) == ids[1:]
    assert store.add_texts(["", "Bo signs."], ids=["b", "c"]) == ["b", "c"]
    assert [document.id for document in store.get_by_ids([*ids, "b", "c"])] == ["a", "c"]
    made = MemRecallStore.from_documents(pages, memory=worded)
    assert [document.id for document in made.similarity_search(QUESTION, k=9)] == ["a"]
    made.close()


@pytest.mark.parametrize("is_temporary", [False, True])
def test_a_search_does_not_wait_for_the_first_ingest(worded, documents, tmp_path, monkeypatch, is_temporary):
    """Not even for the one that makes the bank."""
    entered, go, compress = threading.Event(), threading.Event(), type(worded)._compress

    def slow(self, chunks):
        entered.set()
        assert go.wait(PATIENCE)
        return compress(self, chunks)

    monkeypatch.setattr(type(worded), "_compress", slow)
    store = MemRecallStore(None if is_temporary else tmp_path / "new", memory=worded)
    with ThreadPoolExecutor() as threads:
        adding = threads.submit(store.add_documents, documents)
        assert entered.wait(PATIENCE)
        try:
            assert threads.submit(store.similarity_search, QUESTION).result(PATIENCE) == []
            assert not adding.done()
        finally:
            go.set()
        adding.result(PATIENCE)
    assert len(store.similarity_search(QUESTION, k=9)) == len(documents)
    store.close()


def test_a_relative_directory_is_the_one_it_was_when_the_store_was_made(worded, documents, tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    store = MemRecallStore("my.bank", memory=worded)
    monkeypatch.chdir(tmp_path / "there")
    assert store.similarity_search(QUESTION) == []
    store.add_documents(documents)
    assert [*(tmp_path / "there").iterdir()] == []
    assert len(store.similarity_search(QUESTION, k=9)) == len(documents)
    store.close()


def test_a_store_is_copied_with_what_refers_to_it_and_pickled_by_name(store, documents, worded):
    store.add_documents(documents)
    assert copy.deepcopy(store.as_retriever(search_kwargs={"k": 1})).invoke(QUESTION)[0].id == "travel"
    again = pickle.loads(pickle.dumps(store))  # noqa: S301 - it is ours
    assert again._named["bank"] == str(store._named["bank"])
    with pytest.raises(InputError, match="temporary"):
        pickle.dumps(MemRecallStore(memory=worded))
