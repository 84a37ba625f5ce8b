"""Several copies of an index, several days, several indexes: nobody deletes, keeps or makes again another's data."""

import os

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.schema import TextNode
from memrecall_kv.errors import BankError, InputError
from memrecall_kv.types import Document as MemRecallDocument

from llama_index_memrecall import MemoryBlockEncoder, MemRecallIndex, MemRecallQueryEngine, MemRecallRetriever

QUESTION = "Who approves trips?"
DANA, NEW = "Dana approves trips.", "Rui approves trips now."


def recalled(index):
    return {source.get_content() for source in index.as_retriever(top_k=99).retrieve(QUESTION)}


def stored(memory, path):
    with memory.open_bank(path, read_only=True) as bank:
        return [document.text for document in bank.documents()]


@pytest.fixture
def bank(tmp_path):
    return tmp_path / "bank"


@pytest.fixture
def index(memory, documents, bank, tmp_path):
    index = MemRecallIndex.from_documents(documents, memory=memory, bank=bank)
    index.storage_context.persist(str(tmp_path / "storage"))
    yield index
    index.close()


@pytest.fixture
def load(memory, tmp_path):
    """Returns what loads the stored index once more."""
    opened = []

    def again(**options):
        context = StorageContext.from_defaults(persist_dir=str(tmp_path / "storage"))
        opened.append(load_index_from_storage(context, memory=memory, **options))
        return opened[-1]

    yield again
    for index in opened:
        index.close()


async def test_asking_an_older_copy_deletes_nothing_of_a_newer_one(memory, index, load, bank):
    index.insert(Document(id_="new", text=NEW))
    older = load()
    assert NEW not in recalled(older)
    older.as_query_engine(top_k=2).query(QUESTION)
    await older.as_query_engine(top_k=2).aquery(QUESTION)
    assert NEW in recalled(index)
    assert NEW in stored(memory, bank)


def test_writing_to_an_older_copy_deletes_only_what_it_held(memory, index, load, bank):
    index.insert(Document(id_="new", text=NEW))
    older = load()
    older.insert(Document(id_="ana", text="Ana approves hires."))
    older.delete_ref_doc("lunch")
    older.update_ref_doc(Document(id_="lift", text="The lift works."))
    assert NEW in recalled(index)
    left = stored(memory, bank)
    assert {NEW, "Ana approves hires.", "The lift works."} <= set(left)
    assert not {"Lunch is at noon.", "The lift is broken."} & set(left)


def test_what_one_copy_deleted_is_not_made_again_by_asking_another(memory, index, load, bank):
    asked, fresh = load(), load()
    assert DANA in recalled(asked)
    index.delete_ref_doc("travel", delete_from_docstore=True)
    for older in (asked, fresh):
        assert DANA not in recalled(older)
    assert DANA not in stored(memory, bank)


def test_a_copy_with_a_bank_elsewhere_fills_it(memory, index, load, tmp_path):
    elsewhere = load(bank=tmp_path / "elsewhere")
    assert recalled(elsewhere) == recalled(index)
    elsewhere.delete_ref_doc("travel")
    assert DANA in recalled(index)


def test_the_same_program_on_two_days_keeps_nothing_that_was_deleted(memory, documents, bank, compressions):
    for day in (documents, documents[1:]):
        index = MemRecallIndex.from_documents(day, memory=memory, bank=bank)
        assert recalled(index) == {document.text for document in day}
        index.close()
        assert sorted(stored(memory, bank)) == sorted(document.text for document in day)
    assert len(compressions) == 4
    engine = MemRecallQueryEngine.from_bank(bank, memory=memory, top_k=9)
    assert DANA not in {source.text for source in engine.retrieve(QUESTION)}
    engine.close()


@pytest.mark.parametrize("kind", [MemRecallQueryEngine, MemRecallRetriever])
@pytest.mark.parametrize("make", ["from_documents", "from_nodes"])
def test_an_engine_made_on_two_days_keeps_nothing_that_was_deleted(
    memory, documents, nodes, bank, compressions, kind, make
):
    given = documents if make == "from_documents" else nodes
    for day in (given, given[1:], [*given[1:], Document(text=NEW)], given[2:]):
        made = getattr(kind, make)(day, memory=memory, bank=bank, replace=True, top_k=99)
        assert {source.get_content() for source in made.retrieve(QUESTION)} == {one.text for one in day}
        made.close()
        assert sorted(stored(memory, bank)) == sorted(one.text for one in day)
    assert len(compressions) == len(set(compressions)) == 5
    with pytest.raises(InputError, match="from_bank for a bank as it is"):
        getattr(kind, make)([], memory=memory, bank=bank, replace=True)
    assert len(stored(memory, bank)) == 2


@pytest.mark.parametrize("kind", [MemRecallQueryEngine, MemRecallRetriever])
def test_who_does_not_ask_for_replacing_keeps_what_the_bank_holds(memory, documents, bank, kind):
    kind.from_documents(documents[:2], memory=memory, bank=bank).close()
    kind.from_documents(documents[2:], memory=memory, bank=bank).close()
    kind.from_documents([], memory=memory, bank=bank).close()
    assert stored(memory, bank) == [document.text for document in documents]


def test_documents_replace_only_what_documents_left(memory, documents, bank):
    with memory.open_bank(bank) as opened:
        memory.ingest(opened, [MemRecallDocument("cli", "Read from a folder.")])
    MemoryBlockEncoder(bank=str(bank), memory=memory)([TextNode(id_="piped", text=NEW)])
    MemRecallIndex.from_documents(documents[:1], memory=memory, bank=bank).close()
    for day in (documents[1:], documents[2:]):
        MemRecallQueryEngine.from_documents(day, memory=memory, bank=bank, replace=True).close()
    others = ["Read from a folder.", NEW, DANA]
    assert sorted(stored(memory, bank)) == sorted([*others, *(document.text for document in documents[2:])])


def test_documents_that_cannot_be_stored_replace_nothing(memory, documents, bank):
    MemRecallQueryEngine.from_documents(documents, memory=memory, bank=bank).close()
    with pytest.raises(InputError):
        MemRecallQueryEngine.from_documents(
            [Document(text="Bad.", metadata={"x": {1}})], memory=memory, bank=bank, replace=True
        )
    assert stored(memory, bank) == [document.text for document in documents]


def test_following_an_index_that_is_made_anew_keeps_nothing_that_was_deleted(memory, documents, bank):
    for day in (documents, documents[1:]):
        index = VectorStoreIndex.from_documents(day, embed_model=MockEmbedding(embed_dim=4))
        MemRecallRetriever.from_index(index, bank=bank, memory=memory).close()
        assert sorted(stored(memory, bank)) == sorted(document.text for document in day)


def test_an_index_leaves_alone_what_others_than_indexes_put_into_its_bank(memory, documents, nodes, bank):
    MemRecallRetriever.from_documents(documents[:1], bank=bank, memory=memory).close()
    MemoryBlockEncoder(bank=str(bank), memory=memory)([TextNode(id_="piped", text=NEW)])
    for day in (nodes, nodes[1:2]):
        MemRecallIndex(day, memory=memory, bank=bank).close()
    assert sorted(stored(memory, bank)) == sorted([DANA, NEW, nodes[1].text])


def test_an_index_whose_bank_another_one_took_says_so(memory, documents, bank):
    first = MemRecallIndex.from_documents(documents, memory=memory, bank=bank)
    second = MemRecallIndex.from_documents([Document(text=NEW)], memory=memory, bank=bank)
    ways = [
        lambda: recalled(first),
        lambda: first.as_query_engine().query(QUESTION),
        lambda: first.insert(Document(text="Late.")),
        lambda: first.delete_ref_doc("travel"),
    ]
    for way in ways:
        with pytest.raises(BankError, match="bank of its own"):
            way()
    assert recalled(second) == {NEW}
    assert stored(memory, bank) == [NEW]
    first.close()
    second.close()


def test_an_index_of_nothing_does_not_empty_a_bank(memory, documents, bank):
    MemRecallIndex.from_documents(documents, memory=memory, bank=bank).close()
    with pytest.raises(InputError, match="load_index_from_storage"):
        MemRecallIndex([], memory=memory, bank=bank)
    assert len(stored(memory, bank)) == 4


def test_a_follower_deletes_only_what_it_saw_its_index_lose(memory, nodes, bank, tmp_path):
    index = VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=4))
    index.storage_context.persist(str(tmp_path / "vectors"))
    newer = MemRecallRetriever.from_index(index, bank=bank, memory=memory, top_k=9)
    index.insert_nodes([TextNode(id_="new", text=NEW)])
    assert len(newer.retrieve(QUESTION)) == 5
    context = StorageContext.from_defaults(persist_dir=str(tmp_path / "vectors"))
    copy = load_index_from_storage(context, embed_model=MockEmbedding(embed_dim=4))
    older = MemRecallRetriever.from_index(copy, bank=bank, memory=memory, top_k=9)
    assert len(older.retrieve(QUESTION)) == 4
    copy.delete_nodes(["node-lunch"])
    assert len(older.retrieve(QUESTION)) == 3
    assert "new" in {source.node_id for source in newer.retrieve(QUESTION)}
    assert NEW in stored(memory, bank)
    newer.close()
    older.close()


@pytest.mark.parametrize("load_from", ["home", "other"])
def test_a_relative_bank_is_the_directory_it_was_when_it_was_named(
    memory, documents, tmp_path, monkeypatch, compressions, load_from
):
    for name in ("home", "other"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "home")
    index = MemRecallIndex.from_documents(documents, memory=memory, bank="handbook.bank")
    index.storage_context.persist(str(tmp_path / "storage"))
    index.close()
    compressions.clear()
    monkeypatch.chdir(tmp_path / load_from)
    again = load_index_from_storage(StorageContext.from_defaults(persist_dir=str(tmp_path / "storage")), memory=memory)
    assert len(recalled(again)) == 4
    again.insert(Document(text=NEW))
    assert compressions == [NEW]
    assert os.listdir(tmp_path / "other") == []
    again.close()
