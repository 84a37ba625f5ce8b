"""Mistakes that are easy to make with LlamaIndex's base classes, one test each for every class that could make them."""

import pickle

import pytest
from llama_index.core import Settings, StorageContext, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import IndexNode, TextNode
from memrecall_kv.errors import InputError
from memrecall_kv.hosts import lazy
from pydantic import ValidationError

from llama_index_memrecall import (
    BackboneLLM,
    MemoryBlockEncoder,
    MemRecallIndex,
    MemRecallMemoryBlock,
    MemRecallPostprocessor,
    MemRecallQueryEngine,
    MemRecallRetriever,
)

QUESTION = "Who approves trips?"
DANA = "Dana approves trips."
MODELS = [BackboneLLM, MemoryBlockEncoder, MemRecallMemoryBlock, MemRecallPostprocessor]
NEED_A_BANK = [MemoryBlockEncoder, MemRecallQueryEngine, MemRecallRetriever]


def made(cls, **settings):
    return cls(**({"bank": "somewhere"} if cls in NEED_A_BANK else {}), **settings)


@pytest.mark.parametrize("cls", MODELS)
def test_a_mistyped_argument_is_refused(cls):
    with pytest.raises(ValidationError):
        made(cls, modle="typo")


@pytest.mark.parametrize("cls", [MemRecallIndex, MemRecallQueryEngine, MemRecallRetriever])
def test_a_mistyped_argument_of_a_plain_class_is_refused(cls):
    with pytest.raises(TypeError, match="modle"):
        cls([], modle="typo")


@pytest.mark.parametrize("cls", MODELS)
def test_no_setting_has_a_name_pydantic_reserves(cls):
    ours = set(cls.model_fields) - set(cls.__mro__[1].model_fields)
    assert not [name for name in ours if name.startswith("model_")]


@pytest.mark.parametrize("cls", MODELS)
def test_a_copy_through_pickle_has_the_settings_and_not_the_model(cls, memory):
    original = made(cls, memory=memory, name_or_path="some/model")
    again = pickle.loads(pickle.dumps(original))  # noqa: S301
    assert (again.memory, again.name_or_path) == (None, "some/model")


@pytest.mark.parametrize(
    ("cls", "setting"),
    [(MemoryBlockEncoder, "bank"), (MemRecallMemoryBlock, "bank"), (MemRecallPostprocessor, "cache_path")],
)
def test_a_copy_through_pickle_means_the_same_directory_elsewhere(cls, setting, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    original = cls(**{setting: "here"})
    (tmp_path / "other").mkdir()
    monkeypatch.chdir("other")
    again = pickle.loads(pickle.dumps(original))  # noqa: S301
    assert getattr(again, setting) == str(tmp_path.resolve() / "here")


@pytest.mark.parametrize("cls", [*MODELS, MemRecallQueryEngine, MemRecallRetriever])
def test_making_one_loads_no_model_before_it_is_needed(cls, monkeypatch):
    asked = []
    monkeypatch.setattr(lazy, "_load", lambda *args: asked.append(args))
    component = made(cls, name_or_path="some/model")
    assert asked == []
    if cls is MemRecallQueryEngine:
        component = component.retriever
    (component.lazy_memory if cls not in MODELS else component._memory).get()
    assert asked == [("some/model", "auto")]


async def test_no_route_reads_the_hosts_default_models(memory, documents):
    index = MemRecallIndex.from_documents(documents, memory=memory)
    engine = index.as_query_engine(top_k=2)
    engine.query(QUESTION)
    await engine.aquery(QUESTION)
    engine.synthesize(QUESTION, index.as_retriever(top_k=1).retrieve(QUESTION))
    assert (Settings._llm, Settings._embed_model) == (None, None)
    index.close()


@pytest.mark.parametrize("question", ["", "  \n"])
async def test_an_empty_question_is_refused_on_every_route(engine, question):
    for ask in (engine.query, engine.retrieve, engine.retriever.retrieve):
        with pytest.raises(InputError, match="question"):
            ask(question)
    with pytest.raises(InputError, match="question"):
        await engine.aquery(question)


def test_a_document_deleted_from_the_bank_is_gone_from_an_open_engine(memory, documents, tmp_path):
    engine = MemRecallQueryEngine.from_documents(documents, bank=tmp_path / "bank", memory=memory, top_k=9)
    assert any(DANA in source.get_content() for source in engine.query(QUESTION).source_nodes)
    with memory.open_bank(tmp_path / "bank") as bank:
        bank.delete("travel")
    assert not any(DANA in source.get_content() for source in engine.query(QUESTION).source_nodes)
    assert not any(DANA in source.get_content() for source in engine.retrieve(QUESTION))
    engine.close()


def test_what_the_hosts_index_deleted_is_not_recalled_out_of_a_cache(memory, documents, llm):
    index = VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=4))
    gate = MemRecallPostprocessor(memory=memory, top_n=9)
    hosts = index.as_retriever(similarity_top_k=9)
    behind = RetrieverQueryEngine.from_args(hosts, llm=llm, node_postprocessors=[gate])
    among = MemRecallQueryEngine.from_args(hosts, memory=memory, top_k=9)
    for asked in (behind, among):
        assert DANA in {source.get_content() for source in asked.query(QUESTION).source_nodes}
    index.delete_ref_doc("travel", delete_from_docstore=True)
    llm.prompts.clear()
    for asked in (behind, among):
        assert DANA not in {source.get_content() for source in asked.query(QUESTION).source_nodes}
    assert DANA not in llm.prompts[0]
    gate.close()
    among.close()


def test_a_renamed_index_still_deletes_from_its_bank(memory, documents, tmp_path):
    context = StorageContext.from_defaults()
    index = MemRecallIndex.from_documents(documents, memory=memory, bank=tmp_path / "bank", storage_context=context)
    index.set_index_id("handbook")
    index.delete_ref_doc("travel")
    with memory.open_bank(tmp_path / "bank", read_only=True) as bank:
        assert DANA not in {document.text for document in bank.documents()}
    index.close()


@pytest.mark.parametrize("make", [MemRecallIndex, MemRecallQueryEngine, MemRecallRetriever])
def test_a_with_statement_closes(make, memory, documents, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with make.from_documents(documents, memory=memory):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_verbose_tells_what_an_index_node_leads_to(memory, capsys):
    target = TextNode(id_="target", text="The handbook itself.")
    node = IndexNode(id_="index", text="A summary.", index_id="handbook", obj=target)
    with MemRecallIndex([], objects=[node], memory=memory) as index:
        index.as_query_engine(top_k=1, verbose=True).query(QUESTION)
        assert "entering handbook" in capsys.readouterr().out
        index.as_query_engine(top_k=1).query(QUESTION)
        assert capsys.readouterr().out == ""


def test_the_chat_engine_takes_what_the_engine_it_asks_takes(memory, documents, llm):
    class Drops(BaseNodePostprocessor):
        """Keeps nothing."""

        def _postprocess_nodes(self, nodes, query_bundle=None):
            return []

    with MemRecallIndex.from_documents(documents, memory=memory) as index:
        chat = index.as_chat_engine(
            "condense_question",
            llm=llm,
            similarity_top_k=2,
            node_postprocessors=[Drops()],
            gate_veto=False,
            # LlamaIndex 0.14.25 never closes the connection of its default one
            memory=ChatMemoryBuffer.from_defaults(token_limit=8000),
        )
        assert chat.chat(QUESTION).response == memory.config.reasoner.not_found
