import gc
import inspect

import pytest
from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.query_engine import RetrieverQueryEngine
from memrecall_kv import MemRecallConfig, ReasonerConfig
from memrecall_kv.backbone.kv import KVState
from memrecall_kv.testing import tiny_memory

from llama_index_memrecall import MemRecallQueryEngine, MemRecallRetriever

QUESTION = "Who approves trips?"


def ids(nodes):
    return [node.node_id for node in nodes]


def without_seconds(metadata):
    usage = metadata["usage"]
    stages = [{**stage, "seconds": 0.0} for stage in usage["stages"]]
    return {**metadata, "usage": {**usage, "seconds": 0.0, "stages": stages}, "trace": metadata["trace"]}


def test_a_stream_is_a_real_generator_and_knows_its_sources_first(streaming, engine):
    expected = engine.query(QUESTION)
    response = streaming.query(QUESTION)
    assert isinstance(response, StreamingResponse)
    assert inspect.isgenerator(response.response_gen)
    assert response.source_nodes == expected.source_nodes
    assert response.metadata.get("usage") is None
    assert "".join(response.response_gen) == expected.response
    assert without_seconds(response.metadata) == without_seconds(expected.metadata)


def test_a_stream_can_be_read_as_text(streaming, engine):
    expected = engine.query(QUESTION)
    assert str(streaming.query(QUESTION)) == str(expected)
    assert streaming.query(QUESTION).get_response().source_nodes == expected.source_nodes


async def test_an_async_stream_is_a_real_async_generator_and_knows_its_sources_first(streaming, engine):
    expected = engine.query(QUESTION)
    response = await streaming.aquery(QUESTION)
    assert isinstance(response, AsyncStreamingResponse)
    assert inspect.isasyncgen(response.response_gen)
    assert response.source_nodes == expected.source_nodes
    assert "".join([text async for text in response.async_response_gen()]) == expected.response
    assert without_seconds(response.metadata) == without_seconds(expected.metadata)
    assert (await (await streaming.aquery(QUESTION)).get_response()).response == expected.response


def test_the_end_of_a_stream_is_an_event_of_its_own(streaming, event_log):
    response = streaming.query(QUESTION)
    assert "QueryEndEvent" in event_log.names()
    assert "RecallFinishedEvent" not in event_log.names()
    text = str(response)
    (finished,) = event_log.of("RecallFinishedEvent")
    assert (finished.query, finished.response, finished.interrupted) == (QUESTION, text, False)
    assert (finished.blocks_opened, finished.generated_tokens) == (2, response.metadata["usage"]["generated_tokens"])


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_stream_nobody_reads_ends_as_interrupted_and_frees_the_model(streaming, event_log, how):
    response = streaming.query(QUESTION)
    event_log.events.clear()  # QueryEndEvent holds the response
    if how == "close":
        response.response_gen.close()
    del response
    gc.collect()
    (finished,) = event_log.of("RecallFinishedEvent")
    assert finished.interrupted
    assert str(streaming.query(QUESTION))


async def test_an_async_stream_left_early_ends_as_interrupted_and_frees_the_model(streaming, engine):
    response = await streaming.aquery(QUESTION)
    await response.response_gen.aclose()
    assert str(await engine.aquery(QUESTION))


def test_a_query_tells_both_of_the_hosts_channels(memory, documents, event_log):
    debug = LlamaDebugHandler(print_trace_on_end=False)
    engine = MemRecallQueryEngine.from_documents(
        documents, memory=memory, top_k=2, callback_manager=CallbackManager([debug])
    )
    response = engine.query(QUESTION)
    names = event_log.names()
    assert (names[0], names[-1], names[-2]) == ("QueryStartEvent", "QueryEndEvent", "RecallFinishedEvent")
    gated = event_log.of("BlockGatedEvent")
    assert {event.chunk_id for event in gated} >= set(ids(response.source_nodes))
    ((before, after),) = debug.get_event_pairs(CBEventType.QUERY)
    assert before.payload[EventPayload.QUERY_STR] == QUESTION
    assert after.payload[EventPayload.RESPONSE] is response
    engine.close()


def test_a_note_that_is_taken_is_an_event_of_its_own(scripted, documents, event_log):
    engine = MemRecallQueryEngine.from_documents(documents, memory=scripted, top_k=4)
    response = engine.query(QUESTION)
    (noted,) = event_log.of("WorkingMemoryUpdatedEvent")
    assert (noted.text, noted.chunk_id) == ("Dana approves.", "travel#0")
    assert noted.chunk_id in ids(response.source_nodes)
    engine.close()


async def test_retrieving_tells_both_of_the_hosts_channels(memory, documents, event_log, span_log):
    debug = LlamaDebugHandler(print_trace_on_end=False)
    engine = MemRecallQueryEngine.from_documents(
        documents, memory=memory, top_k=2, callback_manager=CallbackManager([debug])
    )
    sources = engine.retrieve(QUESTION)
    await engine.aretrieve(QUESTION)
    names = [name for name in event_log.names() if name.startswith("Retrieval")]
    assert names == ["RetrievalStartEvent", "RetrievalEndEvent"] * 2
    opened = [event.chunk_id for event in event_log.of("BlockOpenedEvent")]
    assert opened == ids(sources) * 2
    assert set(opened) <= {event.chunk_id for event in event_log.of("BlockGatedEvent")}
    assert ids(event_log.of("RetrievalEndEvent")[0].nodes) == ids(sources)
    assert len(debug.get_event_pairs(CBEventType.RETRIEVE)) == 2
    names = {span.id_.split("-")[0] for span in span_log.completed_spans}
    assert names >= {"MemRecallQueryEngine.retrieve", "MemRecallQueryEngine.aretrieve"}
    engine.close()


@pytest.mark.parametrize("with_llm", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("route", ["sync", "async"])
async def test_a_query_tells_what_the_hosts_query_engine_tells(
    memory, documents, llm, event_log, span_log, with_llm, streaming, route
):
    async def ask(engine):
        event_log.events.clear()
        span_log.completed_spans.clear()
        response = engine.query(QUESTION) if route == "sync" else await engine.aquery(QUESTION)
        assert len(response.source_nodes) == 2
        if streaming and route == "async":
            await response.get_response()
        elif streaming:
            response.get_response()
        hosts = [name for name in event_log.names() if name.startswith(("Query", "Retrieval", "Synthesize"))]
        (retrieved,) = event_log.of("RetrievalEndEvent")
        assert ids(retrieved.nodes) == ids(response.source_nodes)
        return hosts, sum("etriev" in span.id_.split("-")[0].split(".")[1] for span in span_log.completed_spans)

    options = {"memory": memory, "top_k": 2}
    retriever = MemRecallRetriever.from_documents(documents, **options)
    theirs = RetrieverQueryEngine.from_args(retriever, llm=llm, streaming=streaming)
    debug = LlamaDebugHandler(print_trace_on_end=False)
    ours = MemRecallQueryEngine.from_documents(
        documents,
        llm=llm if with_llm else None,
        streaming=streaming,
        callback_manager=CallbackManager([debug]),
        **options,
    )
    assert await ask(ours) == await ask(theirs)
    for kind in (CBEventType.QUERY, CBEventType.RETRIEVE, CBEventType.SYNTHESIZE):
        assert len(debug.get_event_pairs(kind)) == 1
    ours.close()
    retriever.close()


async def test_events_of_the_worker_thread_belong_to_the_query_that_caused_them(engine, event_log):
    await engine.aquery(QUESTION)
    expected = {
        "BlockGatedEvent": "MemRecallRetriever._aretrieve",
        "RecallFinishedEvent": "MemRecallQueryEngine._aquery",
        "LLMCompletionEndEvent": "ReasonerSynthesizer.aget_response",
    }
    for name, span in expected.items():
        assert {event.span_id.split("-")[0] for event in event_log.of(name)} == {span}


def test_the_end_of_a_stream_belongs_to_the_query_that_started_it(streaming, event_log):
    list(streaming.query(QUESTION).response_gen)
    (finished,) = event_log.of("RecallFinishedEvent")
    assert finished.span_id.split("-")[0] == "MemRecallQueryEngine._query"


@pytest.mark.parametrize("route", ["sync", "async"])
async def test_leaving_a_stream_frees_what_the_model_had_read(memory, documents, route, workers_are_gone):
    wordy = tiny_memory(MemRecallConfig(**{**dict(memory.config), "reasoner": ReasonerConfig(max_answer_tokens=2000)}))
    engine = MemRecallQueryEngine.from_documents(documents, memory=wordy, top_k=2, streaming=True)
    engine.retrieve(QUESTION)
    before = states()
    if route == "sync":
        response = engine.query(QUESTION)
        held = states() - before
        response.response_gen.close()
    else:
        response = await engine.aquery(QUESTION)
        held = states() - before
        await response.response_gen.aclose()
        await workers_are_gone()  # each leaves after the token it is at
    assert held == 1
    assert states() == before
    engine.close()


def states():
    gc.collect()
    return sum(type(thing) is KVState for thing in gc.get_objects())
