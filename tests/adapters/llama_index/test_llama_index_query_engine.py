import asyncio
import copy
import gc
import json

import pytest
from llama_index.core import Document, Settings
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import Response
from llama_index.core.evaluation import BaseEvaluator, BatchEvalRunner, EvaluationResult
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import CustomQueryEngine
from llama_index.core.schema import (
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.tools import QueryEngineTool
from memrecall_kv.errors import BankError, InputError
from memrecall_kv.testing import ScriptedReasoner, tiny_memory

from llama_index_memrecall import MemRecallQueryEngine

QUESTION = "Who approves trips?"


def ids(nodes):
    return [node.node_id for node in nodes]


def without_seconds(metadata):
    usage = metadata["usage"]
    stages = [{**stage, "seconds": 0.0} for stage in usage["stages"]]
    return {**metadata, "usage": {**usage, "seconds": 0.0, "stages": stages}, "trace": metadata["trace"]}


def test_it_is_a_query_engine_of_the_kind_that_emits_events():
    assert issubclass(MemRecallQueryEngine, BaseQueryEngine)
    assert not issubclass(MemRecallQueryEngine, CustomQueryEngine)


def test_the_response_has_text_sources_cost_and_every_decision(engine, documents):
    response = engine.query(QUESTION)
    texts = {document.id_: document for document in documents}
    assert isinstance(response, Response)
    assert response.response
    assert len(response.source_nodes) == 2
    for source in response.source_nodes:
        document = texts[source.node.ref_doc_id]
        assert source.get_content() == document.text
        assert source.metadata == document.metadata
        assert (source.node.start_char_idx, source.node.end_char_idx) == (0, len(document.text))
        assert 0.0 <= source.score <= 1.0
        assert response.metadata[source.node_id] == source.metadata
    assert response.metadata["usage"]["blocks_opened"] == 2
    opened = [step["chunk_id"] for step in response.metadata["trace"] if step["opened"]]
    assert opened == ids(response.source_nodes)
    assert texts[response.source_nodes[0].node.ref_doc_id].text in response.get_formatted_sources()


def test_what_an_answer_cost_is_kept_apart_from_the_nodes_metadata(engine, documents):
    metadata = engine.query(QUESTION).metadata
    assert [nodes["team"] for nodes in metadata.values()] == [nodes.get("team") for _, nodes in metadata.items()]
    assert len(metadata) == 2
    assert not {"usage", "trace"} & set(metadata)
    assert metadata.get("usage") == metadata["usage"]
    assert metadata.get("nothing") is None
    with pytest.raises(KeyError):
        metadata["nothing"]
    assert set(json.loads(json.dumps(metadata))) == set(metadata)


def test_a_question_may_come_as_text_or_bundle(engine):
    expected = engine.query(QUESTION)
    bundled = engine.query(QueryBundle(QUESTION))
    assert (bundled.response, bundled.source_nodes) == (expected.response, expected.source_nodes)
    assert engine.retrieve(QueryBundle(QUESTION)) == engine.retrieve(QUESTION) == expected.source_nodes


async def test_the_async_routes_give_what_the_sync_ones_give(engine):
    expected = engine.query(QUESTION)
    response = await engine.aquery(QUESTION)
    assert (response.response, response.source_nodes) == (expected.response, expected.source_nodes)
    assert without_seconds(response.metadata) == without_seconds(expected.metadata)
    assert await engine.aretrieve(QueryBundle(QUESTION)) == expected.source_nodes


async def test_concurrent_questions_get_the_answers_they_get_alone(engine):
    questions = [QUESTION, "When is lunch?", "What is broken?"]
    alone = [str(engine.query(question)) for question in questions]
    assert [str(answer) for answer in await asyncio.gather(*map(engine.aquery, questions))] == alone


def test_nodes_come_back_as_they_went_in(memory, nodes):
    nodes[0].relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id="handbook")
    before = copy.deepcopy(nodes)
    engine = MemRecallQueryEngine.from_nodes(nodes, memory=memory, top_k=4)
    sources = engine.retrieve(QUESTION)
    assert nodes == before
    assert sorted(ids(sources)) == sorted(ids(nodes))
    for source in sources:
        original = next(node for node in nodes if node.node_id == source.node_id)
        assert source.node == original
        assert source.node.hash == original.hash
        assert source.get_content(MetadataMode.LLM) == original.get_content(MetadataMode.LLM)
    engine.close()


def test_nodes_of_every_kind_come_back_as_their_kind(memory):
    given = [
        ImageNode(id_="image", text="A photo of Dana.", image="aGk=", image_mimetype="image/png"),
        IndexNode(id_="index", text="A summary of the handbook.", index_id="handbook"),
        Node(id_="multi", text_resource=MediaResource(text="Dana approves trips.")),
    ]
    engine = MemRecallQueryEngine.from_nodes(given, memory=memory, top_k=3)
    back = {source.node_id: source.node for source in engine.retrieve(QUESTION)}
    assert (type(back["image"]), back["image"].image) == (ImageNode, "aGk=")
    assert (type(back["index"]), back["index"].index_id) == (IndexNode, "handbook")
    assert (type(back["multi"]), back["multi"].get_content()) == (Node, "Dana approves trips.")
    engine.close()


def test_a_node_longer_than_a_chunk_comes_back_once_and_whole(memory):
    text = " ".join(f"Sentence number {number} is about trips." for number in range(20))
    engine = MemRecallQueryEngine.from_nodes([TextNode(id_="long", text=text)], memory=memory, top_k=5)
    (source,) = engine.retrieve(QUESTION)
    assert (source.node_id, source.get_content(), source.metadata) == ("long", text, {})
    engine.close()


def test_a_document_longer_than_a_chunk_comes_back_in_its_chunks(memory):
    text = " ".join(f"Sentence number {number} is about trips." for number in range(20))
    engine = MemRecallQueryEngine.from_documents([Document(id_="long", text=text)], memory=memory, top_k=3)
    sources = engine.retrieve(QUESTION)
    assert len(set(ids(sources))) == 3
    for source in sources:
        assert source.node.ref_doc_id == "long"
        assert source.get_content() == text[source.node.start_char_idx : source.node.end_char_idx]
    engine.close()


def test_what_has_no_text_is_left_out_and_forgets_what_it_said_before(memory, documents, tmp_path):
    path = tmp_path / "bank"
    MemRecallQueryEngine.from_documents(documents, bank=path, memory=memory).close()
    blank = [Document(id_="lunch", text=" \n"), Document(id_="blank", text="")]
    image = ImageNode(id_="image", image_url="https://example.org/a.png")
    engine = MemRecallQueryEngine.from_nodes([*blank, image], bank=path, memory=memory, top_k=9)
    assert {source.node.ref_doc_id for source in engine.retrieve(QUESTION)} == {"travel", "limits", "lift"}
    engine.close()


def test_two_texts_under_one_id_are_refused(memory):
    clash = [Document(id_="a", text="One."), Document(id_="a", text="Two.")]
    with pytest.raises(InputError, match="'a'"):
        MemRecallQueryEngine.from_documents(clash, memory=memory)


def test_a_document_that_changed_replaces_what_it_said(memory, documents, tmp_path):
    path = tmp_path / "bank"
    MemRecallQueryEngine.from_documents(documents, bank=path, memory=memory).close()
    changed = Document(id_="travel", text="Rui approves trips.", metadata={"team": "board"})
    engine = MemRecallQueryEngine.from_documents([changed], bank=path, memory=memory, top_k=9)
    sources = {source.node.ref_doc_id: source for source in engine.retrieve(QUESTION)}
    assert sources["travel"].get_content() == "Rui approves trips."
    assert sources["travel"].metadata["team"] == "board"
    assert len(sources) == 4
    engine.close()


def test_a_bank_filled_before_is_asked_by_path_or_open(memory, documents, tmp_path):
    path = tmp_path / "bank"
    first = MemRecallQueryEngine.from_documents(documents, bank=path, memory=memory, top_k=2)
    expected = first.query(QUESTION)
    first.close()
    by_path = MemRecallQueryEngine.from_bank(path, memory=memory, top_k=2)
    assert by_path.query(QUESTION).source_nodes == expected.source_nodes
    by_path.close()
    with memory.open_bank(path, read_only=True) as bank:
        given = MemRecallQueryEngine.from_bank(bank, memory=memory, top_k=2)
        assert str(given.query(QUESTION)) == str(expected)
        given.close()
        assert len(bank) == 4


def test_a_bank_filled_without_llama_index_gives_chunks_with_their_document(memory, tmp_path):
    from memrecall_kv import Document as CoreDocument

    with memory.open_bank(tmp_path / "bank") as bank:
        memory.ingest(bank, [CoreDocument(id="a", text="Dana approves trips.", metadata={"team": "finance"})])
        (source,) = MemRecallQueryEngine.from_bank(bank, memory=memory, top_k=1).retrieve(QUESTION)
    assert (source.node_id, source.node.ref_doc_id, source.metadata["team"]) == ("a#0", "a", "finance")


def test_from_bank_loads_nothing_before_the_first_question(tmp_path):
    MemRecallQueryEngine.from_bank(tmp_path / "nowhere", name_or_path="no/such/model")
    assert not (tmp_path / "nowhere").exists()


def test_an_empty_bank_gets_an_answer_without_sources(memory):
    engine = MemRecallQueryEngine.from_documents([], memory=memory)
    response = engine.query(QUESTION)
    assert response.response
    assert response.source_nodes == []
    assert response.metadata["usage"]["blocks_opened"] == 0
    engine.close()


def test_a_temporary_bank_goes_with_its_engine(memory, documents, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engine = MemRecallQueryEngine.from_documents(documents, memory=memory)
    assert len(list(tmp_path.iterdir())) == 1
    engine.close()
    assert list(tmp_path.iterdir()) == []
    engine = MemRecallQueryEngine.from_documents(documents, memory=memory)
    del engine
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_without_top_k_the_settings_decide(documents, open_only):
    judged = documents[3].get_content(MetadataMode.EMBED)
    engine = MemRecallQueryEngine.from_documents(documents, memory=open_only(len(judged)))
    assert [source.node.ref_doc_id for source in engine.query(QUESTION).source_nodes] == ["lift"]
    engine.close()


def test_an_answer_that_says_nothing_is_the_not_found_answer(documents):
    memory = tiny_memory(reasoner=ScriptedReasoner({}, lambda question, notes: "Nothing relevant."))
    engine = MemRecallQueryEngine.from_documents(documents, memory=memory, top_k=1)
    response = engine.query(QUESTION)
    assert (response.response, response.metadata["quotes"]) == (memory.config.reasoner.not_found, [])
    engine.close()


def test_a_temporary_bank_that_was_closed_is_not_mistaken_for_an_empty_one(memory, documents):
    engine = MemRecallQueryEngine.from_documents(documents, memory=memory)
    engine.close()
    with pytest.raises(BankError):
        engine.query(QUESTION)


def test_an_engine_does_not_keep_others_from_writing(memory, documents, tmp_path):
    engine = MemRecallQueryEngine.from_documents(documents[:2], bank=tmp_path / "bank", memory=memory, top_k=9)
    assert len(engine.retrieve(QUESTION)) == 2
    MemRecallQueryEngine.from_documents(documents[2:], bank=tmp_path / "bank", memory=memory).close()
    assert len(engine.retrieve(QUESTION)) == 4
    engine.close()


def test_it_has_no_prompts_and_says_so_instead_of_ignoring_them(engine):
    assert engine.get_prompts() == {}
    engine.update_prompts({})
    with pytest.raises(InputError, match="reason"):
        engine.update_prompts({"reason": PromptTemplate("{question}")})


async def test_the_hosts_default_models_are_never_asked_for(engine):
    engine.query(QUESTION)
    await engine.aquery(QUESTION)
    engine.retrieve(QUESTION)
    assert (Settings._llm, Settings._embed_model) == (None, None)


@pytest.mark.parametrize("options", [{"similarity_top_k": 3}, {"modle": "typo"}])
def test_an_unknown_option_is_refused(memory, options):
    with pytest.raises(TypeError):
        MemRecallQueryEngine.from_documents([], memory=memory, **options)


async def test_an_error_of_the_core_passes_through_every_route(memory, tmp_path, event_log):
    engine = MemRecallQueryEngine.from_bank(tmp_path / "nowhere", memory=memory)
    with pytest.raises(BankError):
        engine.query(QUESTION)
    with pytest.raises(BankError):
        await engine.aquery(QUESTION)
    with pytest.raises(BankError):
        engine.retrieve(QUESTION)
    with pytest.raises(BankError):
        await engine.aretrieve(QUESTION)
    assert all(event.interrupted for event in event_log.of("RecallFinishedEvent"))


def test_sources_survive_being_a_tool(engine):
    tool = QueryEngineTool.from_defaults(engine, name="handbook", description="Answers about the handbook.")
    output = tool.call(QUESTION)
    assert ids(output.raw_output.source_nodes) == ids(engine.query(QUESTION).source_nodes)


class HasReadableSources(BaseEvaluator):
    """Passes a response whose sources can be read."""

    def _get_prompts(self):
        return {}

    def _update_prompts(self, prompts):
        pass

    async def aevaluate(self, query=None, response=None, contexts=None, **kwargs):
        return EvaluationResult(query=query, response=response, passing=bool(response) and all(contexts))


# LlamaIndex 0.14.25 calls a function of its own that it deprecates: llama_index/core/evaluation/batch_runner.py.
@pytest.mark.filterwarnings("ignore:asyncio_module:DeprecationWarning")
async def test_the_hosts_batch_evaluation_runs_on_it(engine):
    runner = BatchEvalRunner({"readable": HasReadableSources()}, workers=2)
    results = await runner.aevaluate_queries(engine, queries=[QUESTION, "When is lunch?"])
    assert [result.passing for result in results["readable"]] == [True, True]


def test_no_answer_writes_to_the_documents(memory, documents):
    before = copy.deepcopy(documents)
    engine = MemRecallQueryEngine.from_documents(documents, memory=memory, top_k=4)
    for source in engine.query(QUESTION).source_nodes:
        assert isinstance(source, NodeWithScore)
        source.metadata["later"] = "stage"
    assert documents == before
    engine.close()
