import shutil

import pytest
from llama_index.core import Document, Settings, StorageContext, load_index_from_storage
from llama_index.core.chat_engine import CondenseQuestionChatEngine, ContextChatEngine
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.llms import MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from memrecall_kv.errors import InputError
from memrecall_kv.testing import tiny_memory

from llama_index_memrecall import MemRecallIndex

QUESTION = "Who approves trips?"


def whole():
    return [SentenceSplitter(chunk_size=512)]


@pytest.fixture
def index(memory, documents):
    index = MemRecallIndex.from_documents(documents, memory=memory, transformations=whole())
    yield index
    index.close()


def recalled(index, **options):
    return {node.node.ref_doc_id for node in index.as_retriever(similarity_top_k=9, **options).retrieve(QUESTION)}


def texts(index):
    return " ".join(node.get_content() for node in index.as_retriever(similarity_top_k=9).retrieve(QUESTION))


def counting(memory):
    """Return the memory, and the list of texts it compresses from now on."""
    compressed = []
    compress = memory._parts.compressor.compress
    memory._parts.compressor.compress = lambda chunks: compressed.extend(c.text for c in chunks) or compress(chunks)
    return memory, compressed


def test_documents_become_nodes_that_are_recalled(index, documents):
    assert recalled(index) == {document.id_ for document in documents}
    assert set(index.ref_doc_info) == {document.id_ for document in documents}
    response = index.as_query_engine(similarity_top_k=2).query(QUESTION)
    assert len(response.source_nodes) == 2
    assert Settings._llm is None
    assert Settings._embed_model is None


def test_an_inserted_document_is_recalled_and_a_deleted_one_is_not(index):
    retriever, engine = index.as_retriever(similarity_top_k=9), index.as_query_engine(similarity_top_k=9)
    index.insert(Document(id_="pets", text="Rui may bring a dog."))
    assert "Rui may bring a dog." in texts(index)
    index.delete_ref_doc("pets", delete_from_docstore=True)
    assert "dog" not in texts(index)
    # those that were made before too
    assert "dog" not in " ".join(node.get_content() for node in retriever.retrieve(QUESTION))
    assert "dog" not in str(engine.query(QUESTION).source_nodes)
    assert index.docstore.get_ref_doc_info("pets") is None
    assert "pets" not in index.ref_doc_info


@pytest.mark.parametrize("from_docstore", [False, True])
async def test_all_nodes_of_a_deleted_document_go(memory, from_docstore):
    """LlamaIndex's own indices keep every other one: they delete from the list they iterate over."""
    index = MemRecallIndex.from_documents([], memory=memory)
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="secret")}
    nodes = [TextNode(id_=f"n{n}", text=f"Secret number {n}.", relationships=source) for n in range(7)]
    await index.ainsert_nodes(nodes)
    assert len(index.as_retriever(similarity_top_k=9).retrieve(QUESTION)) == 7
    await index.adelete_ref_doc("secret", delete_from_docstore=from_docstore)
    assert index.as_retriever(similarity_top_k=9).retrieve(QUESTION) == []
    assert index.index_struct.node_ids == []
    index.close()


def test_updating_one_of_a_hundred_documents_compresses_one():
    memory, compressed = counting(tiny_memory())
    documents = [Document(id_=f"d{n}", text=f"Rule {n} is about trips.") for n in range(100)]
    index = MemRecallIndex.from_documents(documents, memory=memory, transformations=whole())
    assert len(compressed) == 100
    compressed.clear()
    changed = [*documents[:41], Document(id_="d41", text="Rule 41 is about lunch."), *documents[42:]]
    assert index.refresh_ref_docs(changed).count(True) == 1
    assert compressed == ["Rule 41 is about lunch."]
    index.update_ref_doc(Document(id_="d7", text="Rule 7 is void."))
    assert compressed == ["Rule 41 is about lunch.", "Rule 7 is void."]
    found = " ".join(node.get_content() for node in index.as_retriever(similarity_top_k=200).retrieve(QUESTION))
    assert "Rule 41 is about lunch." in found
    assert "Rule 41 is about trips." not in found
    assert "Rule 7 is about trips." not in found
    index.close()


@pytest.mark.parametrize("kept", ["temporary", "given", "lost"])
def test_a_stored_index_is_loaded_with_what_it_remembers(documents, tmp_path, kept):
    memory, compressed = counting(tiny_memory())
    bank = tmp_path / "bank" if kept == "given" else None
    index = MemRecallIndex.from_documents(documents, memory=memory, bank=bank, transformations=whole())
    index.delete_ref_doc("lunch", delete_from_docstore=True)
    index.persist(tmp_path / "stored")
    expected = recalled(index)
    index.close()
    compressed.clear()
    if kept == "lost":
        shutil.rmtree(tmp_path / "stored" / "memrecall_bank")
    storage = StorageContext.from_defaults(persist_dir=str(tmp_path / "stored"))
    loaded = load_index_from_storage(storage, memory=memory)
    assert isinstance(loaded, MemRecallIndex)
    assert recalled(loaded) == expected == {"travel", "limits", "lift"}
    assert len(compressed) == (3 if kept == "lost" else 0)
    loaded.insert(Document(id_="pets", text="Rui may bring a dog."))
    assert "pets" in recalled(loaded)
    loaded.close()


def test_a_bank_from_before_a_deletion_gives_back_nothing_deleted(memory, documents, tmp_path):
    index = MemRecallIndex.from_documents(documents, memory=memory, bank=tmp_path / "bank", transformations=whole())
    shutil.copytree(tmp_path / "bank", tmp_path / "old")
    index.delete_ref_doc("lunch", delete_from_docstore=True)
    index.persist(tmp_path / "stored")
    index.close()
    storage = StorageContext.from_defaults(persist_dir=str(tmp_path / "stored"))
    loaded = load_index_from_storage(storage, memory=memory, bank=tmp_path / "old")
    assert "lunch" not in recalled(loaded)
    loaded.close()


async def test_a_chat_condenses_or_talks_about_what_is_recalled(index):
    talk = {"llm": MockLLM(), "memory": ChatMemoryBuffer.from_defaults(token_limit=1000), "similarity_top_k": 1}
    chat = index.as_chat_engine(**talk)
    assert isinstance(chat, CondenseQuestionChatEngine)
    assert chat.chat(QUESTION).source_nodes
    chat = index.as_chat_engine(chat_mode=ChatMode.CONTEXT, **talk)
    assert isinstance(chat, ContextChatEngine)
    response = await chat.achat(QUESTION)
    assert len(response.source_nodes) == 1
    with pytest.raises(InputError, match="llm="):
        index.as_chat_engine()
    with pytest.raises(InputError, match="simple"):
        index.as_chat_engine(chat_mode=ChatMode.SIMPLE, llm=MockLLM())


def test_an_empty_index_says_that_it_found_nothing(memory):
    index = MemRecallIndex.from_documents([], memory=memory)
    response = index.as_query_engine().query(QUESTION)
    assert (response.response, response.source_nodes) == (memory.config.reasoner.not_found, [])
    index.close()


def test_an_unknown_option_is_refused(index):
    with pytest.raises(TypeError):
        index.as_query_engine(similarity_topk=3)
    with pytest.raises(TypeError):
        index.as_retriever(modle="typo")
