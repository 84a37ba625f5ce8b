import asyncio
import time

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.evaluation import RetrieverEvaluator
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.schema import IndexNode, QueryBundle, TextNode
from llama_index.core.tools import RetrieverTool
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from memrecall_kv.errors import BankError, FingerprintMismatchError, InputError
from memrecall_kv.testing import tiny_backbone, tiny_memory

from llama_index_memrecall import MemRecallQueryEngine, MemRecallRetriever

QUESTION = "Who approves trips?"


def ids(nodes):
    return [node.node_id for node in nodes]


@pytest.fixture
def path(memory, nodes, tmp_path):
    MemRecallQueryEngine.from_nodes(nodes, bank=tmp_path / "bank", memory=memory).close()
    return tmp_path / "bank"


@pytest.fixture
def retriever(memory, path):
    retriever = MemRecallRetriever(path, memory=memory, top_k=2)
    yield retriever
    retriever.close()


async def test_it_retrieves_what_the_engine_recalls(retriever, memory, path):
    engine = MemRecallQueryEngine.from_bank(path, memory=memory, top_k=2)
    expected = engine.retrieve(QUESTION)
    assert isinstance(retriever, BaseRetriever)
    assert retriever.retrieve(QUESTION) == expected
    assert await retriever.aretrieve(QueryBundle(QUESTION)) == expected
    assert [node.metadata["recall_step"] for node in expected] == [0, 1]
    engine.close()


def test_a_threshold_retrieves_what_passes_it(open_only, nodes, tmp_path):
    memory = open_only(17)
    MemRecallQueryEngine.from_nodes(nodes, bank=tmp_path / "bank", memory=memory).close()
    retriever = MemRecallRetriever(tmp_path / "bank", memory=memory)
    assert ids(retriever.retrieve(QUESTION)) == ["node-lunch"]
    retriever.close()


def test_filters_restrict_it_and_may_match_nothing(memory, path):
    for team, expected in (("kitchen", ["node-lunch"]), ("nobody", [])):
        filters = MetadataFilters(filters=[MetadataFilter(key="team", value=team)])
        retriever = MemRecallRetriever(path, memory=memory, top_k=3, filters=filters)
        assert ids(retriever.retrieve(QUESTION)) == expected
        retriever.close()


async def test_both_of_the_hosts_channels_are_told(path, memory, event_log, span_log):
    debug = LlamaDebugHandler(print_trace_on_end=False)
    retriever = MemRecallRetriever(path, memory=memory, top_k=1, callback_manager=CallbackManager([debug]))
    retriever.retrieve(QUESTION)
    await retriever.aretrieve(QUESTION)
    assert event_log.names().count("RetrievalEndEvent") == 2
    assert len(debug.get_event_pairs(CBEventType.RETRIEVE)) == 2
    spans = [span.id_.rsplit("-", 5)[0] for span in span_log.completed_spans]
    assert "MemRecallRetriever._aretrieve" in spans
    retriever.close()


async def test_the_async_route_does_not_block_the_loop(waiting, documents, tmp_path):
    memory, gate, _ = waiting
    gate.go.set()
    MemRecallQueryEngine.from_documents(documents, bank=tmp_path / "bank", memory=memory).close()
    gate.go.clear()
    retriever = MemRecallRetriever(tmp_path / "bank", memory=memory, top_k=1)
    asked = asyncio.create_task(retriever.aretrieve(QUESTION))
    deadline = time.monotonic() + 20
    while not gate.entered.is_set():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    gate.go.set()
    assert len(await asked) == 1
    retriever.close()


def test_an_index_node_is_entered(memory, tmp_path):
    node = IndexNode(id_="index", text="The handbook of trips.", index_id="handbook")
    MemRecallQueryEngine.from_nodes([node], bank=tmp_path / "bank", memory=memory).close()
    inner = TextNode(id_="inner", text="Dana approves trips.")
    retriever = MemRecallRetriever(tmp_path / "bank", memory=memory, top_k=1, object_map={"handbook": inner})
    assert ids(retriever.retrieve(QUESTION)) == ["inner"]
    retriever.close()


def test_it_works_in_the_hosts_query_engine(retriever):
    synthesizer = get_response_synthesizer(response_mode="compact", llm=MockLLM())
    response = RetrieverQueryEngine(retriever, synthesizer).query(QUESTION)
    assert ids(response.source_nodes) == ids(retriever.retrieve(QUESTION))
    assert all(node.get_content() in response.response for node in response.source_nodes)


def test_it_works_as_a_tool(retriever):
    tool = RetrieverTool.from_defaults(retriever, name="handbook", description="Finds passages of the handbook.")
    assert ids(tool.call(QUESTION).raw_output) == ids(retriever.retrieve(QUESTION))


async def test_the_hosts_evaluation_finds_the_nodes_by_their_ids(retriever):
    expected = ids(retriever.retrieve(QUESTION))
    evaluator = RetrieverEvaluator.from_metric_names(["hit_rate", "mrr"], retriever=retriever)
    result = await evaluator.aevaluate(QUESTION, expected_ids=[expected[1]])
    assert result.metric_vals_dict == {"hit_rate": 1.0, "mrr": 0.5}


def test_mistakes_are_refused(memory, path, tmp_path):
    with pytest.raises(BankError):
        MemRecallRetriever(tmp_path / "nowhere", memory=memory).retrieve(QUESTION)
    with pytest.raises(FingerprintMismatchError):
        MemRecallRetriever(path, memory=tiny_memory(backbone=tiny_backbone(seed=1))).retrieve(QUESTION)
    with pytest.raises(InputError):
        MemRecallRetriever(path, memory=memory, top_k=0).retrieve(QUESTION)
    with pytest.raises(InputError):
        MemRecallRetriever(path, memory=memory).retrieve(" ")
    with pytest.raises(TypeError):
        MemRecallRetriever(path, memory=memory, similarity_top_k=3)
