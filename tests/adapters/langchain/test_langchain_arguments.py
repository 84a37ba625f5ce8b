"""An argument in the wrong place is refused wherever LangChain would drop it: a lost filter shows another's text."""

import inspect
import tempfile

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import VectorStoreRetriever
from memrecall_kv.errors import InputError

from langchain_memrecall import (
    MemRecallDocumentCompressor,
    MemRecallMiddleware,
    MemRecallRetriever,
    MemRecallRunnable,
    MemRecallStore,
)

QUESTION = "Who approves trips?"
FINANCE = {"team": "finance"}


@pytest.fixture
def store(memory, bank):
    return MemRecallStore(bank, memory=memory)


@pytest.mark.parametrize("name", ["filter", "k", "score_threshold", "fetch_k", "search_kwarg"])
def test_what_belongs_into_search_kwargs_is_refused_beside_them(store, name):
    with pytest.raises(InputError, match=f"got {name!r}.*search_kwargs"):
        store.as_retriever(**{name: FINANCE})


def test_what_as_retriever_takes_it_takes(store):
    made = store.as_retriever(search_type="similarity", search_kwargs={"k": 9, "filter": FINANCE}, tags=["a"], name="b")
    assert isinstance(made, VectorStoreRetriever)
    assert (made.tags, made.name) == (["a"], "b")
    assert {document.metadata["team"] for document in made.invoke(QUESTION)} == {"finance"}
    assert "MemRecallStore" in store.as_retriever().tags
    narrowed = store.as_retriever(search_kwargs={"k": 9}).invoke(QUESTION, filter=FINANCE)
    assert {document.metadata["team"] for document in narrowed} == {"finance"}


@pytest.mark.parametrize("name", ["filter", "k", "top_k", "documents", "search_kwargs"])
async def test_an_argument_of_ours_in_a_config_is_refused_on_every_route(memory, bank, store, name):
    config = {name: FINANCE}
    retriever, ask = MemRecallRetriever(bank=bank, memory=memory), MemRecallRunnable(bank=bank, memory=memory)
    refused = pytest.raises(InputError, match=f"got {name!r} in it")
    for asked in (retriever, ask, store.as_retriever()):
        with refused:
            asked.invoke(QUESTION, config)
        with refused:
            await asked.ainvoke(QUESTION, config)
        with refused:
            [*asked.stream(QUESTION, config)]
        with refused:
            [chunk async for chunk in asked.astream(QUESTION, config)]
    for asked in (retriever, ask):
        with refused:
            asked.with_config(config)
        with refused:
            asked.with_config(**config)
        with refused:
            asked.batch([QUESTION], config)
        with refused:
            await asked.abatch([QUESTION], [config])
        with refused:
            [*asked.batch_as_completed([QUESTION], config)]
        with refused:
            [pair async for pair in asked.abatch_as_completed([QUESTION], config)]


async def test_a_runnables_call_takes_no_other_arguments(memory, bank):
    ask = MemRecallRunnable(bank=bank, memory=memory)
    with pytest.raises(TypeError, match="got 'filter' besides"):
        ask.invoke(QUESTION, filter=FINANCE)
    with pytest.raises(TypeError, match="got 'filter' besides"):
        await ask.ainvoke(QUESTION, filter=FINANCE)
    with pytest.raises(TypeError, match="got 'filter' besides"):
        ask.batch([QUESTION], filter=FINANCE)
    with pytest.raises(TypeError, match="got 'filter' besides"):
        [*ask.stream(QUESTION, filter=FINANCE)]
    with pytest.raises(TypeError, match="got 'filter' besides"):
        [chunk async for chunk in ask.astream(QUESTION, filter=FINANCE)]


def test_a_store_drops_no_argument_when_it_is_changed(store, documents, bank):
    with pytest.raises(InputError, match="got 'metadatas'"):
        store.add_documents(documents, metadatas=[{}])
    with pytest.raises(InputError, match="got 'filter'"):
        store.add_texts(["Ada pays."], filter=FINANCE)
    with pytest.raises(InputError, match="got 'filter'"):
        store.delete(["travel"], filter=FINANCE)
    with pytest.raises(InputError, match="got 'delete_all'"):
        store.delete(["travel"], delete_all=True)
    assert len(bank) == len(documents)


NAMES = {
    "persist_directory": 'Name a directory: (bank="handbook.bank"|cache_path="cache")',
    "collection_name": "Give each collection a directory of its own",
    "client": "There is no server",
    "embedding": "no embedding model is needed",
    "embedding_function": "no embedding model is needed",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "kind",
    [MemRecallStore, MemRecallRetriever, MemRecallRunnable, MemRecallMiddleware, MemRecallDocumentCompressor],
)
def test_an_argument_of_another_store_says_what_to_write_here(kind, name):
    with pytest.raises(InputError, match=f"{kind.__name__} takes no {name}=.*{NAMES[name]}"):
        kind(**{name: "anything"})


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"embedding"}))
@pytest.mark.parametrize("make", ["from_documents", "from_texts"])
def test_so_does_the_way_other_stores_are_filled_and_nothing_is_written(memory, make, name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    given = [Document("Dana approves trips.")] if make == "from_documents" else ["Dana approves trips."]
    kinds = [MemRecallStore] if make == "from_texts" else [MemRecallStore, MemRecallRetriever, MemRecallRunnable]
    for kind in kinds:
        with pytest.raises(InputError, match=f"takes no {name}=.*{NAMES[name]}"):
            getattr(kind, make)(given, memory=memory, **{name: tmp_path / "bank"})
    assert not [*tmp_path.iterdir()]
    made = getattr(MemRecallStore, make)(given, DeterministicFakeEmbedding(size=4), memory=memory)
    assert len(made.similarity_search(QUESTION, k=1)) == 1
    made.close()


def test_the_signature_is_that_of_the_class(memory):
    assert "metadata_keys" in inspect.signature(MemRecallStore).parameters
    assert not {"args", "given"} & set(inspect.signature(MemRecallStore).parameters)
    with pytest.raises(TypeError, match="unexpected keyword argument 'bnak'"):
        MemRecallStore(bnak="x")
