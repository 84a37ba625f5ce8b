"""A write that fails leaves docstore, index and bank as they were, whatever failed and on whichever route."""

import datetime
import inspect
import json

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from memrecall_kv.errors import InputError

from llama_index_memrecall import MemRecallIndex, MemRecallRetriever

QUESTION = "Who approves trips?"
NOT_STORABLE = [{"x": {1}}, {"x": [{"y": frozenset("a")}]}, {"x": float("nan")}, {"x": object()}]


@pytest.fixture
def index(memory, documents, tmp_path):
    index = MemRecallIndex.from_documents(documents, memory=memory, bank=tmp_path / "bank")
    yield index
    index.close()


def recalled(index):
    return {source.get_content() for source in index.as_retriever(top_k=99).retrieve(QUESTION)}


def state(index, memory, tmp_path):
    with memory.open_bank(tmp_path / "bank", read_only=True) as bank:
        held = [(document.id, document.text) for document in bank.documents()]
    return (
        index.docstore.to_dict(),
        list(index.index_struct.nodes),
        index.storage_context.index_store.to_dict(),
        sorted(held),
    )


async def insert(index, bad):
    index.insert(bad)


async def ainsert(index, bad):
    await index.ainsert(bad)


async def insert_nodes(index, bad):
    index.insert_nodes([TextNode(id_="good", text="Good."), TextNode(id_="bad", text="Bad.", metadata=bad.metadata)])


async def update(index, bad):
    index.update_ref_doc(Document(id_="travel", text="Rui approves.", metadata=bad.metadata))


async def aupdate(index, bad):
    await index.aupdate_ref_doc(Document(id_="travel", text="Rui approves.", metadata=bad.metadata))


async def refresh(index, bad):
    index.refresh_ref_docs([Document(id_="travel", text="Rui approves.", metadata=bad.metadata)])


async def delete(index, bad):
    index.delete_ref_doc("travel", delete_from_docstore=True)


async def delete_nodes(index, bad):
    await index.adelete_nodes(index.index_struct.nodes[:2], delete_from_docstore=True)


WRITES = [insert, ainsert, insert_nodes, update, aupdate, refresh]


@pytest.mark.parametrize("metadata", NOT_STORABLE)
@pytest.mark.parametrize("write", WRITES)
async def test_what_cannot_be_stored_changes_nothing(index, memory, tmp_path, write, metadata):
    before = state(index, memory, tmp_path)
    with pytest.raises((InputError, TypeError, ValueError)):
        await write(index, Document(id_="bad", text="Bad.", metadata=metadata))
    assert state(index, memory, tmp_path) == before
    assert len(recalled(index)) == 4
    index.insert(Document(id_="bad", text="Mended."))
    assert "Mended." in recalled(index)


@pytest.mark.parametrize("fails", ["put_all", "put", "delete"])
@pytest.mark.parametrize("write", [*WRITES, delete, delete_nodes])
async def test_a_docstore_that_fails_changes_nothing(index, memory, tmp_path, monkeypatch, write, fails):
    store = type(index.docstore._kvstore)
    works, calls = getattr(store, fails), []

    def failing(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            raise ConnectionError("no docstore today")
        return works(self, *args, **kwargs)

    before = state(index, memory, tmp_path)
    monkeypatch.setattr(store, fails, failing)
    try:
        await write(index, Document(id_="new", text="New."))
    except ConnectionError:
        assert state(index, memory, tmp_path) == before
    else:
        assert calls == []  # this write does not go there
    assert calls or state(index, memory, tmp_path) != before


@pytest.mark.parametrize("write", WRITES)
async def test_a_compressor_that_fails_changes_nothing(index, memory, tmp_path, monkeypatch, write):
    def failing(self, chunks):
        raise RuntimeError("no memory today")

    before = state(index, memory, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "_compress", failing)
        with pytest.raises(RuntimeError, match="today"):
            await write(index, Document(id_="new", text="All new."))
    assert state(index, memory, tmp_path) == before
    assert len(recalled(index)) == 4


@pytest.mark.parametrize("route", ["refresh_ref_docs", "arefresh_ref_docs"])
async def test_of_a_refresh_that_fails_midway_host_and_bank_keep_the_documents_before(index, memory, tmp_path, route):
    changed = [
        Document(id_="travel", text="Rui approves trips now."),
        Document(id_="new", text="New."),
        Document(id_="lunch", text="Lunch is at one.", metadata={"x": {1}}),
        Document(id_="lift", text="The lift works."),
    ]
    with pytest.raises(InputError, match="set"):
        await anyway(getattr(index, route)(changed))
    after = {"Rui approves trips now.", "New.", "Lunch is at noon.", "The lift is broken.", "The limit is 800 euros."}
    assert recalled(index) == after
    assert {node.text for node in index.docstore.docs.values()} == after
    assert {text for _, text in state(index, memory, tmp_path)[3]} == after
    changed[2] = Document(id_="lunch", text="Lunch is at one.")
    assert await anyway(getattr(index, route)(changed)) == [False, False, True, True]
    assert recalled(index) == {*(document.text for document in changed), "The limit is 800 euros."}


async def anyway(given):
    return await given if inspect.isawaitable(given) else given


def test_an_index_whose_building_is_interrupted_goes_on_where_it_stopped(memory, tmp_path, monkeypatch, compressions):
    documents = [Document(id_=f"d{number}", text=f"Room {number} is free.") for number in range(70)]
    spy = type(memory)._compress

    def interrupted(self, chunks):
        if len(compressions) >= 64:
            raise KeyboardInterrupt
        return spy(self, chunks)

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "_compress", interrupted)
        with pytest.raises(KeyboardInterrupt):
            MemRecallIndex.from_documents(documents, memory=memory, bank=tmp_path / "bank")
    with memory.open_bank(tmp_path / "bank", read_only=True) as bank:
        assert bank.documents() == []
    before = len(compressions)
    MemRecallIndex.from_documents(documents, memory=memory, bank=tmp_path / "bank").close()
    assert 64 <= before < len(compressions) == len(set(compressions)) == 70


def test_an_index_that_cannot_be_built_leaves_nothing_behind(memory, documents, tmp_path):
    context = StorageContext.from_defaults()
    other = MemRecallIndex.from_documents(documents[:1], memory=memory, storage_context=context)
    before = context.docstore.to_dict(), context.index_store.to_dict()
    bad = Document(id_="bad", text="Bad.", metadata={"x": {1}})
    for path in (None, tmp_path / "bank"):
        with pytest.raises(InputError, match="set"):
            MemRecallIndex.from_documents([*documents, bad], memory=memory, storage_context=context, bank=path)
        with pytest.raises(InputError, match="set"):
            MemRecallIndex([TextNode(text="Bad.", metadata={"x": {1}})], memory=memory, storage_context=context)
        assert (context.docstore.to_dict(), context.index_store.to_dict()) == before
    assert recalled(other) == {documents[0].text}
    other.close()


def test_a_bank_that_cannot_be_taken_over_stays_as_it_was(index, memory, documents, tmp_path):
    before = state(index, memory, tmp_path)
    with pytest.raises(InputError):
        MemRecallIndex.from_documents(
            [Document(text="Bad.", metadata={"x": {1}})], memory=memory, bank=tmp_path / "bank"
        )
    assert state(index, memory, tmp_path) == before


def test_a_date_or_half_a_surrogate_is_stored_and_the_index_persists(memory, tmp_path):
    day = datetime.date(2026, 1, 5)
    index = MemRecallIndex.from_documents(
        [Document(id_="report", text="Pump is fine.", metadata={"day": day})], memory=memory, bank=tmp_path / "bank"
    )
    index.insert_nodes([TextNode(id_="n", text="Lift \udce9 fine.", metadata={"file_name": "caf\udce9.txt"})])
    index.insert(Document(id_="later", text="Roof is fine.", metadata={"days": [day]}))
    index.storage_context.persist(str(tmp_path / "storage"))
    index.close()
    assert json.loads((tmp_path / "storage" / "docstore.json").read_text())
    again = load_index_from_storage(StorageContext.from_defaults(persist_dir=str(tmp_path / "storage")), memory=memory)
    found = {source.node.ref_doc_id: source.metadata for source in again.as_retriever(top_k=9).retrieve("fine")}
    assert (found["report"], found["later"]) == ({"day": "2026-01-05"}, {"days": ["2026-01-05"]})
    assert again.refresh_ref_docs([Document(id_="report", text="Pump is fine.", metadata={"day": day})]) == [False]
    again.close()


@pytest.fixture
def reads(monkeypatch):
    """Lists what a key-value store under a docstore is asked."""
    asked = []
    for name in ("get", "get_all"):
        works = getattr(SimpleKVStore, name)
        monkeypatch.setattr(
            SimpleKVStore, name, lambda self, *a, f=works, n=name, **k: asked.append(n) or f(self, *a, **k)
        )
    return asked


def test_a_loaded_index_reads_its_docstore_in_one_call(memory, documents, tmp_path, reads):
    index = MemRecallIndex.from_documents(documents, memory=memory, bank=tmp_path / "bank")
    index.storage_context.persist(str(tmp_path / "storage"))
    index.close()
    for bank in ({}, {"bank": tmp_path / "elsewhere"}):
        context = StorageContext.from_defaults(persist_dir=str(tmp_path / "storage"))
        again = load_index_from_storage(context, memory=memory, **bank)
        reads.clear()
        assert len(recalled(again)) == 4
        assert reads == ["get_all"]
        again.close()


def test_who_begins_to_follow_an_index_reads_its_docstore_in_two_calls(memory, documents, reads):
    hosts = VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=4))
    reads.clear()
    MemRecallRetriever.from_index(hosts, memory=memory).close()
    assert reads == ["get_all", "get_all"]  # the hashes, and the nodes


def test_a_question_reads_no_docstore_and_a_follower_reads_it_once(memory, documents, reads):
    own = MemRecallIndex.from_documents(documents, memory=memory)
    hosts = VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=4))
    follower = MemRecallRetriever.from_index(hosts, memory=memory, top_k=2)
    reads.clear()
    own.as_retriever(top_k=2).retrieve(QUESTION)
    own.as_query_engine().query(QUESTION)
    assert reads == []
    follower.retrieve(QUESTION)
    assert reads.count("get") == 0
    assert len(reads) == 1
    own.close()
    follower.close()
