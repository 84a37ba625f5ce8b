"""Compression as a step of LlamaIndex's ingestion pipeline."""

import asyncio
import pickle

import pytest
from llama_index.core import Document
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import TokenTextSplitter
from llama_index.core.schema import ImageNode, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore
from memrecall_kv.errors import FingerprintMismatchError, InputError
from memrecall_kv.testing import tiny_backbone, tiny_memory
from patience import PATIENCE
from pydantic import ValidationError

from llama_index_memrecall import MemoryBlockEncoder, MemRecallQueryEngine

QUESTION = "Who approves trips?"


@pytest.fixture
def encoder(memory, tmp_path):
    return MemoryBlockEncoder(bank=str(tmp_path / "bank"), memory=memory)


@pytest.fixture
def following(memory, tmp_path):
    """An encoder that knows its pipeline's docstore."""
    return MemoryBlockEncoder(bank=str(tmp_path / "bank"), docstore=SimpleDocumentStore(), memory=memory)


def pipeline(encoder, strategy=DocstoreStrategy.UPSERTS):
    return IngestionPipeline(
        transformations=[TokenTextSplitter(chunk_size=40, chunk_overlap=0), encoder, MockEmbedding(embed_dim=2)],
        docstore=encoder.docstore or SimpleDocumentStore(),
        docstore_strategy=strategy,
        vector_store=SimpleTextStore(),  # without one LlamaIndex falls back to another strategy
    )


class SimpleTextStore(SimpleVectorStore):
    """LlamaIndex's store; a pipeline takes only one that says it keeps text."""

    stores_text: bool = True


def recalled(encoder):
    engine = MemRecallQueryEngine.from_bank(encoder.bank, memory=encoder.memory, top_k=99)
    found = {source.get_content() for source in engine.query(QUESTION).source_nodes}
    assert found == {source.get_content() for source in engine.retrieve(QUESTION)}
    engine.close()
    return found


def long(about):
    return " ".join(f"Sentence number {number} is about the {about} of the staff." for number in range(12))


def test_nodes_pass_through_as_they_came_and_can_be_asked(encoder, nodes, memory):
    before = [node.model_copy(deep=True) for node in nodes]
    assert encoder(nodes) == nodes == before
    engine = MemRecallQueryEngine.from_bank(encoder.bank, memory=memory, top_k=9)
    assert {source.node_id for source in engine.query(QUESTION).source_nodes} == {node.node_id for node in nodes}
    engine.close()


@pytest.mark.parametrize("route", ["sync", "async"])
async def test_with_upserts_only_what_changed_is_compressed_and_the_old_text_is_gone(encoder, compressions, route):
    ingestion = pipeline(encoder)

    async def run(*documents):
        if route == "sync":
            ingestion.run(documents=list(documents))
        else:
            await ingestion.arun(documents=list(documents))

    stable = [Document(id_=f"d{number}", text=f"Room {number} is free.") for number in range(5)]
    await run(Document(id_="long", text=long("trips")), *stable)
    assert any("trips" in text for text in recalled(encoder))
    first = len(compressions)
    await run(Document(id_="long", text=long("trips")), *stable)
    assert len(compressions) == first
    await run(Document(id_="long", text="Rui approves all."), *stable)
    assert compressions[first:] == ["Rui approves all."]
    assert recalled(encoder) == {"Rui approves all.", *(document.text for document in stable)}
    await run(Document(id_="long", text=long("trips")), *stable)
    assert any("trips" in text for text in recalled(encoder))
    assert "Rui approves all." not in recalled(encoder)


def test_a_cached_result_of_the_pipeline_does_not_leave_the_bank_empty(encoder, nodes):
    ingestion = IngestionPipeline(transformations=[encoder])
    ingestion.run(nodes=nodes)
    for _ in range(2):
        for node in nodes:
            encoder.delete_ref_doc(node.node_id)
        assert recalled(encoder) == set()
        ingestion.run(nodes=nodes)
        assert len(recalled(encoder)) == 4


def test_a_document_can_be_deleted(encoder):
    pipeline(encoder).run(documents=[Document(id_="long", text=long("trips")), Document(id_="b", text="Other.")])
    encoder.delete_ref_doc("long")
    encoder.delete_ref_doc("nobody")
    assert recalled(encoder) == {"Other."}


def test_what_a_pipeline_deletes_from_its_docstore_is_pruned(encoder):
    ingestion = pipeline(encoder, DocstoreStrategy.UPSERTS_AND_DELETE)
    ingestion.run(documents=[Document(id_="long", text=long("trips")), Document(id_="b", text="Other.")])
    ingestion.run(documents=[Document(id_="b", text="Other.")])
    encoder.prune(ingestion.docstore)
    assert recalled(encoder) == {"Other."}


@pytest.mark.parametrize("route", ["sync", "async"])
async def test_with_the_pipelines_docstore_what_it_deletes_is_gone_at_once(following, route):
    ingestion = pipeline(following, DocstoreStrategy.UPSERTS_AND_DELETE)
    for documents in (["long", "b", "c"], ["b", "c"], ["b", "d"]):
        batch = [Document(id_=name, text=long("trips") if name == "long" else f"Text {name}.") for name in documents]
        if route == "sync":
            ingestion.run(documents=batch)
        else:
            await ingestion.arun(documents=batch)
        if "long" not in documents:
            assert recalled(following) == {f"Text {name}." for name in documents}


@pytest.mark.parametrize("how", ["prune", "next run"])
def test_a_document_that_became_blank_goes_with_the_next_run_or_when_pruned(following, how):
    ingestion, other = pipeline(following), Document(id_="b", text="Other.")
    ingestion.run(documents=[Document(id_="long", text=long("trips")), other])
    ingestion.run(documents=[Document(id_="long", text=" \n"), other])  # a splitter makes no node of it
    if how == "prune":
        following.prune(ingestion.docstore)
    else:
        ingestion.run(documents=[other])
    assert recalled(following) == {"Other."}


def test_a_docstore_that_keeps_no_text_still_knows_its_documents(following):
    ingestion = pipeline(following)
    for name in "abc":
        ingestion.run(documents=[Document(id_=name, text=f"Text {name}.")], store_doc_text=False)
    following.prune(ingestion.docstore)
    assert recalled(following) == {"Text a.", "Text b.", "Text c."}


def test_a_node_that_became_empty_forgets_what_it_said(encoder, nodes):
    encoder(nodes)
    encoder([TextNode(id_="node-travel", text=" "), ImageNode(id_="image", image_url="https://example.org/a.png")])
    assert len(recalled(encoder)) == 3
    assert "Dana approves trips." not in recalled(encoder)


def test_what_others_put_into_the_bank_stays(encoder, documents, memory):
    MemRecallQueryEngine.from_documents(documents, bank=encoder.bank, memory=memory).close()
    encoder([TextNode(id_="new", text="Rui approves budgets.")])
    encoder.prune(SimpleDocumentStore())
    assert recalled(encoder) == {document.text for document in documents}


def test_bad_nodes_and_banks_are_refused(encoder, memory):
    assert encoder([]) == []
    with pytest.raises(InputError, match="'a'"):
        encoder([TextNode(id_="a", text="One."), TextNode(id_="a", text="Two.")])
    other = MemoryBlockEncoder(bank=encoder.bank, memory=tiny_memory(backbone=tiny_backbone(seed=1)))
    with pytest.raises(FingerprintMismatchError):
        other([TextNode(text="One.")])


def test_settings_survive_a_round_trip_and_typos_are_refused(encoder):
    encoder.docstore = SimpleDocumentStore()
    data = encoder.to_dict()
    assert not {"memory", "docstore"} & set(data)
    assert MemoryBlockEncoder.from_dict(data).bank == encoder.bank
    assert pickle.loads(pickle.dumps(encoder)).bank == encoder.bank  # noqa: S301
    for wrong in ({}, {"bank": "b", "modle": "typo"}, {"bank": "b", "docstore": {}}):
        with pytest.raises(ValidationError):
            MemoryBlockEncoder(**wrong)


async def test_the_loop_goes_on_while_the_encoder_compresses(encoder, waiting_compressor):
    entered, go = waiting_compressor
    task = asyncio.create_task(encoder.acall([TextNode(text="Rui approves hires.")]))
    assert await asyncio.to_thread(entered.wait, PATIENCE)
    assert not task.done()
    go.set()
    await task
